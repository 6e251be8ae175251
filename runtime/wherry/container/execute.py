# SPDX-License-Identifier: Apache-2.0
"""exec, as an agenda: look at the container, put the process together, compile its plan, launch it."""

import posix
from _struct import unpack_from
from errno import EBUSY, ENOENT, ESRCH

from wherry.container.create import listen_environment
from wherry.container.hooks import config_copy
from wherry.container.lifecycle import opened
from wherry.container.options import Traced
from wherry.errors import ConfigError, StateError, UsageError, WherryError, refused
from wherry.kernel import native
from wherry.kernel.hostfacts import gather
from wherry.kernel.native import STATUS_NAMES, Container, Failure, constants
from wherry.oci.checks import check_process
from wherry.oci.config import load
from wherry.plan.encode import HEADER
from wherry.plan.execute import Cgroup, Target, compile
from wherry.plan.options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.kernel.hostfacts import HostFacts

_FILES = {"time": "time", "mount": "mnt", "cgroup": "cgroup", "uts": "uts", "ipc": "ipc", "user": "user", "pid": "pid", "network": "net"}
"""Types of namespaces, in the order of their CLONE_NEW* bits, and their files in /proc/PID/ns."""

_INHERITED = ("capabilities", "rlimits", "apparmorProfile", "selinuxLabel", "oomScoreAdj", "scheduler", "ioPriority")
"""What a process of its own (--process) takes from the container's where it says nothing."""


class ExecOptions(Traced):
    """One exec. `process`: the content of a process.json; without one, it is the container's process with what else is given."""

    def __init__(self, root: str, id: str, args: "list[str] | None" = None) -> None:
        super().__init__()
        self.root, self.id, self.args = root, id, args or []
        self.process: bytes | None = None
        self.process_name = "process"
        self.cwd: str | None = None
        self.env: list[str] = []
        self.terminal = False
        self.uid: int | None = None
        self.gid: int | None = None
        self.groups: list[int] = []
        self.capabilities: list[str] = []
        self.no_new_privileges = False
        self.label: str | None = None
        self.apparmor: str | None = None
        self.cgroups: list[str] = []
        self.ignore_paused = False
        self.attached = False
        self.pid_file: str | None = None
        self.console_socket: str | None = None
        self.pidfd_socket: str | None = None
        self.preserve_fds = 0
        self.stdio = (-1, -1, -1)
        self.rootless: bool | None = None
        self.bundle = ""
        self.adopts = False  # the program gets what its descendants leave, so that all of them can be ended with it
        self.verb = "exec"
        self.facts: "HostFacts | None" = None  # what gather() has said without being asked for more, where a caller knows that it still holds
        self.moves = False  # our own process may change its cgroup, where systemd wants it: it is there for this exec alone


def execute(options: ExecOptions) -> native.Create:
    """Starts the process; returns once its program executes. The result has its pid and pidfd, and is the caller's to close."""
    options.phase("look at the container")
    with opened(options.root, options.id) as container:
        pidfd, config, process = _begin(container, options)
        try:
            if options.attached and process.get("terminal"):
                _own_size(process)
            before = _to_initial_affinity(process)
            if before:
                options.phase(f"affinity: {_initial_affinity(process):#x} (execCPUAffinity.initial)")
            try:
                create, elsewhere = _launch(container, pidfd, config, process, options)
            finally:
                if before:
                    posix.sched_setaffinity(0, before)
            users_unit = container.flags & constants.WHERRY_PLAN_UNIT and container.flags & constants.WHERRY_PLAN_ROOTLESS  # we may have to move
            if "execCPUAffinity" not in process and not users_unit and not (options.attached and process.get("terminal")):
                from wherry.container.exec_cache import remember

                remember(container, config, options, create.plan, elsewhere, soon=True)
            return create
        finally:
            posix.close(pidfd)


def _begin(container: Container, options: ExecOptions) -> "tuple[int, dict[str, Any], dict[str, Any]]":
    """A pidfd of init, which is the caller's to close; the configuration; the process."""
    pidfd = _alive(container, options)
    try:
        config: dict[str, Any] = load(config_copy(container))  # type: ignore[assignment]
        process = process_of(config, options)
        check_terminal(process, options)
    except BaseException:
        posix.close(pidfd)
        raise
    return pidfd, config, process


def check_terminal(process: "dict[str, Any]", options: ExecOptions) -> None:
    terminal = bool(process.get("terminal"))
    if terminal and not options.attached and not options.console_socket:
        raise UsageError("cannot allocate tty if wherry will detach without setting console socket", code="WHERRY-USAGE-TERMINAL")
    if options.console_socket and (options.attached or not terminal):
        raise UsageError("cannot use console socket if wherry will not detach or allocate tty", code="WHERRY-USAGE-TERMINAL")


def _own_size(process: "dict[str, Any]") -> None:
    """The terminal begins as big as ours: who pumps it comes only after the program has begun."""
    try:
        columns, lines = posix.get_terminal_size(0)
    except OSError:
        return
    process.setdefault("consoleSize", {"height": lines, "width": columns})


def _alive(container: Container, options: ExecOptions) -> int:
    """A pidfd of init, where the container is in a state for it."""
    status = STATUS_NAMES[container.status()]
    if status not in ("created", "running") and not (status == "paused" and options.ignore_paused):
        raise refused("exec", status, options.id)
    try:
        return container.pidfd()
    except ProcessLookupError:
        raise refused("exec", "stopped", options.id) from None


# ---- the process


def process_of(config: "dict[str, Any]", options: ExecOptions) -> "dict[str, Any]":
    """Checked; what it does not say of itself is as in the container's configuration."""
    base: dict[str, Any] = config.get("process") or {}
    if options.process is not None:
        process: dict[str, Any] = load(options.process, options.process_name)  # type: ignore[assignment]
        process = {**{key: base[key] for key in _INHERITED if key in base}, **process}
    else:
        process = _from_flags(base, options)
    if not process.get("args"):
        raise UsageError("process args cannot be empty", remedy="name a command after the container's ID, or a file with --process")
    process.setdefault("cwd", "/")
    process.setdefault("user", {"uid": 0, "gid": 0})
    process.pop("terminal", None) if not process.get("terminal") else None
    try:
        check_process(process)  # type: ignore[arg-type]
    except ConfigError as error:
        if options.process is not None:
            error.message += f" (in {options.process_name})"
        raise
    return process


def _from_flags(base: "dict[str, Any]", options: ExecOptions) -> "dict[str, Any]":
    process = {**base, "args": options.args, "terminal": options.terminal}
    process.pop("consoleSize", None)
    if options.cwd:
        process["cwd"] = options.cwd
    process["env"] = [*(base.get("env") or ()), *options.env]
    process["user"] = _user(base.get("user") or {"uid": 0, "gid": 0}, options)
    if options.capabilities:
        sets = dict(base.get("capabilities") or {})
        # inheritable stays as it is: nobody asks for what a program would pass on. What may be passed on already is, so that an
        # exec as an ordinary user gets it, too
        passed_on = [name for name in options.capabilities if name in (sets.get("inheritable") or ())]
        for kind in ("bounding", "effective", "permitted", "ambient"):
            more = passed_on if kind == "ambient" else options.capabilities
            sets[kind] = list(dict.fromkeys([*(sets.get(kind) or ()), *more]))
        process["capabilities"] = sets
    if options.no_new_privileges:
        process["noNewPrivileges"] = True
    if options.label:
        process["selinuxLabel"] = options.label
    if options.apparmor:
        process["apparmorProfile"] = options.apparmor
    return process


def _user(base: "dict[str, Any]", options: ExecOptions) -> "dict[str, Any]":
    user = dict(base)
    if options.uid is not None:
        user["uid"] = options.uid
    if options.gid is not None:
        user["gid"] = options.gid
    if options.groups:
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *options.groups]
    return user


# ---- the container


def target_of(container: Container, options: ExecOptions) -> Target:
    pid = container.pid
    namespaces = {}
    for kind, name in _FILES.items():
        path = f"/proc/{pid}/ns/{name}"
        try:
            if posix.readlink(path) != posix.readlink(f"/proc/self/ns/{name}"):
                namespaces[kind] = path
        except FileNotFoundError:
            continue  # a kernel without it; or init is gone, which is found out when the process is published
    denied = "user" in namespaces and _read(f"/proc/{pid}/setgroups").strip() == "deny"
    return Target(pid, namespaces, cgroups_of(container, options.cgroups), has_keyring(container), denied)


def cgroups_of(container: Container, below: "list[str]" = []) -> list[Cgroup]:  # noqa: B006 - never changed
    """The container's cgroups, by its journal; `below`: --cgroup [CONTROLLER,...:]PATH, each a cgroup below them."""
    found = []
    for entry in container.journal():
        if entry.kind not in (constants.WHERRY_JOURNAL_CGROUP_V1, constants.WHERRY_JOURNAL_CGROUP_V2):
            continue
        if entry.state in (constants.WHERRY_JOURNAL_DONE, constants.WHERRY_JOURNAL_FOREIGN):
            found.append(Cgroup(entry.path, entry.mount_length, entry.kind == constants.WHERRY_JOURNAL_CGROUP_V2))
    for given in below:
        _move_below(found, given)
    return found


def _move_below(cgroups: list[Cgroup], given: str) -> None:
    names, separator, path = given.rpartition(":")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise UsageError(
            f'invalid value "{given}" for flag -cgroup: bad sub cgroup path', remedy="it is a path below the container's cgroup"
        )
    chosen = cgroups
    if separator:
        wanted = set(names.split(","))
        chosen = [cgroup for cgroup in cgroups if not cgroup.v2 and wanted & set(cgroup.mount.rpartition("/")[2].split(","))]
    if not chosen:
        raise UsageError(f'invalid value "{given}" for flag -cgroup: unknown controller {names}', remedy="the container has no such cgroup")
    for cgroup in chosen:
        cgroup.path = "/".join((cgroup.path.rstrip("/"), *parts))


def has_keyring(container: Container) -> bool:
    """Whether its create made one (--no-new-keyring): its plan says so."""
    if not container.damage:
        return bool(container.flags & constants.WHERRY_RECORD_KEYRING)
    plan = container.kept("plan")  # of another build
    count, at = HEADER.unpack_from(plan)[6:8]
    for _ in range(count):
        code, size = unpack_from("<HxxI", plan, at)
        if code == constants.OP_KEYRING:
            return True
        at += size
    return False


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


# ---- the launch


def _launch(
    container: Container, pidfd: int, config: "dict[str, Any]", process: "dict[str, Any]", options: ExecOptions
) -> "tuple[native.Create, bool]":
    """And whether the container's cgroup is not where its record says."""
    target = target_of(container, options)
    if options.moves and container.flags & constants.WHERRY_PLAN_UNIT:
        from wherry.container.unit import move_near

        move_near(container, target.cgroups)
    try:
        return _attempt(pidfd, config, process, target, options), False
    except WherryError as error:
        gone = error.facts.get("errno") == ENOENT and error.facts.get("call") == "OPEN"
        full = error.facts.get("errno") == EBUSY and error.facts.get("call") == "CLONE"
        own = init_cgroup(target, gone) if (full or gone) and not options.cgroups else None
        if own is None:
            raise
    # a cgroup v2 that hands controllers down takes no process: systemd has moved the container's init below it, and us with it. Or it is gone
    target.cgroups = [own if cgroup.v2 else cgroup for cgroup in target.cgroups]
    return _attempt(pidfd, config, process, target, options), True


def init_cgroup(target: Target, anywhere: bool = False) -> "Cgroup | None":
    """Where init is in the v2 hierarchy now, if that is below the cgroup that was made for it; or anywhere else, where that is gone."""
    unified = next((cgroup for cgroup in target.cgroups if cgroup.v2), None)
    for line in _read(f"/proc/{target.pid}/cgroup").splitlines():
        if line.startswith("0::") and unified is not None:
            path = unified.mount + line[3:]
            moved = posix.access(path, posix.F_OK) and not posix.access(unified.path, posix.F_OK) if anywhere else path.startswith(unified.path + "/")
            if moved and ".." not in path.split("/"):
                return Cgroup(path, unified.mount_length, True)
    return None


def compile_plan(config: "dict[str, Any]", process: "dict[str, Any]", target: Target, options: ExecOptions) -> bytes:
    options.phase("look at the host")
    wanted = {
        "lsms": bool(process.get("apparmorProfile") or process.get("selinuxLabel")),
        "landlock": "org.wherry.landlock" in (config.get("annotations") or {}),
    }
    facts = options.facts if not any(wanted.values()) and "user" not in target.namespaces else None
    facts = facts or gather(**wanted, namespaces=target.namespaces.values() if "user" in target.namespaces else ())
    filters = lambda section: _filter(section, options.root)  # noqa: E731
    choices = Options(rootless=options.rootless, environment=listen_environment(), seccomp=filters)
    choices.adopts = options.adopts
    options.phase("compile")
    return compile(config, process, target, facts, choices)


def _attempt(pidfd: int, config: "dict[str, Any]", process: "dict[str, Any]", target: Target, options: ExecOptions) -> native.Create:
    plan = compile_plan(config, process, target, options)
    options.phase("native exec")
    create = native.Create(
        plan=plan,
        root=options.root,
        id=options.id,
        bundle="",
        bundle_json="",
        config=b"",
        pid_file=options.pid_file,
        console_socket=options.console_socket,
        pidfd_socket=options.pidfd_socket,
        preserve_fds=options.preserve_fds + (int(posix.environ[b"LISTEN_FDS"]) if listen_environment() else 0),
        stdio=options.stdio,
        trace=options.trace(plan),
    )
    try:
        create.execute(pidfd)
        if options.timeline is not None:
            options.timeline.pid = create.pid
    except Failure as failure:
        raise worded(failure, plan, pidfd, options) from failure
    return create


class Planned:
    """An exec that somebody else launches. `pidfd` (of the container's init) is the caller's to close; `affinity`: the processors on which
    the launch itself is to run, as a mask of bytes; `again`: the next one like it may have the same plan; `elsewhere`: the container's cgroup
    is not where its record says."""

    __slots__ = ("affinity", "again", "elsewhere", "pidfd", "plan", "process")

    def __init__(self, plan: bytes, pidfd: int, process: "dict[str, Any]", config: "dict[str, Any]", elsewhere: bool) -> None:
        self.plan, self.pidfd, self.process, self.elsewhere = plan, pidfd, process, elsewhere
        self.again = "execCPUAffinity" not in process and "listenerPath" not in ((config.get("linux") or {}).get("seccomp") or {})
        initial = _initial_affinity(process)
        self.affinity = initial.to_bytes((initial.bit_length() + 63) // 64 * 8, "little") if initial else b""


def prepare(options: ExecOptions, below: bool = False) -> Planned:
    """All of an exec but its launch. below: after an EBUSY of the clone, with the cgroup where init is now."""
    with opened(options.root, options.id) as container:
        pidfd, config, process = _begin(container, options)
        try:
            target = target_of(container, options)
            own = init_cgroup(target) if below else None
            if own is not None:
                target.cgroups = [own if cgroup.v2 else cgroup for cgroup in target.cgroups]
            return Planned(compile_plan(config, process, target, options), pidfd, process, config, own is not None)
        except BaseException:
            posix.close(pidfd)
            raise


def known(container: Container, options: ExecOptions, facts: str = "") -> "bytes | None":
    """The plan that an exec like this one has left, of one process.json, here or in a container of this kind. facts: the key of the host's, where
    that is known."""
    if not container.damage:
        return native.exec_plan(container, options.root, True, named(options), facts)
    try:  # of another build, so it is of no kind
        return native.Pattern(named(options), container=container, file=True, facts=facts).load(f"{options.root}/{options.id}")
    except OSError:
        return None


def named(options: ExecOptions) -> bytes:
    """A process.json. One that adopts has another plan, which the front does not ask for; JSON may end in blanks."""
    return (options.process or b"") + (b" \t \t " if options.adopts else b"")


def keep(options: ExecOptions, planned: Planned) -> None:
    """After a launch that went well: for the next one like it."""
    from wherry.container.exec_cache import remember

    with opened(options.root, options.id) as container:
        remember(container, load(config_copy(container)), options, planned.plan, planned.elsewhere)  # type: ignore[arg-type]


def worded(failure: Failure, plan: bytes, pidfd: int, options: ExecOptions) -> WherryError:
    from wherry.container.wording import Setting, explain

    leaving = failure.error == ESRCH and failure.call == "SETNS"  # it has let go of its namespaces, which is just before its end
    if native.pidfd_wait(pidfd, 50 if leaving else 0) or (failure.error == ESRCH and not leaving):
        return refused("exec", "stopped", options.id)
    error = explain(failure, plan, Setting("exec", options.root, options.id, options=options))  # type: ignore[arg-type]
    if failure.error == EBUSY and failure.call == "CLONE":
        error.message = f"error adding pid of the new process to cgroups: {error.message}"
    if (error.pointer or "").startswith("/process"):
        error.pointer = None  # of the container's process, which this is not
    return error


def _filter(section: "dict[str, Any]", root: str) -> "tuple[bytes, int]":
    from wherry.seccomp.cache import filter_of, flags_of

    return filter_of(section, root), flags_of(section)


def _initial_affinity(process: "dict[str, Any]") -> int:
    """execCPUAffinity.initial is where the runtime itself runs until the process is in its cgroup: a bit mask, 0 = anywhere."""
    given = (process.get("execCPUAffinity") or {}).get("initial")
    if not given:
        return 0
    from wherry.plan.scheduling import node_mask

    return node_mask(given)


def _to_initial_affinity(process: "dict[str, Any]") -> "set[int]":
    """Where we ran before, if that has changed."""
    initial = _initial_affinity(process)
    if not initial:
        return set()
    before = posix.sched_getaffinity(0)
    try:
        posix.sched_setaffinity(0, [number for number in range(initial.bit_length()) if initial >> number & 1])
    except OSError as error:
        raise StateError(f"execCPUAffinity: {(error.strerror or '').lower()}", code="WHERRY-HOST") from error
    return before
