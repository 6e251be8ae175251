# SPDX-License-Identifier: Apache-2.0
"""The other side: a containerd that takes events, and can be made slow, unwilling, or dead."""

import socket
import threading
from pathlib import Path

from wherry_shim import events, ttrpc, wire
from wherry_shim.errors import ShimError
from wherry_shim.loop import Later, Loop


class FakeContainerd:
    def __init__(self, path: str, refuse: int = 0, silent: bool = False) -> None:
        self.path, self.refuse, self.silent = path, refuse, silent
        self.envelopes: list[dict] = []
        self.loop = Loop()
        Path(path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(16)
        self.server = ttrpc.Server(self.loop, listener, {events.SERVICE: self.take})
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def take(self, method: str, payload: bytes) -> Later:
        later = Later()
        if self.silent:
            return later
        if self.refuse:
            self.refuse -= 1
            later.fail(ShimError(2, "not now"))
            return later
        self.envelopes.append(wire.decode("forward.ForwardRequest", payload)["envelope"])
        later.set(b"")
        return later

    @property
    def topics(self) -> list[str]:
        return [envelope["topic"] for envelope in self.envelopes]

    def stop(self) -> None:
        def end() -> None:
            self.server.close()
            self.loop.stop()

        self.loop.soon(end)
        self.thread.join(10)
        self.loop.close()
        Path(self.path).unlink(missing_ok=True)
