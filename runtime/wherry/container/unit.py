# SPDX-License-Identifier: Apache-2.0
"""A container's unit of systemd: made while init waits, changed by update, ended by delete and gc. Loaded where a container has one.

Its name is journaled before systemd hears of it. Which unit of that name is ours is said by the unit itself: its documentation is the config.json
of the container's directory, and that directory is claimed by one create alone. What another made is never stopped.
"""

import posix
from struct import unpack_from
from typing import Any

from wherry.errors import HostError, WherryError
from wherry.kernel import native
from wherry.kernel.native import Container, Create, constants
from wherry.plan.encode import FORMATS, HEADER, ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cgroup.systemd import Manager
    from wherry.cgroup.units import Property
    from wherry.container.options import CreateOptions
    from wherry.kernel.hostfacts import HostFacts
    from wherry.plan.execute import Cgroup

_SIGKILL = 9
_USER = "--user "  # before a name in the journal: as systemctl has it
_END_WAIT_S = 10.0


class Made:
    """OP_UNIT of a plan, its slots filled."""

    __slots__ = ("cgroup", "flags", "name", "place", "properties", "slice")

    def __init__(self, plan: bytes, id: str) -> None:
        place, name, cgroup, slice, properties, self.flags = _operation(plan)
        self.place = _text(plan, place) or None
        self.name, self.cgroup = _text(plan, name).replace(ID, id), _text(plan, cgroup).replace(ID, id)
        self.slice = _text(plan, slice)
        offset, count = properties & 0xFFFFFFFF, properties >> 32
        references = unpack_from(f"<{count}Q", plan, offset)
        from wherry.cgroup.units import from_text

        self.properties = [from_text(_text(plan, reference)) for reference in references]

    @property
    def user(self) -> bool:
        return bool(self.flags & constants.WHERRY_UNIT_USER)

    @property
    def is_slice(self) -> bool:
        return bool(self.flags & constants.WHERRY_UNIT_SLICE)

    @property
    def journal_name(self) -> str:
        return f"{_USER}{self.name}" if self.user else self.name


def _operation(plan: bytes) -> Any:
    """Its place and its own fields."""
    count, at = HEADER.unpack_from(plan)[6:8]
    for _ in range(count):
        code, size = unpack_from("<HxxI", plan, at)
        if code == constants.OP_UNIT:
            return unpack_from(f"<Q{FORMATS['UNIT']}", plan, at + 8)
        at += size
    raise ValueError("a plan without a unit")


def _text(plan: bytes, reference: int) -> str:
    offset, length = reference & 0xFFFFFFFF, reference >> 32
    return plan[offset : offset + length].decode("utf-8", "surrogateescape")


def _manager(user: bool) -> "Manager":
    """Late: most deletes need none."""
    from wherry.cgroup import systemd

    return systemd.connect(user)


# ---- create


def look(facts: "HostFacts", options: "CreateOptions", config: "dict[str, Any]", given: bool) -> None:
    """What the compiler has to know of systemd, unless somebody has put it in. Whoever has no rights over the host has a manager of his own."""
    from wherry.cgroup import systemd
    from wherry.plan.compile import CAP_SYS_ADMIN
    from wherry.plan.unit import check_id

    check_id(options.id, (config.get("linux") or {}).get("cgroupsPath") or "")
    if not given:
        privileged = facts.capabilities & CAP_SYS_ADMIN and not options.rootless and not facts.user_namespace
        facts.systemd = systemd.facts(user=not privileged)
        if not privileged and facts.v2_mount:
            facts.systemd["controllers"] = _read(f"{facts.v2_mount}{facts.systemd['cgroup']}/cgroup.controllers").split()


class UnitPart:
    """The part of the interlude: `index` is that of the unit's entry in the journal."""

    def __init__(self, plan: bytes, id: str) -> None:
        self.made = Made(plan, id)
        self.id, self.index = id, 0
        self.mark = ""  # once it is begun

    @property
    def extra(self) -> "tuple[int, str]":
        return constants.WHERRY_JOURNAL_UNIT, self.made.journal_name

    def perform(self, create: Create, pid: int = 0) -> None:
        """pid: of another process that is taken into the unit, in the place of init."""
        made, pid = self.made, pid or create.pid
        try:
            with _manager(made.user) as manager:
                create.mark(self.index, constants.WHERRY_JOURNAL_BEGUN)
                self.mark = mark_of(create.directory)
                manager.start(made.name, self._properties(pid))
        except WherryError as error:
            error.pointer = error.pointer or made.place
            raise
        create.mark(self.index, constants.WHERRY_JOURNAL_DONE)
        if made.is_slice:
            _enter(made.cgroup, pid)
        else:
            _check_place(made, pid)

    def _properties(self, pid: int) -> "list[Property]":
        identity: "list[Property]" = [
            ("Description", "s", f"wherry container {self.id}"),
            ("Documentation", "as", [self.mark]),
        ]
        if self.made.is_slice:
            identity.append(("Wants", "as", [self.made.slice]))
        else:
            identity += [("Slice", "s", self.made.slice), ("PIDs", "au", [pid])]
        named = {item[0] for item in self.made.properties}
        return [item for item in identity if item[0] not in named] + self.made.properties

    def undo(self, error: BaseException) -> None:
        """After a failure, when init is gone: nobody has to wait for systemd to notice. What fails here is told beside that error."""
        if not self.mark:
            return
        try:
            with _manager(self.made.user) as manager:
                _stop(manager, self.made.name, self.mark)
        except WherryError as other:
            if isinstance(error, WherryError):
                error.also.append(other)


def mark_of(directory: int) -> str:
    """A URL, of the real path: by whatever way the directory was come to."""
    from urllib.parse import quote

    path = posix.readlink(f"/proc/self/fd/{directory}")
    return f"file:{quote(path.encode('utf-8', 'surrogateescape'))}/config.json"


def _enter(cgroup: str, pid: int) -> None:
    """A slice takes no processes from systemd."""
    from wherry.kernel.hostfacts import HostFacts, cgroup_layout

    facts = HostFacts()
    cgroup_layout(facts, _read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    mount = facts.v2_mount if facts.cgroup_mode == "v2" else next(h.mount for h in facts.hierarchies if "name=systemd" in h.controllers)
    path = f"{mount}{cgroup}/cgroup.procs"
    try:
        with open(path, "w") as file:
            file.write(str(pid))
    except OSError as error:
        raise HostError(f"write {pid} to {path}: {(error.strerror or '').lower()}", code="WHERRY-HOST-CGROUP") from error


def _check_place(made: Made, pid: int) -> None:
    """Where systemd has moved it is where the plan sets its limits."""
    lines = _read(f"/proc/{pid}/cgroup").splitlines()
    if not any(line.partition(":")[2] in (f":{made.cgroup}", f"name=systemd:{made.cgroup}") for line in lines):
        found = ", ".join(line.partition(":")[2] for line in lines if line.startswith("0:") or "name=systemd" in line)
        message = f"{made.name} is not where it was expected: {made.cgroup} (init is in {found.lstrip(':')})"
        raise HostError(message, code="WHERRY-HOST-SYSTEMD-UNIT", pointer=made.place)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


# ---- what exists


class Entry:
    """A unit in the journal of a container."""

    __slots__ = ("done", "name", "user")

    def __init__(self, text: str, done: bool) -> None:
        self.user = text.startswith(_USER)
        self.name = text.removeprefix(_USER)
        self.done = done


def entry_of(container: Container) -> "Entry | None":
    """None where it was never begun."""
    for entry in container.journal():
        if entry.kind == constants.WHERRY_JOURNAL_UNIT and entry.state in (constants.WHERRY_JOURNAL_BEGUN, constants.WHERRY_JOURNAL_DONE):
            return Entry(entry.path, entry.state == constants.WHERRY_JOURNAL_DONE)
    return None


def end(container: Container, kill_first: bool) -> None:
    """Before the container is destroyed: its processes, then its unit. What is gone already is no error."""
    entry = entry_of(container)
    if entry is None or container.boot_id != _read("/proc/sys/kernel/random/boot_id").strip():
        return
    if kill_first:
        _kill(container)
    if entry.done and _has_vanished(container):
        return
    try:
        with _manager(entry.user) as manager:
            ours = mark_of(container.directory) in manager.documentation(entry.name)
            if ours and (kill_first or container.flags & constants.WHERRY_PLAN_SHARED_PID):
                _kill_rest(container)
            if ours:
                manager.stop(entry.name)
    except WherryError:
        if any(posix.access(path, posix.F_OK) for path in _cgroups(container)):
            raise
        # it ended with its last process, and who could not be asked has nothing to tell


def end_named(name: str, directory: int) -> None:
    """By state.json, where there is no record that could be read."""
    entry = Entry(name, True)
    try:
        with _manager(entry.user) as manager:
            _stop(manager, entry.name, mark_of(directory))
    except WherryError:
        return  # its cgroup is removed as one without a unit


def _has_vanished(container: Container) -> bool:
    """A scope ends with its last process, and systemd takes the cgroup away when it has. Nobody has to be asked then, unless it keeps failed ones."""
    if any(posix.access(path, posix.F_OK) for path in _cgroups(container)):
        return False
    made = Made(container.kept("plan"), container.id)
    return not made.is_slice and ("CollectMode", "s", "inactive-or-failed") in made.properties


def _kill(container: Container) -> None:
    try:
        pidfd = container.pidfd()
    except ProcessLookupError:
        return
    try:
        container.signal(_SIGKILL)
        native.pidfd_wait(pidfd, int(_END_WAIT_S * 1000))
    except ProcessLookupError:
        pass
    finally:
        posix.close(pidfd)


def _kill_rest(container: Container) -> None:
    """Who is still in its cgroups: they are the unit's, and the unit is ours."""
    for entry in container.journal():
        v2 = entry.kind == constants.WHERRY_JOURNAL_CGROUP_V2
        if entry.kind in (constants.WHERRY_JOURNAL_CGROUP_V1, constants.WHERRY_JOURNAL_CGROUP_V2):
            try:
                native.cgroup_kill(entry.path, v2)
            except FileNotFoundError:
                continue


def _cgroups(container: Container) -> "list[str]":
    kinds = (constants.WHERRY_JOURNAL_CGROUP_V1, constants.WHERRY_JOURNAL_CGROUP_V2)
    return [entry.path for entry in container.journal() if entry.kind in kinds and entry.state == constants.WHERRY_JOURNAL_FOREIGN]


def _stop(manager: "Manager", name: str, mark: str) -> None:
    if mark in manager.documentation(name):
        manager.stop(name)


# ---- exec


def move_near(container: Container, cgroups: "list[Cgroup]") -> None:
    """Whoever comes from a login session may not start a process in a cgroup of his own manager: the kernel asks for the right to write to what both
    cgroups have above them. So the manager takes us, who are here for this exec alone, into a scope of our own first."""
    entry = entry_of(container)
    unified = next((cgroup for cgroup in cgroups if cgroup.v2), None)
    own = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "")
    if entry is None or not entry.user or unified is None or _may_enter(unified, own):
        return
    pid = posix.getpid()
    with _manager(user=True) as manager:
        manager.start(f"wherry-exec-{pid}.scope", [("PIDs", "au", [pid]), ("CollectMode", "s", "inactive-or-failed")])


def _may_enter(cgroup: "Cgroup", own: str) -> bool:
    above = cgroup.mount
    for one, other in zip(cgroup.path[cgroup.mount_length :].split("/"), own.split("/"), strict=False):
        if one != other:
            break
        above = f"{above}/{one}" if one else above
    return posix.access(f"{above}/cgroup.procs", posix.W_OK)


# ---- update


def update(container: Container, resources: "dict[str, Any]", v2: bool) -> None:
    """systemd first: what it is told survives its daemon-reload. The files follow, as without it."""
    from wherry.cgroup.units import v1_properties, v2_properties

    entry = entry_of(container)
    if entry is None:
        return
    with _manager(entry.user) as manager:
        version = manager.version()
        properties = v2_properties(resources, version) if v2 else v1_properties(resources, version)
        if properties:
            manager.set_properties(entry.name, properties)
