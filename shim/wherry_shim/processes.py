# SPDX-License-Identifier: Apache-2.0
"""How the processes of a container are made and taken away, with the runtime as a library: Python decides, the monitor does.

What may block (file systems, hooks, locks) runs in a thread; what the monitor does is awaited. Nothing here answers a client, sends an event or
changes a state: wherry_shim.service does.
"""

import posix
from _json import encode_basestring, encode_basestring_ascii
from errno import EBUSY, ENOTEMPTY
from time import sleep

from wherry.container import create as runtime
from wherry.container import execute, lifecycle
from wherry.container.execute import ExecOptions
from wherry.container.options import CreateOptions
from wherry.errors import NotFoundError, WherryError, exists, refused
from wherry.kernel import native
from wherry.kernel.native import Failure, constants
from wherry_shim import monitor, rootfs, stdio
from wherry_shim.clean import MARKER, take_away
from wherry_shim.errors import INVALID_ARGUMENT, UNKNOWN, ShimError
from wherry_shim.loop import Later
from wherry_shim.monitor import Monitor, Report
from wherry_shim.state import PAUSED, PAUSING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from wherry.container.create import Prepared
    from wherry.container.execute import Planned
    from wherry_shim.loop import Loop
    from wherry_shim.options import RuntimeOptions
    from wherry_shim.parent import Parent
    from wherry_shim.plans import Facts
    from wherry_shim.state import Checkpoint, Container, Process

    Message = dict[str, Any]
    Begin = Callable[[Container], None]

OS = "surrogateescape"
_ATTEMPTS, _AGAIN_S = 20, 0.005
KEEP_S = 0.003  # after an exec of a new kind, when who waits for it has his answer: a container may live no longer than one exec


def create_options(container: "Container", given: "RuntimeOptions") -> CreateOptions:
    options = CreateOptions(container.root, container.id, container.bundle)
    options.attached = True  # the terminal's master comes to us
    options.no_pivot, options.no_new_keyring = given.no_pivot_root, given.no_new_keyring
    if given.systemd_cgroup:
        options.cgroup_manager = "systemd"
    options.pid_file = f"{container.bundle}/init.pid"
    return options


# ---- create


async def create(
    loop: "Loop",
    container: "Container",
    options: CreateOptions,
    mounts: "Sequence[Message]",
    namespace: str,
    begin: "Begin",
    checkpoint: "Checkpoint | None" = None,
) -> None:
    """To a container that waits for start. Where it fails, nothing is left. `begin` starts a monitor and listens to it. From a checkpoint
    all but the stdio and the root filesystem is made by restore()."""
    container.has_rootfs = bool(mounts)
    try:
        prepared: "Prepared | None" = await loop.in_thread(lambda: _prepare(container, options, mounts, checkpoint))
        init = container.init
        init.streams = await stdio.open_streams(loop, init.names, namespace, container.id, init.input_closed, container.io_owner)
        if container.abandoned:
            raise ShimError(UNKNOWN, f"container {container.id} was deleted while it was being created")
        if prepared is None:
            container.checkpoint = checkpoint
            return
        report = await _launch(loop, container, options, prepared, begin)
        adopt_report(loop, init, report)
        container.shared_pid = bool(prepared.flags & constants.WHERRY_PLAN_SHARED_PID)
    except BaseException:
        if container.init.streams is not None:
            container.init.streams.close(loop)
        unlock(container)
        if container.cut_short:  # then nobody has undone it
            await loop.in_thread(lambda: take_away(container.root, container.id, container.bundle))
        if container.marked:  # else the bundle is another's
            await loop.in_thread(lambda: _undo(container))
        raise
    unlock(container)


def _prepare(
    container: "Container", options: CreateOptions, mounts: "Sequence[Message]", checkpoint: "Checkpoint | None"
) -> "Prepared | None":
    container.lock = _marker(container)
    container.marked = True
    rootfs.mount_all(mounts, f"{container.bundle}/rootfs")
    try:
        if checkpoint is None:
            return runtime.prepare(options)
        posix.stat(f"{checkpoint.images}/inventory.img")
        return None
    except (WherryError, OSError) as error:
        raise failed("create", error) from error


def _marker(container: "Container") -> int:
    """Locked by us, then by the monitor: see clean.destroy."""
    from fcntl import LOCK_EX, LOCK_NB, flock

    descriptor = posix.open(f"{container.bundle}/{MARKER}", posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
        _mark(container, descriptor, 0)
    except BlockingIOError:
        posix.close(descriptor)
        raise failed("create", exists(container.id)) from None
    except BaseException:
        posix.close(descriptor)
        raise
    return descriptor


def _mark(container: "Container", descriptor: int, pid: int) -> None:
    """pid: of the monitor."""
    text = '{"root": ' + encode_basestring_ascii(container.root) + ', "monitor": ' + f"{pid:10}" + "}"
    posix.pwrite(descriptor, text.encode(), 0)
    posix.ftruncate(descriptor, len(text))


def unlock(container: "Container") -> None:
    if container.lock >= 0:
        posix.close(container.lock)
    container.lock = -1


def _undo(container: "Container") -> None:
    if container.has_rootfs:
        rootfs.unmount_all(f"{container.bundle}/rootfs")
    try:
        posix.unlink(f"{container.bundle}/{MARKER}")
    except OSError:
        pass


async def _launch(loop: "Loop", container: "Container", options: CreateOptions, prepared: "Prepared", begin: "Begin") -> Report:
    try:
        return await _attempt(loop, container, options, prepared, begin)
    except Failure as failure:
        if failure.error != constants.WHERRY_EXISTS or container.abandoned:
            raise await _worded(loop, failure, prepared, options) from failure
    except (WherryError, OSError) as error:  # of an interlude
        raise failed("create", error) from error
    from wherry.container.gc import undo_crashed_create

    if not await loop.in_thread(lambda: undo_crashed_create(options.root, options.id)):
        raise failed("create", exists(options.id))
    try:
        return await _attempt(loop, container, options, prepared, begin)
    except Failure as failure:
        raise await _worded(loop, failure, prepared, options) from failure


async def _worded(loop: "Loop", failure: Failure, prepared: "Prepared", options: CreateOptions) -> ShimError:
    return failed("create", await loop.in_thread(lambda: runtime.worded(failure, prepared, options)))


async def _attempt(loop: "Loop", container: "Container", options: CreateOptions, prepared: "Prepared", begin: "Begin") -> Report:
    """A monitor of its own for each attempt: it ends when its create fails."""
    interlude = runtime.interlude_of(options, prepared)
    extra = [bytes([kind]) + path.encode(errors=OS) for kind, path in interlude.extra] if interlude else []
    container.init.answer = Later()
    begin(container)
    _ask(container.init, monitor.CREATE, _create_texts(container, options, extra), prepared.plan, prepared.config, len(extra))
    try:
        while True:
            report: Report = await container.init.answer
            if report.kind != monitor.WAITING:
                return made(report)
            container.init.answer = Later()
            await _interlude(loop, container, interlude, report)
    except BaseException as error:
        if interlude is not None:
            told = error
            await loop.in_thread(lambda: interlude.undo(told))
        raise


def started(loop: "Loop", container: "Container", parent: "Parent", namespace: str) -> Monitor:
    """A monitor for this container."""
    try:
        found = Monitor.start(loop, parent, namespace, container.id, container.lock)
        _mark(container, container.lock, found.pid)  # before it is asked for anything
        return found
    except OSError as error:
        raise ShimError(UNKNOWN, f"the monitor cannot be started: {error.strerror}") from error


def _create_texts(container: "Container", options: CreateOptions, extra: "list[bytes]") -> "dict[str, bytes]":
    return {
        "root": options.root.encode(errors=OS),
        "id": options.id.encode(errors=OS),
        "bundle": options.bundle.encode(errors=OS),
        "bundle_json": encode_basestring(options.bundle)[1:-1].encode(errors=OS),
        "pid_file": (options.pid_file or "").encode(errors=OS),
        "meta": meta(container.init),
        "extra": b"\0".join(extra),
    }


class _Waiting:
    """What an interlude needs of a native.Create."""

    def __init__(self, container: "Container", asked: Monitor, pid: int) -> None:
        self._monitor, self.pid = asked, pid
        self.directory = posix.open(f"{container.root}/{container.id}", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)

    def mark(self, index: int, state: int) -> None:
        self._monitor.ask(monitor.MARK, 0, index=index, status=state)


async def _interlude(loop: "Loop", container: "Container", interlude: "Any", report: Report) -> None:
    """Network devices and the like, while init waits."""
    asked = container.monitor
    assert asked is not None and interlude is not None
    waiting = _Waiting(container, asked, report.pid)
    try:
        await loop.in_thread(lambda: interlude.perform(waiting))
    except (WherryError, OSError):
        asked.ask(monitor.ABORT)
        await container.init.answer
        raise
    finally:
        posix.close(waiting.directory)
    asked.ask(monitor.FINISH)


# ---- from a checkpoint


async def restore(loop: "Loop", container: "Container", begin: "Begin") -> None:
    """To a container that runs. Where it fails it is as it was, or gone where its monitor has died meanwhile."""
    asked, init = container.checkpoint, container.init
    assert asked is not None
    init.answer = Later()
    begin(container)
    words = _restore_words(asked)
    texts = _create_texts(container, asked.options, words) | {"pid_file": b""}
    try:
        _ask(init, monitor.RESTORE, texts, b"", count=len(words) - 2)  # the path before, a variable behind
        report: Report = await init.answer
        if report.kind != monitor.MADE:
            raise ShimError(UNKNOWN, "OCI runtime restore failed: " + (report.texts.get("meta") or b"it was ended").decode(errors="replace"))
    except ShimError:
        if container.cut_short:  # then nobody has undone it
            unlock(container)  # who takes it away waits for that lock
            await loop.in_thread(lambda: take_away(container.root, container.id, container.bundle))
        raise
    adopt_report(loop, init, report)
    container.checkpoint = None
    unlock(container)
    with lifecycle.opened(container.root, container.id) as record:
        container.shared_pid = bool(record.flags & constants.WHERRY_PLAN_SHARED_PID)


def _restore_words(asked: "Checkpoint") -> "list[bytes]":
    """A path, arguments, one variable: what wherry_shim.restore is started with."""
    import json
    import sys

    options = asked.options
    given: "Message" = {"root": options.root, "id": options.id, "bundle": options.bundle, "pid_file": options.pid_file}
    given |= {"image_path": asked.images, "work_path": asked.work, "no_pivot": options.no_pivot, "no_new_keyring": options.no_new_keyring}
    given["systemd"] = options.cgroup_manager == "systemd"
    code = f"import sys; sys.path[:0] = {[place for place in sys.path if place]!r}; from wherry_shim.restore import main; main()"
    words = [sys.executable, "-I", "-c", code, json.dumps(given)]
    return [word.encode(errors=OS) for word in words] + [b"PATH=" + posix.environ.get(b"PATH", b"")]


# ---- what create and exec share


def _ask(
    process: "Process", kind: int, texts: "dict[str, bytes]", plan: "bytes | int", config: bytes = b"", count: int = 0, target: int = -1
) -> None:
    """Hands the request over, and with it what the process gets; what is to be kept stays with us too. plan: its bytes, or a descriptor."""
    asked, streams = process.container.monitor, process.streams
    assert asked is not None and streams is not None
    fds = {**streams.given, **streams.held, "program": native.program_fd(), "target": target}
    memory: "dict[str, int]" = {}
    try:
        if isinstance(plan, int):
            fds["plan"] = plan
        elif plan:
            fds["plan"] = memory["plan"] = memory_of("plan", plan)
        if config:
            fds["config"] = memory["config"] = memory_of("config", config)
        asked.ask(kind, process.number, count=count, texts=texts, fds=fds)
    except OSError as error:
        raise ShimError(UNKNOWN, f"the monitor of container {process.container.id} is gone") from error
    finally:
        for descriptor in memory.values():
            posix.close(descriptor)


def memory_of(name: str, data: bytes) -> int:
    descriptor = posix.memfd_create(f"wherry-{name}", posix.MFD_CLOEXEC)
    at = 0
    while at < len(data):
        at += posix.write(descriptor, data[at:])
    return descriptor


def made(report: Report) -> Report:
    if report.kind != monitor.MADE:
        raise report.failure()
    return report


def adopt_report(loop: "Loop", process: "Process", report: Report) -> None:
    """The process is there, and we have its descriptors. What was given to it is closed behind the answer."""
    process.pid = report.pid
    process.pidfd = report.fds.pop("process", -1)
    process.master = report.fds.pop("master", -1)
    process.drained = Later() if process.master >= 0 else None
    report.close()
    if process.streams is not None:
        loop.behind(process.streams.close_given)
    if process.input_closed and process.container.monitor is not None:  # CloseIO came while it was being made
        try:
            process.container.monitor.ask(monitor.CLOSE_INPUT, process.number)
        except OSError:  # it has died, and what it held with it
            pass


def meta(process: "Process") -> bytes:
    """What another server needs to know, in JSON."""
    names, container, json = process.names, process.container, encode_basestring_ascii
    owner = f'"id":{json(container.id)},"bundle":{json(container.bundle)},"rootfs":"{"1" if container.has_rootfs else ""}"'
    files = f'"stdin":{json(names.stdin)},"stdout":{json(names.stdout)},"stderr":{json(names.stderr)},"terminal":"{"1" if names.terminal else ""}"'
    return f'{{{owner},"exec_id":{json(process.exec_id)},"number":"{process.number}",{files}}}'.encode()


def failed(verb: str, error: "WherryError | OSError") -> ShimError:
    text = error.sentence() if isinstance(error, WherryError) else str(error)
    made = ShimError(UNKNOWN, f"OCI runtime {verb} failed: {text}")
    made.known = error
    return made


# ---- exec


async def start_exec(loop: "Loop", process: "Process", namespace: str, facts: "Facts") -> None:
    """To a process whose program executes."""
    container = process.container
    options = ExecOptions(container.root, container.id)
    options.process, options.process_name = process.spec, "process"
    options.attached, options.verb, options.adopts = True, "exec", process.adopts
    streams = await stdio.open_streams(loop, process.names, namespace, process.exec_id, process.input_closed, container.io_owner, _copies(container))
    process.streams = streams
    try:
        if streams.copied:
            streams.give_pipes_to(_root_of(container))
        report = await _known(loop, process, options, facts)
        report = report or await _exec(loop, process, options, facts, below=False) or await _exec(loop, process, options, facts, below=True)
        assert report is not None
        adopt_report(loop, process, report)
    except BaseException:
        streams.close(loop)  # a Delete of the container may have done it
        raise


def _copies(container: "Container") -> bool:
    return container.monitor is not None and container.monitor.copies


def _root_of(container: "Container") -> "tuple[int, int]":
    """Of its user namespace, as the host sees it."""
    if container.root_owner is not None:
        return container.root_owner
    found = [0, 0]
    for index, name in enumerate(("uid_map", "gid_map")):
        try:
            with open(f"/proc/{container.init.pid}/{name}", "rb") as file:
                found[index] = next((int(words[1]) for words in map(bytes.split, file) if words[0] == b"0"), 0)
        except OSError:  # it has ended
            pass
    container.root_owner = (found[0], found[1])
    return container.root_owner


async def _known(loop: "Loop", process: "Process", options: ExecOptions, facts: "Facts") -> "Report | None":
    """By the plan of one like it before, as a probe comes again and again, here or in a container of this kind. Where that fails it is made anew."""
    container = process.container
    if container.init.status in (PAUSED, PAUSING):
        raise failed("exec", refused("exec", "paused", container.id))
    plans = container.plans
    try:
        ground = plans.ground(container, facts)
        plan = plans.find(process)
        if plan < 0:
            found = ground.plan(options)
            if not found:
                return None
            plan = _kept(loop, process, found)
    except (WherryError, OSError):
        return None
    try:
        return await _send(process, options, plan, container.init.pidfd)
    except Failure:
        plans.drop(process)
        return None


async def _exec(loop: "Loop", process: "Process", options: ExecOptions, facts: "Facts", below: bool) -> "Report | None":
    """None: the container's cgroup hands its controllers down, and takes no process itself."""
    try:
        options.facts = facts.whole()
        planned: "Planned" = execute.prepare(options, below)
    except (WherryError, OSError) as error:
        raise failed("exec", error) from error
    keeps = planned.again and process.container.plans.may_keep()
    try:
        plan = _kept(loop, process, planned.plan) if keeps else planned.plan
        report = await _send(process, options, plan, planned.pidfd, planned.affinity)
    except Failure as failure:
        process.container.plans.drop(process)
        if failure.error == EBUSY and failure.call == "CLONE" and not below:
            return None
        raise failed("exec", execute.worded(failure, planned.plan, planned.pidfd, options)) from failure
    finally:
        posix.close(planned.pidfd)
    if planned.again:
        loop.timer(KEEP_S, lambda: _keep(options, planned))
    return report


def _kept(loop: "Loop", process: "Process", plan: bytes) -> int:
    """In memory, for this exec and the next one like it: a descriptor, which is not ours."""
    plans = process.container.plans
    loop.afterwards(plans.trim)
    return plans.keep(process, memory_of("plan", plan))


def _keep(options: ExecOptions, planned: "Planned") -> None:
    try:
        execute.keep(options, planned)
    except (WherryError, OSError):  # it costs time alone
        pass


async def _send(process: "Process", options: ExecOptions, plan: "bytes | int", target: int, affinity: bytes = b"") -> Report:
    process.answer = Later()
    process.number = process.container.next_number()  # the monitor may not have let go of a first attempt yet
    _ask(process, monitor.EXEC, _exec_texts(process, options, affinity), plan, target=target)
    return made(await process.answer)


def _exec_texts(process: "Process", options: ExecOptions, affinity: bytes) -> "dict[str, bytes]":
    return {
        "root": options.root.encode(errors=OS),
        "id": options.id.encode(errors=OS),
        "name": process.exec_id.encode(errors=OS),
        "meta": meta(process),
        "extra": affinity,
    }


# ---- the rest, in threads


def start_init(container: "Container") -> None:
    try:
        lifecycle.start(container.root, container.id)
    except (WherryError, OSError) as error:
        raise failed("start", error) from error


def kill(process: "Process", number: int, everyone: bool) -> bool:
    """False where it has ended."""
    container = process.container
    try:
        if process.exec_id:
            native.pidfd_signal(process.pidfd, number)
        else:
            lifecycle.kill(container.root, container.id, number, everyone)
    except ProcessLookupError:
        return False
    except WherryError as error:
        if error.code in ("WHERRY-STATE-STOPPED", "WHERRY-STATE-NOT-FOUND"):
            return False
        raise failed("kill", error) from error
    return True


def checkpoint(container: "Container", path: str, fields: "Message") -> None:
    """fields: of containerd.runc.v1.CheckpointOptions. A container that is not to go on ends with it."""
    from pathlib import Path

    from wherry.container.criu.checkpoint import CheckpointOptions, checkpoint

    images = fields.get("image_path") or path
    if not images.startswith("/"):
        raise ShimError(INVALID_ARGUMENT, f"checkpoint path {images!r} is not absolute")
    options = CheckpointOptions(container.root, container.id, Path(images), Path(fields.get("work_path") or images))
    options.tcp_established = bool(fields.get("open_tcp"))
    options.ext_unix_sk, options.shell_job = bool(fields.get("external_unix_sockets")), bool(fields.get("terminal"))
    options.file_locks, options.leave_running = bool(fields.get("file_locks")), not fields.get("exit")
    options.empty_ns, options.cgroups_mode = list(fields.get("empty_namespaces") or ()), fields.get("cgroups_mode") or "soft"
    if fields.get("parent_path"):
        options.parent_path = Path(fields["parent_path"])
    checkpoint(options)


def remove(container: "Container") -> None:
    """Everything that is on the host; to be called again where it fails."""
    for attempt in range(_ATTEMPTS):
        try:
            lifecycle.delete(container.root, container.id, force=True)
        except NotFoundError:
            pass
        except (WherryError, OSError) as error:
            if not isinstance(error, OSError) or error.errno != ENOTEMPTY or attempt == _ATTEMPTS - 1:
                raise failed("delete", error) from error
            sleep(_AGAIN_S)  # its monitor has written an end into the directory just now
            continue
        break
    _undo(container)
