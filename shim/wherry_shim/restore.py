# SPDX-License-Identifier: Apache-2.0
"""Start of a container that was created from a checkpoint: the program that the monitor runs in place of a helper (MONITOR_RESTORE).

It has the container's stdio, makes the container as `wherry restore` does, tells the monitor on descriptor 3, and ends: the first process, its child until
then, is the monitor's. A server that loads none of this stays small: CRIU's messages need the protobuf library.

argv[1] is JSON: root, id, bundle, image_path, work_path, pid_file, no_pivot, no_new_keyring, systemd.
"""

import json
import socket
import sys
from pathlib import Path
from typing import Any

from wherry.container.criu.restore import RestoreOptions, bring_back
from wherry.container.options import CreateOptions
from wherry.errors import WherryError
from wherry_shim import monitor

ANSWER = 3


def main() -> None:
    with socket.socket(fileno=ANSWER) as answer:
        try:
            kind, pid, fds, texts = _restored(json.loads(sys.argv[1]))
        except (WherryError, OSError) as error:
            text = error.sentence() if isinstance(error, WherryError) else str(error)
            kind, pid, fds, texts = monitor.FAILED, 0, {}, {"meta": text.encode(errors="replace")[: monitor.MAX_META - 1]}
        data, numbers = monitor.packet(kind, pid=pid, texts=texts, fds=fds)
        socket.send_fds(answer, [data], numbers)


def _restored(given: dict[str, Any]) -> tuple[int, int, dict[str, int], dict[str, bytes]]:
    create = CreateOptions(given["root"], given["id"], given["bundle"])
    create.attached = create.console_as_is = True  # the terminal's master comes to us
    create.no_pivot, create.no_new_keyring = given["no_pivot"], given["no_new_keyring"]
    if given["systemd"]:
        create.cgroup_manager = "systemd"
    create.pid_file = given["pid_file"]
    options = RestoreOptions(given["root"], given["id"], Path(given["image_path"]), Path(given["work_path"]))
    # Nobody says with which of these it was dumped, and none of them harms where there is nothing of the kind
    options.tcp_established = options.ext_unix_sk = options.file_locks = True
    _, made = bring_back(options, create)
    fds = {"process": made.take_pidfd(), "master": made.take_console()}
    pid = made.pid
    made.close()  # the lock: whoever hears of it may kill it
    return monitor.MADE, pid, fds, {}


if __name__ == "__main__":
    main()
