# SPDX-License-Identifier: Apache-2.0
"""What the server tells systemd: that it is ready, that it lives, that it reloads or ends. Without a service manager nothing is said."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    def __init__(self) -> None:
        self._path = os.environ.get("NOTIFY_SOCKET", "")
        words = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        mine = words[0].isdecimal() and words[1] in ("", str(os.getpid()))
        self.watchdog_s = int(words[0]) / 1e6 if mine else 0.0
        """How often systemd wants to hear of us, at least; 0: never."""

    def say(self, *lines: str) -> None:
        if self._path[:1] not in ("/", "@"):
            return
        address = "\0" + self._path[1:] if self._path[0] == "@" else self._path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                sender.sendto("\n".join(lines).encode(), address)
            except OSError:  # the manager does not listen: it has its own timeouts
                pass

    def ready(self) -> None:
        self.say("READY=1", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        self.say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def ending(self) -> None:
        self.say("STOPPING=1")

    def alive(self) -> None:
        self.say("WATCHDOG=1")
