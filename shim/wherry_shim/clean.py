# SPDX-License-Identifier: Apache-2.0
"""For the command `delete`, in a process of its own: nothing to do where the service has deleted the container, everything where nobody has.

On the normal path this costs a look at one file, so nothing is imported before there is something to do.
"""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry_shim.keeper import Setting

    Message = dict[str, Any]

MARKER = "options.json"
"""In the bundle, from before anything is done until nothing is left: where the state root is."""

_SIGKILL = 9
_RECORD_S = 1.0  # how long the monitor may take to write down how a process ended
_MONITOR_S = 2.0
_STEP_S = 0.005


def is_gone(bundle: str) -> bool:
    """Nothing is left of this container: it was deleted, or nothing was ever made for it."""
    try:
        posix.stat(f"{bundle}/{MARKER}")
    except OSError:
        return True
    return False


def destroy(setting: "Setting", id: str, bundle: str) -> "Message":
    """No server answers for this container: kills and takes away whatever is there of it (nothing may be: created never, deleted already, a file
    missing), unmounts <bundle>/rootfs, and blocks meanwhile. The DeleteResponse's fields; exit_status is 137 where nobody knows better.
    """
    return take_away(str(marker_of(bundle).get("root") or f"{setting.root}/{setting.namespace}"), id, bundle)


def take_away(root: str, id: str, bundle: str) -> "Message":
    """The same, of a container that is known to be kept below `root`."""
    from wherry.container import lifecycle
    from wherry.errors import WherryError
    from wherry_shim import rootfs
    from wherry_shim.keeper import now

    answer: "Message" = {"pid": _pid(bundle), "exit_status": 128 + _SIGKILL, "exited_at": now()}
    for last in (False, True):  # a create that its server has left may be about to claim the id: once more when no monitor is at work
        try:
            answer |= _end(root, id)
        except (WherryError, OSError):  # without a record that can be read: delete does what can be done
            pass
        try:
            lifecycle.delete(root, id, force=True)
        except (WherryError, OSError):
            if last:
                raise
        if not last:
            end_monitor(bundle, id)
    rootfs.unmount_all(f"{bundle}/rootfs")
    try:
        posix.unlink(f"{bundle}/{MARKER}")
    except OSError:
        pass
    return answer


def end_monitor(bundle: str, id: str) -> None:
    """It has written what it had to write. Until it is gone, and its helper with it, there is no end of what may be made: both hold the marker's lock."""
    from fcntl import LOCK_EX, LOCK_NB, flock
    from time import monotonic, sleep

    deadline = monotonic() + _MONITOR_S
    _kill_monitor(int(marker_of(bundle).get("monitor") or 0), id)
    try:
        descriptor = posix.open(f"{bundle}/{MARKER}", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return
    try:
        while monotonic() < deadline:
            try:
                flock(descriptor, LOCK_EX | LOCK_NB)
                break
            except BlockingIOError:
                sleep(_STEP_S)
    finally:
        posix.close(descriptor)


def _kill_monitor(pid: int, id: str) -> None:
    from wherry.kernel import native

    try:
        pidfd = posix.pidfd_open(pid)
    except OSError:
        return
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        if words[0] == b"wherry-monitor" and words[3:5] == [b"-id", id.encode(errors="surrogateescape")]:
            native.pidfd_signal(pidfd, _SIGKILL)
    except OSError:
        pass
    finally:
        posix.close(pidfd)


def marker_of(bundle: str) -> "Message":
    """Where the state root is, and the monitor's pid. Empty where it is damaged, or cut off by a full disk."""
    from wherry.container.options import read_file
    from wherry.oci.config import load

    try:
        marker: "Message" = load(read_file(f"{bundle}/{MARKER}"))  # type: ignore[assignment]
    except Exception:
        return {}
    return marker


def _pid(bundle: str) -> int:
    try:
        descriptor = posix.open(f"{bundle}/init.pid", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return 0
    text = posix.read(descriptor, 32)
    posix.close(descriptor)
    return int(text) if text.strip().isdigit() else 0


def _end(root: str, id: str) -> "Message":
    """Kills the container and waits for what its monitor writes of it, before the directory with the record goes."""
    from time import monotonic, sleep

    from wherry.container.lifecycle import opened, stop

    with opened(root, id) as container:
        if not container.pid:
            return {}
        found: "Message" = {"pid": container.pid}
        stop(container)
        deadline = monotonic() + _RECORD_S
        while not (record := read_record(container.directory, "exit")) and monotonic() < deadline:
            sleep(_STEP_S)
        if record:
            found |= {"exit_status": record["status"], "exited_at": {"seconds": record["seconds"], "nanos": record["nanos"]}}
        return found


def read_record(directory: int, name: str) -> "Message":
    """What a monitor has written of an end; empty where it has not."""
    from wherry.oci.config import load

    try:
        descriptor = posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return {}
    with open(descriptor, "rb") as file:
        record: "Message" = load(file.read())  # type: ignore[assignment]
    return record
