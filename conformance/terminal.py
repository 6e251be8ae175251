# SPDX-License-Identifier: Apache-2.0
"""Runs one command of a suite as on a person's terminal: a controlling terminal, a standard input that never ends, a parent that reaps.

Suites for container runtimes ask for all three: a test's shell opens /dev/tty, an attached `run` reads its input, and containers whose
creator has ended need somebody who waits for them. What still lives when the command has ended, or its time is up, is ended with it:
this process is the subreaper, so that all of it stays below this process.
"""

import ctypes
import os
import pty
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 5.0  # seconds for what was killed to end


@dataclass
class Outcome:
    text: str  # all that it printed
    status: int  # exit code, 128 + signal, or -1: its time was up
    seconds: float


def become_subreaper() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> dict[int, list[int]]:
    """Every process by its parent, read once."""
    table: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            table.setdefault(parent, []).append(int(entry.name))
    return table


def descendants() -> list[int]:
    table, found, rest = children(), [], [os.getpid()]
    while rest:
        below = table.get(rest.pop(), [])
        found += below
        rest += below
    return found


def end_descendants() -> int:
    """Kills and reaps all that is below this process; how many they were."""
    ended: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while (left := descendants()) and time.monotonic() < deadline:
        for pid in left:
            ended.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap()
        time.sleep(0.02)
    return len(ended)


def reap() -> dict[int, int]:
    """{pid: wait status} of every child that has ended."""
    ended = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended[pid] = status


def run(command: Sequence[str], environment: Mapping[str, str], directory: Path, seconds: float) -> Outcome:
    began = time.monotonic()
    pid, master = pty.fork()
    if not pid:
        try:
            os.chdir(directory)
            os.execvpe(command[0], command, dict(environment))
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", flush=True)
        finally:
            os._exit(127)
    try:
        output, status = attend(pid, master, began + seconds)
    finally:
        end_descendants()
        os.close(master)
    return Outcome(output.decode(errors="replace").replace("\r\n", "\n"), status, time.monotonic() - began)


def attend(pid: int, master: int, deadline: float) -> tuple[bytes, int]:
    """Reads what comes and reaps who ends, until the command has ended."""
    output = bytearray()
    while time.monotonic() < deadline:
        ended = reap().get(pid)
        while select.select([master], [], [], 0 if ended is not None else 0.2)[0]:
            try:
                more = os.read(master, 65536)
            except OSError:  # EIO: nobody has the other end open
                more = b""
            if not more:
                time.sleep(0.02)
                break
            output += more
        if ended is not None:
            return bytes(output), os.waitstatus_to_exitcode(ended) if os.WIFEXITED(ended) else 128 + os.WTERMSIG(ended)
    return bytes(output), -1
