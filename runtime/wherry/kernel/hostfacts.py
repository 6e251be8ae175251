# SPDX-License-Identifier: Apache-2.0
"""What the plan compiler has to know of the host, gathered in one place. A plan is a function of the configuration and of these.

Facts can be stored as JSON (`wherry plan --facts`, test fixtures) and be put in again, so that a plan for any host can be made on
any other. `key` is the fingerprint that C computes over the same sources: two hosts with one key have the same facts.
"""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_OWN = "own"  # the namespace is the caller's, or is owned by the caller's user namespace


class Hierarchy:
    """One mounted cgroup v1 hierarchy. `own` is the caller's cgroup below `mount`, "/" = the mount itself; "" = out of sight."""

    __slots__ = ("controllers", "mount", "own")

    def __init__(self, controllers: "Iterable[str]", mount: str, own: str) -> None:
        self.controllers = tuple(controllers)  # ("cpu", "cpuacct"), ("name=systemd",)
        self.mount = mount
        self.own = own


class Namespace:
    """A namespace file that the configuration wants to join. `owner`: "own" = owned by the caller's user namespace; else the number of
    the one that owns it (its inode), as `number` is its own. `kind` is CLONE_NEW*. `ours`: the caller is in it. `maps`: of a user namespace
    that is named by a process of it, the texts of its uid_map and gid_map; else none."""

    __slots__ = ("kind", "maps", "number", "ours", "owner")

    def __init__(self, kind: int, number: int, owner: "int | str", ours: bool, maps: "Iterable[str]" = ()) -> None:
        self.kind = kind
        self.number = number
        self.owner = owner
        self.ours = ours
        self.maps = tuple(maps)


class HostFacts:
    __slots__ = (
        "cap_last_cap", "capabilities", "cgroup_mode", "delegate", "gid", "hierarchies", "kernel", "key", "landlock", "lsms", "namespaces",
        "newgidmap", "newuidmap", "setgroups_denied", "systemd", "uid", "user_namespace", "v2_controllers", "v2_mount", "v2_own",
    )  # fmt: skip

    def __init__(self) -> None:
        self.key = ""
        self.kernel = ""  # release
        self.uid = 0
        self.gid = 0
        self.user_namespace = False  # in another user namespace than the first one
        self.setgroups_denied = False  # for ever, in the caller's user namespace
        self.capabilities = 0  # permitted and effective
        self.cap_last_cap = 40
        self.lsms: "tuple[str, ...]" = ()  # only where asked for
        self.landlock = 0  # ABI; 0 = none, or not asked for
        self.cgroup_mode = "none"  # "v1", "hybrid" (v1, and a v2 tree beside it), "v2", "none"
        self.hierarchies: "list[Hierarchy]" = []  # v1
        self.v2_mount = ""
        self.v2_own = ""
        self.v2_controllers: "tuple[str, ...]" = ()
        self.delegate: "tuple[str, ...]" = ()  # only where asked for
        self.newuidmap = ""  # "" = none, or not asked for
        self.newgidmap = ""
        self.namespaces: "dict[str, Namespace]" = {}  # by path; only where asked for
        self.systemd: "dict[str, Any] | None" = None  # version, user (its manager, not the system's), cgroup (of the manager); only where asked for

    def to_json(self) -> "dict[str, Any]":
        value: "dict[str, Any]" = {name: getattr(self, name) for name in self.__slots__}
        value["capabilities"] = f"{self.capabilities:#x}"
        for name in ("lsms", "v2_controllers", "delegate"):
            value[name] = list(value[name])
        value["hierarchies"] = [{"controllers": list(h.controllers), "mount": h.mount, "own": h.own} for h in self.hierarchies]
        value["namespaces"] = {
            path: {name: list(n.maps) if name == "maps" else getattr(n, name) for name in Namespace.__slots__} for path, n in self.namespaces.items()
        }
        return value

    @classmethod
    def from_json(cls, value: "dict[str, Any]") -> "HostFacts":
        facts = cls()
        for name, item in value.items():
            if name not in cls.__slots__:
                raise ValueError(f"no such host fact: {name}")
            setattr(facts, name, tuple(item) if name in ("lsms", "v2_controllers", "delegate") else item)
        if "capabilities" in value:
            facts.capabilities = int(value["capabilities"], 16)
        facts.hierarchies = [Hierarchy(h["controllers"], h["mount"], h["own"]) for h in value.get("hierarchies", ())]
        facts.namespaces = {path: Namespace(**n) for path, n in value.get("namespaces", {}).items()}
        return facts


def gather(
    key: str = "", /, *, lsms: bool = False, landlock: bool = False, delegate: bool = False, mappers: bool = False, namespaces: "Iterable[str]" = ()
) -> HostFacts:
    """The facts of this host. What only some configurations need is gathered where asked for (wherry.plan.compile.wanted). key: theirs, if that
    still holds."""
    from wherry.kernel.native import facts_key

    facts = HostFacts()
    facts.key = key or facts_key()
    facts.kernel = posix.uname().release
    facts.uid, facts.gid = posix.geteuid(), posix.getegid()
    facts.user_namespace = _read("/proc/self/uid_map").split() != ["0", "0", "4294967295"]
    facts.setgroups_denied = facts.user_namespace and _read_or("/proc/self/setgroups").strip() == "deny"
    facts.capabilities = _capabilities(_read("/proc/self/status"))
    facts.cap_last_cap = int(_read("/proc/sys/kernel/cap_last_cap"))
    cgroup_layout(facts, _read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    if facts.cgroup_mode in ("v2", "hybrid"):
        facts.v2_controllers = tuple(_read_or(facts.v2_mount + "/cgroup.controllers").split())
    if lsms:
        facts.lsms = _lsms()
    if landlock:
        facts.landlock = landlock_abi()
    if delegate:
        facts.delegate = tuple(_read_or("/sys/kernel/cgroup/delegate", "cgroup.procs cgroup.subtree_control cgroup.threads").split())
    if mappers:
        facts.newuidmap, facts.newgidmap = _program("newuidmap"), _program("newgidmap")
    facts.namespaces = {path: found for path in namespaces if (found := _namespace(path))}
    return facts


def cgroup_layout(facts: HostFacts, cgroup: str, mountinfo: str) -> None:
    """Fills in the cgroup facts from the texts of /proc/self/cgroup and /proc/self/mountinfo."""
    v1, v2 = _cgroup_mounts(mountinfo)
    pure = any(mount == "/sys/fs/cgroup" for _, mount, _ in v2)
    for line in cgroup.splitlines():
        _, names, own = line.split(":", 2)
        if not names:
            found = _nearest(v2, (), own)
            if found:
                facts.v2_mount, facts.v2_own = found
        elif not pure:
            controllers = names.split(",")
            found = _nearest(v1, controllers, own)
            if found:
                facts.hierarchies.append(Hierarchy(controllers, *found))
    if facts.hierarchies:
        facts.cgroup_mode = "hybrid" if facts.v2_mount else "v1"
    elif facts.v2_mount:
        facts.cgroup_mode = "v2"


def _cgroup_mounts(mountinfo: str) -> "tuple[list[tuple[str, str, list[str]]], list[tuple[str, str, list[str]]]]":
    """(root, mount point, options of the superblock) of every cgroup v1 mount and of every v2 mount."""
    v1, v2 = [], []
    for line in mountinfo.splitlines():
        if " - cgroup" in line:
            left, _, right = line.partition(" - ")
            fields, (kind, _, options) = left.split(" "), right.split(" ", 2)
            found = (_unescape(fields[3]), _unescape(fields[4]), options.split(","))
            if kind == "cgroup":
                v1.append(found)
            elif kind == "cgroup2":
                v2.append(found)
    return v1, v2


def _nearest(mounts: "list[tuple[str, str, list[str]]]", controllers: "Iterable[str]", own: str) -> "tuple[str, str] | None":
    """The first mount of the hierarchy that shows the caller's cgroup, else the first: (mount point, own cgroup below it or "")."""
    first = None
    for root, mount, options in mounts:
        if all(name in options for name in controllers):
            if root == "/" and own[:4] != "/../":
                return mount, own
            if own == root or own.startswith(root + "/"):
                return mount, own[len(root) :] or "/"
            first = first or (mount, "")
    return first


def _unescape(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\") if "\\" in text else text


def _capabilities(status: str) -> int:
    sets = {line[:6]: int(line[7:], 16) for line in status.splitlines() if line[:3] == "Cap"}
    return sets["CapPrm"] & sets["CapEff"]


def _lsms() -> "tuple[str, ...]":
    """securityfs is often not mounted: then each is asked for where it shows itself."""
    listed = _read_or("/sys/kernel/security/lsm")
    if listed:
        return tuple(listed.strip().split(","))
    found = []
    if _read_or("/sys/module/apparmor/parameters/enabled")[:1] == "Y":
        found.append("apparmor")
    if _read_or("/sys/fs/selinux/enforce"):
        found.append("selinux")
    return tuple(found)


def _program(name: str) -> str:
    """Fixed places and no PATH: engines call with an empty environment, and facts must not depend on it."""
    for directory in ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/usr/sbin", "/sbin"):
        if posix.access(f"{directory}/{name}", posix.X_OK):
            return f"{directory}/{name}"
    return ""


_KINDS = {0x80: "time", 0x20000: "mnt", 0x2000000: "cgroup", 0x4000000: "uts", 0x8000000: "ipc", 0x10000000: "user",
          0x20000000: "pid", 0x40000000: "net"}  # fmt: skip
_NS_GET_USERNS = 0xB701
_NS_GET_NSTYPE = 0xB703


def _namespace(path: str) -> "Namespace | None":
    """None where it cannot be opened or is no namespace: the launcher will say so, with the field of the configuration."""
    from fcntl import ioctl

    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        kind = ioctl(fd, _NS_GET_NSTYPE)
        number = posix.fstat(fd).st_ino
        ours = number == posix.stat(f"/proc/self/ns/{_KINDS[kind]}").st_ino
        return Namespace(kind, number, _owner(fd, ioctl), ours, _maps(path) if _KINDS[kind] == "user" else ())
    except (OSError, KeyError):
        return None
    finally:
        posix.close(fd)


def _maps(path: str) -> "list[str]":
    """Each line as it would be written: "0 100000 65536"."""
    if path[:6] != "/proc/" or path[-8:] != "/ns/user":
        return []
    texts = (_read_or(f"{path[:-7]}{file}") for file in ("uid_map", "gid_map"))
    return ["".join(" ".join(line.split()) + "\n" for line in text.splitlines()) for text in texts]


def _owner(fd: int, ioctl: "Any") -> "int | str":
    try:
        owner = ioctl(fd, _NS_GET_USERNS)
    except PermissionError:  # owned by a user namespace above ours: as good, or as bad, as our own
        return _OWN
    try:
        number = posix.fstat(owner).st_ino
    finally:
        posix.close(owner)
    return _OWN if number == posix.stat("/proc/self/ns/user").st_ino else number


def _read(path: str) -> str:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        pieces = []
        while piece := posix.read(fd, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces).decode("utf-8", "surrogateescape")
    finally:
        posix.close(fd)


def _read_or(path: str, default: str = "") -> str:
    try:
        return _read(path)
    except OSError:
        return default


def landlock_abi() -> int:
    """0 where the kernel has none."""
    from wherry.kernel.trials import Refused, call

    try:
        return call("landlock_create_ruleset", None, 0, 1)
    except Refused:
        return 0
