# SPDX-License-Identifier: Apache-2.0
"""wherry checkpoint ID"""

from pathlib import Path
from typing import Any

from wherry.cli import Call
from wherry.cli.arguments import BOOL, MANY, NUMBER, TEXT
from wherry.container.criu.checkpoint import CheckpointOptions, checkpoint
from wherry.container.options import absolute
from wherry.errors import UsageError

COMMON: dict[str, int | str] = {
    "image-path": TEXT,
    "work-path": TEXT,
    "tcp-established": BOOL,
    "ext-unix-sk": BOOL,
    "shell-job": BOOL,
    "lazy-pages": BOOL,
    "file-locks": BOOL,
    "auto-dedup": BOOL,
    "manage-cgroups-mode": TEXT,
    "empty-ns": MANY,
}
FLAGS: dict[str, int | str] = {
    **COMMON,
    "parent-path": TEXT,
    "leave-running": BOOL,
    "tcp-skip-in-flight": BOOL,
    "link-remap": BOOL,
    "pre-dump": BOOL,
    "status-fd": NUMBER,
    "page-server": TEXT,
}


def run(call: Call) -> int:
    (id,) = call.positional(1, 1)
    flags = call.flags
    parent = flags.text("parent-path")
    checkpoint(
        CheckpointOptions(
            **common(call, id),
            parent_path=Path(parent) if parent else None,
            leave_running=flags.on("leave-running"),
            tcp_skip_in_flight=flags.on("tcp-skip-in-flight"),
            link_remap=flags.on("link-remap"),
            pre_dump=flags.on("pre-dump"),
            status_fd=flags.number("status-fd") if flags.given("status-fd") else -1,
            page_server=_page_server(flags.text("page-server") or ""),
        )
    )
    return 0


def common(call: Call, id: str) -> dict[str, Any]:
    """The fields of CriuOptions."""
    flags = call.flags
    images = Path(absolute(flags.text("image-path") or "checkpoint"))
    work = flags.text("work-path")
    return {
        "root": call.root(),
        "id": id,
        "image_path": images,
        "work_path": Path(absolute(work)) if work else images,
        "tcp_established": flags.on("tcp-established"),
        "ext_unix_sk": flags.on("ext-unix-sk"),
        "shell_job": flags.on("shell-job"),
        "lazy_pages": flags.on("lazy-pages"),
        "file_locks": flags.on("file-locks"),
        "auto_dedup": flags.on("auto-dedup"),
        "cgroups_mode": flags.text("manage-cgroups-mode") or "soft",
        "empty_ns": flags.many("empty-ns"),
    }


def _page_server(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    address, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f'invalid value "{text}" for flag -page-server: use ADDRESS:PORT')
    return address, int(port)
