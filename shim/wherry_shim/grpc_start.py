# SPDX-License-Identifier: Apache-2.0
"""The action `start` where an annotation asks for gRPC: a server of its own kind, and an answer that containerd 1.7 reads."""

import posix
import select

from wherry_shim.bootstrap import UsageError, write_all
from wherry_shim.bootstrap_start import (
    Request,
    answers,
    join_cgroup,
    locked,
    oom_score,
    open_log,
    set_oom_score,
    spawn_cold,
    words_of,
    write_address,
)

PATIENCE_MS = 20000
LISTENS = "+"


def start(request: Request, path: str) -> int:
    refuse(request)
    if not answers(path):
        serve(request, path)
    address = f'{{"version":2,"address":"{path}","protocol":"grpc"}}'
    write_address(address)
    write_all(address.encode())
    return 0


def refuse(request: Request) -> None:
    """Who cannot be 1.7 is told before anything is started; the server asks the others."""
    remedy = "remove the annotation org.wherry.shim.protocol"
    if request.modern:
        raise UsageError(f"gRPC to a shim works with containerd 1.7 only, this is 2.3 or later: {remedy}")
    if not posix.environ.get(b"MAX_SHIM_VERSION"):
        raise UsageError(f"gRPC to a shim works with containerd 1.7 only, this is 1.6 or older: {remedy}")


def serve(request: Request, path: str) -> None:
    reading, writing = posix.pipe()
    log = open_log()
    try:
        argv = [*words_of(request), "-socket", path]
        pid = spawn_cold(argv, dict(posix.environ), writing, log)
    finally:
        posix.close(writing)
        posix.close(log)
    try:
        told = until_ready(reading)
        if told:
            raise UsageError(told)
        set_oom_score(pid, oom_score())
        join_cgroup(pid, request.options.get("shim_cgroup", ""))
        if not publish(f"{path}.{pid}", path):
            end(pid, f"{path}.{pid}")
    except BaseException:
        end(pid, f"{path}.{pid}")
        raise
    finally:
        posix.close(reading)


def until_ready(reading: int) -> str:
    """"" or why there is no server. One that says nothing has died."""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    if not poll.poll(PATIENCE_MS):
        return f"the gRPC server does not say within {PATIENCE_MS // 1000} s that it listens"
    told = posix.read(reading, 4096).decode(errors="replace")
    return "" if told == LISTENS else told or "the gRPC server has ended before it listened"


def end(pid: int, here: str) -> None:
    posix.kill(pid, 9)
    try:
        posix.unlink(here)
    except OSError:
        pass


def publish(here: str, path: str) -> bool:
    """False: another server of this group has come first, and is the one."""
    lock = locked(path.rpartition("/")[0])
    try:
        if answers(path):
            return False
        posix.rename(here, path)
        return True
    finally:
        posix.close(lock)
