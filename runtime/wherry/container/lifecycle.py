# SPDX-License-Identifier: Apache-2.0
"""What happens to a container that exists: state, start, kill, delete. On the hot path: imports what each needs, late.

Locks: start and delete hold the container's lock; state and kill never take it, so neither waits for a hook. Whether a
container is created, running, paused or stopped is never stored: the kernel is asked each time (Container.status).
"""

import posix
from errno import EBADMSG, ENODATA, ESRCH

from wherry.errors import DeadlineError, StateError, UsageError, not_found, refused
from wherry.kernel import native
from wherry.kernel.native import STATUS_NAMES, Container, Failure, constants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.container.notify import Proxy

LOCK_WAIT_MS = 10_000
_ID_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-")
_SIGTERM, _SIGKILL = 15, 9


def check_id(id: str) -> None:
    if not id or id in (".", "..") or len(id) > 255 or not _ID_LETTERS.issuperset(id):
        raise UsageError(f'invalid container ID format: "{id}"', code="WHERRY-USAGE-ID", remedy="letters, digits and _ + . - are allowed")


def opened(root: str, id: str) -> Container:
    """The container `id`; to be used in a `with`."""
    check_id(id)
    try:
        return native.open_container(root, id)
    except (FileNotFoundError, NotADirectoryError):
        raise not_found(id) from None
    except Failure as failure:
        if failure.error == ENODATA:  # its create has this moment claimed the id, or died in doing so
            raise not_found(id) from None
        if failure.error == constants.WHERRY_WRONG_VERSION:
            raise StateError(f'container "{id}" was made by another build of wherry', code="WHERRY-STATE-VERSION", id=id) from failure
        if failure.error == EBADMSG:
            raise StateError(f'the record of container "{id}" is damaged', code="WHERRY-STATE-DAMAGED", id=id) from failure
        raise


def state(root: str, id: str) -> bytes:
    """The state document, as `wherry state` prints it."""
    with opened(root, id) as container:
        return container.state_json()


def start(root: str, id: str, notify: "str | None" = None, aside: bool = False, phase: "Callable[[str], None] | None" = None) -> None:
    """Lets a created container execute its program; returns once it does. With a service manager's socket: once it is ready, too.
    `phase` is told what comes next."""
    phase = phase or _untold
    proxy = None
    if notify:
        from wherry.container.notify import Proxy

        check_id(id)
        proxy = Proxy.listen(root, id, notify)
    try:
        _start(root, id, proxy, phase)
    except BaseException:
        if proxy is not None:
            proxy.close()
        raise
    if proxy is not None:  # without the lock: it may take long
        phase("wait until it is ready")
        proxy.forward(aside)


def _untold(name: str) -> None:
    """Nobody wants to know."""


def _start(root: str, id: str, proxy: "Proxy | None", phase: "Callable[[str], None]") -> None:
    phase("open the container")
    with opened(root, id) as container:
        phase("lock the container")
        lock(container, "start", id)
        if b"WHERRY_FAILURE" in posix.environ:
            from wherry.container.wording import Setting, raise_told_start

            raise_told_start(container, Setting("start", root, id))
        status = STATUS_NAMES[container.status()]
        if status != "created":
            raise refused("start", status, id)
        if container.flags & constants.WHERRY_PLAN_NO_PROCESS:
            raise StateError("cannot start a container without /process", code="WHERRY-STATE-NO-PROCESS", id=id)
        phase("execute the program")  # startContainer hooks, the filter, execve
        _execute(container, root, id)
        if proxy is not None:
            proxy.watch(container)
        if container.flags & constants.WHERRY_PLAN_POSTSTART:
            from wherry.container.hooks import poststart

            phase("run poststart hooks")
            poststart(container, id)


def _execute(container: Container, root: str, id: str) -> None:
    try:
        container.start()
    except Failure as failure:
        if failure.error == constants.WHERRY_NOT_CREATED:
            raise refused("start", STATUS_NAMES[container.status()], id) from failure
        from wherry.container.wording import Setting, start_failed

        raise start_failed(container, failure, Setting("start", root, id)) from failure


def kill(root: str, id: str, number: int = _SIGTERM, everyone: bool = False) -> None:
    """Sends a signal to the container's init, or to every process in its cgroup."""
    with opened(root, id) as container:
        if everyone or (number == _SIGKILL and container.flags & constants.WHERRY_PLAN_SHARED_PID):
            # where the pid namespace is shared the death of init takes nobody along
            return _kill_everyone(container, number)
        status = STATUS_NAMES[container.status()]
        if status not in ("created", "running", "paused"):
            raise refused("kill", status, id)
        try:
            container.signal(number)
        except ProcessLookupError:
            raise refused("kill", "stopped", id) from None


def _kill_everyone(container: Container, number: int) -> None:
    """A container that has stopped has nobody left: no error, engines count on it."""
    try:
        container.signal_all(number)
    except (ProcessLookupError, FileNotFoundError):
        pass
    except OSError as error:
        if error.errno != ESRCH:
            raise


def delete(root: str, id: str, force: bool = False) -> "list[str]":
    """Removes a container that has stopped, or was never started; with force any. Returns warnings (of poststop hooks)."""
    try:
        with opened(root, id) as container:
            return _delete(container, id, force)
    except StateError as error:
        if not force or error.code not in ("WHERRY-STATE-NOT-FOUND", "WHERRY-STATE-DAMAGED", "WHERRY-STATE-VERSION"):
            raise
    from wherry.container.gc import remove_without_record

    return remove_without_record(root, id)


def _delete(container: Container, id: str, force: bool) -> "list[str]":
    if force and container.record_status == constants.WHERRY_RECORD_PUBLISHED:
        # before the lock: who holds it may be waiting for this very process
        _ignore_missing(container, _SIGKILL)
    lock(container, "delete", id)
    status = STATUS_NAMES[container.status()]
    if status in ("running", "paused") and not force:
        raise refused("delete", status, id)
    if container.record_status != constants.WHERRY_RECORD_PUBLISHED:
        # the lock is ours: whoever was creating or deleting it is dead, and the journal says how far it came
        destroy(container, kill_first=True)
        return []
    if not container.flags & constants.WHERRY_PLAN_POSTSTOP:
        destroy(container, kill_first=status != "stopped")
        return []
    from wherry.container.hooks import prepare_poststop

    run_hooks = prepare_poststop(container)
    destroy(container, kill_first=status != "stopped")
    return [str(error) for error in run_hooks()]


def destroy(container: Container, kill_first: bool) -> None:
    """All of it; the lock is ours. A unit of systemd is asked to end first, whatever is left is removed as everything else."""
    if container.flags & constants.WHERRY_PLAN_UNIT:
        from wherry.container.unit import end

        end(container, kill_first)
    container.destroy(kill_first=kill_first)


def _ignore_missing(container: Container, number: int) -> None:
    try:
        container.signal(number)
    except ProcessLookupError:
        pass


def lock(container: Container, verb: str, id: str, wait_ms: int = LOCK_WAIT_MS) -> None:
    try:
        container.lock(wait_ms)
    except BlockingIOError:
        message = f'cannot {verb} container "{id}": another command works on it'
        raise StateError(message, code="WHERRY-STATE-BUSY", remedy="try again when it has ended", id=id) from None
    except FileNotFoundError:  # deleted while we waited
        raise not_found(id) from None


def stop(container: Container) -> None:
    """Kills init and waits until it is gone."""
    try:
        pidfd = container.pidfd()
    except ProcessLookupError:
        return
    try:
        native.pidfd_signal(pidfd, _SIGKILL)
        if not native.pidfd_wait(pidfd, LOCK_WAIT_MS):
            raise DeadlineError(f"process {container.pid} did not end within {LOCK_WAIT_MS // 1000} s of SIGKILL", pid=container.pid)
    except ProcessLookupError:
        pass
    finally:
        posix.close(pidfd)


def signal_number(text: str) -> int:
    """9, KILL, SIGKILL or RTMIN+1, in any case."""
    if text.isdecimal():
        number = int(text)
    else:
        import _signal  # type: ignore[import-not-found]

        sign = "-" if "-" in text else "+"
        name, given, offset = text.upper().removeprefix("SIG").partition(sign)
        number = 0 if "_" in name else getattr(_signal, f"SIG{name}", 0)
        if given and offset.isdecimal() and name in ("RTMIN", "RTMAX"):
            number += int(sign + offset)
        elif given or not number:
            number = -1
    if not 0 <= number <= 64:
        raise UsageError(f'unknown signal "{text}"', code="WHERRY-USAGE-SIGNAL")
    return number
