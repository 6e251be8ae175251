# SPDX-License-Identifier: Apache-2.0
"""One CRIU process (`criu swrk`) and the conversation with it, over a seqpacket socket. What it restores becomes a child of ours."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from wherry.container.criu.messages import NOTIFY, VERSION, Request, Response
from wherry.errors import HostError, WherryError

OLDEST = (3, 15)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ROOM = 1 << 20

def program() -> str:
    """Engines call with an empty environment: PATH is not all that counts."""
    found = shutil.which("criu") or shutil.which("criu", path=_PATH)
    if found is None:
        raise HostError("CRIU is not installed: checkpoint and restore need the program criu", code="WHERRY-HOST-CRIU", remedy="install criu 4")
    return found


class Service:
    """fds: what CRIU is to inherit besides the socket."""

    def __init__(self, fds: Sequence[int] = ()) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [program(), "swrk", str(theirs.fileno())]
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *fds],
                env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{_PATH}"},
            )

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()
        self.process.wait()

    def ask(self, request: Any, on_notice: Callable[[Any, list[int]], None] | None = None) -> Any:
        """The answer. Notices on the way go to `on_notice(notice, descriptors)`, and are confirmed once it returns."""
        self._send(request)
        while True:
            response, descriptors = self._receive()
            if response.type != NOTIFY:
                return response
            try:
                if on_notice is not None:
                    on_notice(response.notify, descriptors)
            except BaseException:
                self._send(Request(type=NOTIFY, notify_success=False))
                raise
            self._send(Request(type=NOTIFY, notify_success=True))

    def _send(self, request: Any) -> None:
        try:
            self.socket.sendall(request.SerializeToString())
        except OSError as error:
            raise self._gone() from error

    def _receive(self) -> tuple[Any, list[int]]:
        try:
            data, descriptors, _, _ = socket.recv_fds(self.socket, _ROOM, 4)
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise self._gone()
        response = Response()
        response.ParseFromString(data)
        return response, list(descriptors)

    def _gone(self) -> WherryError:
        return HostError(f"CRIU ended without an answer (status {self.process.wait()})", code="WHERRY-HOST-CRIU", remedy="see its log")


def version(service: Service) -> tuple[int, int, int]:
    response = service.ask(Request(type=VERSION))
    found = (response.version.major_number, response.version.minor_number, response.version.sublevel)
    if found[:2] < OLDEST:
        text = ".".join(map(str, found))
        raise HostError(f"CRIU {text} is too old", code="WHERRY-HOST-CRIU", remedy=f"install criu {'.'.join(map(str, OLDEST))} or newer")
    return found


def failed(what: str, log: Path, response: Any) -> WherryError:
    """CRIU's own first error is what explains: it stands in the log."""
    said = response.cr_errmsg.strip().splitlines()
    reason = first_error(log) or (said[0] if said else f"error {response.cr_errno}")
    return HostError(f"criu failed: {what}: {reason} (log file: {log})", code="WHERRY-HOST-CRIU", remedy="the log tells more", errno=response.cr_errno)


def first_error(log: Path) -> str:
    try:
        with log.open(errors="replace") as lines:
            for line in lines:
                _, found, text = line.partition("Error ")
                if found and "rlimit:" not in text:  # it asks for more than it needs
                    return " ".join(text.split())
    except OSError:
        pass
    return ""
