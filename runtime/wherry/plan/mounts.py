# SPDX-License-Identifier: Apache-2.0
"""The container's filesystem: the rootfs, mounts in the order of the configuration, devices and links below /dev.

A mount's options are sorted by one table (OPTIONS) into flags of the mount itself (MOUNT_ATTR_*), flags of the superblock (MS_*),
propagation, and what to do; a word that is not in the table is data for the filesystem.
"""

from wherry.errors import ConfigError, HostError
from wherry.kernel.native import constants
from wherry.oci.checks import PROC_FILES
from wherry.plan.encode import DIRECTORY, INIT, LAUNCHER, NO_ATTRIBUTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.plan.compile import Job

    Attributes = tuple[int, ...]

RDONLY, NOSUID, NODEV, NOEXEC, NODIRATIME, NOSYMFOLLOW = 0x1, 0x2, 0x4, 0x8, 0x80, 0x200000
ATIME, NOATIME, STRICTATIME = 0x70, 0x10, 0x20  # a field of its own: relatime is 0
MS_RDONLY, MS_REC, MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1, 0x4000, 1 << 17, 1 << 18, 1 << 19, 1 << 20

ATTRIBUTE, RECURSIVE, SUPERBLOCK, PROPAGATION, ACTION = range(5)

# set, clear
_ATTRIBUTES = {
    "ro": (RDONLY, 0),
    "rw": (0, RDONLY),
    "nosuid": (NOSUID, 0),
    "suid": (0, NOSUID),
    "nodev": (NODEV, 0),
    "dev": (0, NODEV),
    "noexec": (NOEXEC, 0),
    "exec": (0, NOEXEC),
    "noatime": (NOATIME, ATIME),
    "atime": (0, ATIME),
    "strictatime": (STRICTATIME, ATIME),
    "nostrictatime": (0, ATIME),
    "relatime": (0, ATIME),
    "norelatime": (0, ATIME),
    "nodiratime": (NODIRATIME, 0),
    "diratime": (0, NODIRATIME),
    "nosymfollow": (NOSYMFOLLOW, 0),
    "symfollow": (0, NOSYMFOLLOW),
}
_SUPERBLOCK = {
    "sync": (0x10, 0),
    "async": (0, 0x10),
    "dirsync": (0x80, 0),
    "lazytime": (1 << 25, 0),
    "nolazytime": (0, 1 << 25),
    "mand": (0x40, 0),
    "nomand": (0, 0x40),
    "iversion": (1 << 23, 0),
    "noiversion": (0, 1 << 23),
    "silent": (0x8000, 0),
    "loud": (0, 0x8000),
}
PROPAGATIONS = {"shared": MS_SHARED, "slave": MS_SLAVE, "private": MS_PRIVATE, "unbindable": MS_UNBINDABLE}
PROPAGATIONS.update({f"r{name}": flag | MS_REC for name, flag in list(PROPAGATIONS.items())})

OPTIONS: "dict[str, tuple[int, int, int]]" = {
    **{name: (ATTRIBUTE, *bits) for name, bits in _ATTRIBUTES.items()},
    **{f"r{name}": (RECURSIVE, *bits) for name, bits in _ATTRIBUTES.items()},
    **{name: (SUPERBLOCK, *bits) for name, bits in _SUPERBLOCK.items()},
    **{name: (PROPAGATION, flag, 0) for name, flag in PROPAGATIONS.items()},
    **{name: (ACTION, 0, 0) for name in ("defaults", "bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup")},
}

# Words that clear a flag of an existing superblock, as the filesystem's own parser knows them (remount without bind).
_CLEARING = frozenset(("rw", "async", "nolazytime", "nomand"))

# Filesystems of the kernel's own: read-only is a flag of the mount. On others the superblock is made read-only, too. (A sysfs that is
# read-only as a whole would be so for every container that shares the network namespace.)
_KERNELS_OWN = frozenset(
    (
        "proc",
        "sysfs",
        "tmpfs",
        "devpts",
        "mqueue",
        "cgroup",
        "cgroup2",
        "ramfs",
        "bpf",
        "debugfs",
        "tracefs",
        "securityfs",
        "hugetlbfs",
        "configfs",
        "binfmt_misc",
        "devtmpfs",
    )
)
_NO_LABEL = frozenset(("proc", "sysfs", "mqueue", "cgroup", "cgroup2"))

S_IFCHR, S_IFBLK, S_IFIFO = 0x2000, 0x6000, 0x1000
_DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
)


def clean(path: str) -> str:
    """The path from /, without ".", empty components and "..", which is applied to the text."""
    if path[:1] == "/" and "//" not in path and "/." not in path and (path[-1:] != "/" or path == "/"):
        return path
    parts: "list[str]" = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


_TIMES = ("noatime", "relatime", "strictatime", "nodiratime")
_NOT = {"atime": "noatime", "diratime": "nodiratime", "norelatime": "relatime", "nostrictatime": "strictatime"}


def relative(path: str) -> str:
    """The same for what is below a place that is not known yet: a ".." that leads above it stays, behind a slash as all of it."""
    parts: "list[str]" = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def _times(options: "list[str]") -> int:
    """When accesses are to be noted, as mount(2) has it: of several ways strictatime counts, else noatime. -1: none of the four options
    stands in the end, `atime` alone says nothing, and a bind keeps its source's ways."""
    named: "set[str]" = set()
    for option in options:
        if option in _TIMES:
            named.add(option)
        else:
            named.discard(_NOT.get(option, ""))
    if not named:
        return -1
    time = STRICTATIME if "strictatime" in named else NOATIME if "noatime" in named else 0
    return time | (NODIRATIME if "nodiratime" in named else 0)


class Choice:
    """The options of one mount, sorted."""

    __slots__ = ("clear", "data", "propagation", "recursive_clear", "recursive_set", "set", "superblock", "words")

    def __init__(self, options: "list[str]", pointer: str) -> None:
        self.set = self.clear = self.recursive_set = self.recursive_clear = self.superblock = 0
        self.propagation: "list[int]" = []
        self.data: "list[str]" = []
        self.words = options
        for option in options:
            known = OPTIONS.get(option)
            if known is None:
                if option:
                    self.data.append(option)
                continue
            group, set_, clear = known
            if group == ATTRIBUTE:
                self.set = self.set & ~clear | set_
                self.clear = self.clear & ~(set_ & ~ATIME) | clear
            elif group == RECURSIVE:
                self.recursive_set = self.recursive_set & ~clear | set_
                self.recursive_clear = self.recursive_clear & ~(set_ & ~ATIME) | clear
            elif group == SUPERBLOCK:
                self.superblock = self.superblock & ~clear | set_
            elif group == PROPAGATION:
                self.propagation.append(set_)
        self.set = self.set & ~ATIME | max(_times(options), 0) & ATIME
        if len(self.propagation) > 4:
            raise ConfigError("more than four propagation options", code="WHERRY-CONFIG-MOUNT", pointer=pointer)

    @property
    def is_bind(self) -> bool:
        return "bind" in self.words or "rbind" in self.words

    def attributes(self, set_: int, clear: int) -> "Attributes":
        a, b, c, d = (*self.propagation, 0, 0, 0, 0)[:4]
        return (set_, clear, self.recursive_set, self.recursive_clear, a, b, c, d)

    def exact(self, job: "Job") -> "Attributes":
        """Of a bind: any option means that all flags become as the options say; none, that the source's flags stay."""
        if not self.set and not self.clear:
            return self.attributes(0, 0)
        flags = RDONLY | NOSUID | NODEV | NOEXEC | (NOSYMFOLLOW if job.kernel >= (5, 14) else 0)
        times = _times(self.words)
        set_, clear = self.set & ~(ATIME | NODIRATIME), self.clear & ~(ATIME | NODIRATIME)
        if times >= 0:
            set_ |= times
            clear |= (ATIME | NODIRATIME) & ~times | ATIME
        return self.attributes(set_, clear | flags & ~set_)


# ---- the rootfs


MOUNT_POINT = f"{DIRECTORY}/rootfs"


def mount_point(job: "Job") -> None:
    """Without a mount namespace all is mounted on one place that is the container's alone: whoever unmounts that has unmounted all."""
    job.b.mount_point(MOUNT_POINT, "/linux/namespaces")


def rootfs(job: "Job") -> None:
    """Nothing that is mounted from here on may reach the host; then a copy of the rootfs's mounts becomes the future root."""
    if job.on_host:
        flags = constants.WHERRY_TREE_RECURSIVE | constants.WHERRY_TREE_NO_SYMLINK | constants.WHERRY_TREE_ON_HOST
        _open_tree(job, job.rootfs, flags, "/root/path")
        job.b.attach_rootfs(MOUNT_POINT, job.tree, constants.WHERRY_ATTACH_ON_HOST, "/root/path")
        return
    name = job.linux.get("rootfsPropagation") or ""
    flags = PROPAGATIONS.get(name, MS_SLAVE)
    if flags & MS_UNBINDABLE:
        flags = MS_SLAVE  # an unbindable tree could not be cloned: OP_ROOT_ATTRIBUTES makes it so
    if not flags & MS_SHARED:  # shared: a volume must stay a peer of its source, to pass mounts on to the host
        flags |= MS_REC
    job.b.propagation(flags, "/linux/rootfsPropagation" if name else "")
    _open_tree(job, job.rootfs, constants.WHERRY_TREE_RECURSIVE | constants.WHERRY_TREE_NO_SYMLINK, "/root/path")
    job.b.attach_rootfs(job.rootfs, job.tree, 0, "/root/path")


def root_attributes(job: "Job") -> None:
    readonly = bool(job.config["root"].get("readonly"))
    propagation = PROPAGATIONS.get(job.linux.get("rootfsPropagation") or "", 0)
    if not propagation & (MS_SHARED | MS_UNBINDABLE):
        propagation = 0  # as OP_PROPAGATION left it
    if readonly or propagation:
        job.b.root_attributes(readonly, propagation, "/root/readonly" if readonly else "/linux/rootfsPropagation")


def _open_tree(job: "Job", source: str, flags: int, place: str, by_launcher: bool = False) -> None:
    """Into the one register for trees: whatever attaches the tree takes it out again."""
    if job.tree < 0:
        job.tree = job.register()
    job.b.open_tree(LAUNCHER if by_launcher or job.launcher_helps else INIT, source, flags, job.tree, place)


# ---- mounts


def all_mounts(job: "Job") -> None:
    for index, mount in enumerate(job.config.get("mounts") or ()):
        place = f"/mounts/{index}"
        choice = Choice(mount.get("options") or [], f"{place}/options")
        destination = clean(mount["destination"])
        if "remount" in choice.words:
            _remount(job, destination, choice, place)
        elif choice.is_bind:
            _bind(job, mount, destination, choice, place)
        elif "idmap" in choice.words or "ridmap" in choice.words or mount.get("uidMappings"):
            from wherry.plan.idmaps import filesystem

            filesystem(job, mount, destination, choice, place)
        else:
            _filesystem(job, mount, destination, choice, place)


def late_attributes(job: "Job") -> None:
    """Now that everything is in them, the read-only ones become so."""
    for destination, place in job.late:
        job.b.mount_attributes(destination, (RDONLY, *NO_ATTRIBUTES[1:]), place)


def _remount(job: "Job", destination: str, choice: Choice, place: str) -> None:
    keep = constants.WHERRY_MOUNT_KEEP_LOCKED if job.in_user else 0
    if choice.is_bind:
        job.b.remount(destination, None, 0, choice.exact(job), keep, place)
        return
    data = choice.data + [word for word in choice.words if word in _CLEARING]
    superblock = choice.superblock | (choice.set & MS_RDONLY)
    job.b.remount(destination, ",".join(data) or None, superblock, choice.exact(job), keep, place)


def _bind(job: "Job", mount: "dict[str, Any]", destination: str, choice: Choice, place: str) -> None:
    mapped = "idmap" in choice.words or "ridmap" in choice.words or bool(mount.get("uidMappings"))
    flags = constants.WHERRY_MOUNT_CREATE
    if destination in PROC_FILES:
        flags |= constants.WHERRY_MOUNT_ON_PROC
    if destination in ("/proc", "/sys"):
        flags |= constants.WHERRY_MOUNT_PROC_TARGET
    if job.in_user:
        flags |= constants.WHERRY_MOUNT_KEEP_LOCKED
    lost = [word for word in choice.words if word in ("sync", "dirsync", "lazytime", "mand", "iversion")]
    if lost:
        job.options.warnings.append(f"{place}/options: a bind mount has no superblock of its own to be {', '.join(lost)}: ignored")
    source = job.below_bundle(mount["source"], f"{place}/source")
    _open_tree(job, source, constants.WHERRY_TREE_RECURSIVE if "rbind" in choice.words else 0, f"{place}/source", mapped)
    if mapped:
        from wherry.plan.idmaps import add

        add(job, mount, choice.words, place)
    job.b.mount_bind(destination, job.tree, choice.exact(job), flags, place)
    named = choice.clear & ~(ATIME | NODIRATIME) & ~choice.recursive_set
    if job.in_user and named:  # the retry of KEEP_LOCKED gives these up; what was asked for by name must hold, or fail
        job.b.mount_attributes(destination, (0, named, *NO_ATTRIBUTES[2:]), place)


def _filesystem(job: "Job", mount: "dict[str, Any]", destination: str, choice: Choice, place: str) -> None:
    kind: str = mount.get("type") or ""
    if kind == "cgroup" or kind == "cgroup2":
        _cgroup(job, destination, choice, place)
        return
    flags = constants.WHERRY_MOUNT_CREATE
    data = choice.data
    if kind in ("proc", "sysfs"):
        flags |= constants.WHERRY_MOUNT_PROC_TARGET
    elif kind == "tmpfs":
        if "tmpcopyup" in choice.words:
            flags |= constants.WHERRY_MOUNT_COPY_UP
        if not any(option[:5] == "mode=" for option in data):
            flags |= constants.WHERRY_MOUNT_TARGET_MODE
        if choice.set & RDONLY:
            flags |= constants.WHERRY_MOUNT_READONLY_LATE
            job.late.append((destination, place))
    superblock = choice.superblock
    if choice.set & RDONLY and kind not in _KERNELS_OWN:
        superblock |= MS_RDONLY
    job.b.mount_fs(
        destination,
        kind,
        source_of(job, mount, kind, place),
        labelled(job, kind, data),
        superblock,
        choice.attributes(choice.set, 0),
        flags,
        place,
        "MOUNT_SYSFS" if kind == "sysfs" else "MOUNT_FS",
    )


def source_of(job: "Job", mount: "dict[str, Any]", kind: str, place: str) -> str:
    source: str = mount.get("source") or kind
    if "\1" in source:
        raise ConfigError("a source may not hold the control character U+0001", code="WHERRY-CONFIG-PATH", pointer=f"{place}/source")
    return source


def labelled(job: "Job", kind: str, data: "list[str]") -> "str | None":
    label = job.linux.get("mountLabel")
    if label and kind not in _NO_LABEL:
        need_lsm(job, "selinux", "/linux/mountLabel")
        data = [*data, f'context="{label}"']
    return ",".join(data) or None


def need_lsm(job: "Job", name: str, pointer: str) -> None:
    if name not in job.facts.lsms:
        raise HostError(f"{name} is not enabled on this host", code="WHERRY-HOST-KERNEL", pointer=pointer, remedy="leave the label out")


# ---- cgroups inside of the container


def _cgroup(job: "Job", destination: str, choice: Choice, place: str) -> None:
    if job.facts.cgroup_mode in ("v2", "none"):
        flags = constants.WHERRY_MOUNT_CREATE
        data = ",".join(choice.data) or None
        job.b.mount_fs(
            destination, "cgroup2", "cgroup", data, choice.superblock, choice.attributes(choice.set, 0), flags, place, "MOUNT_CGROUP2"
        )
        return
    _cgroup_v1(job, destination, choice, place)


def _cgroup_v1(job: "Job", destination: str, choice: Choice, place: str) -> None:
    """A tmpfs that holds the container's own cgroup of each hierarchy, under the name that the hierarchy has on the host."""
    attributes = choice.attributes(NOSUID | NODEV | NOEXEC, 0)
    job.b.mount_fs(
        destination, "tmpfs", "tmpfs", labelled(job, "tmpfs", ["mode=755"]), 0, attributes, constants.WHERRY_MOUNT_CREATE, place
    )
    facts = job.facts
    own = [(",".join(h.controllers), h.mount, h.own) for h in facts.hierarchies]
    if facts.v2_mount:
        own.append(("", facts.v2_mount, facts.v2_own))
    made = dict(job.cgroup)
    for names, mount, callers in own:
        # a directory that is optional may not be there: the caller's own is
        source = f"{mount}{callers}".rstrip("/") if job.cgroup_optional else made[names]
        name = mount.rpartition("/")[2]
        _open_tree(job, source, 0, place)
        target = f"{destination}/{name}"
        job.b.mount_bind(target, job.tree, choice.attributes(choice.set & ~ATIME, 0), constants.WHERRY_MOUNT_CREATE, place)
        if "," in name:
            for controller in names.split(","):
                job.b.symlink(name, f"{destination}/{controller}", 0, place)
    if choice.set & RDONLY:
        job.late.append((destination, place))


# ---- devices


def host_dev(job: "Job") -> bool:
    """The host's own /dev is bound: it has all, and nothing may be made there."""
    for mount in job.config.get("mounts") or ():
        if mount["destination"].strip("/") == "dev":
            options = mount.get("options") or ()
            if "bind" in options or "rbind" in options:
                return True
    return False


def devices(job: "Job") -> None:
    """After the mounts, because /dev is one of them."""
    if host_dev(job):
        return
    nodes = {path: (S_IFCHR | 0o666, major, minor, 0, 0, "") for path, major, minor in _DEFAULT_DEVICES}
    for index, device in enumerate(job.linux.get("devices") or ()):
        path = clean(device["path"])
        if path != "/dev/ptmx":  # it is the container's own devpts that counts
            nodes[path] = _node(device, f"/linux/devices/{index}")
    for path, (mode, major, minor, uid, gid, place) in nodes.items():
        if job.in_user and mode & 0xF000 != S_IFIFO:
            _open_tree(job, job.below_bundle(path, place), 0, place)  # no node that is made in a user namespace can be opened
            job.b.mount_bind(path, job.tree, NO_ATTRIBUTES, constants.WHERRY_MOUNT_CREATE, place)
        else:
            job.b.device_node(path, mode, major, minor, uid, gid, place)
    job.b.symlink("pts/ptmx", "/dev/ptmx", constants.WHERRY_SYMLINK_REPLACE)
    for target, path in _LINKS:
        job.b.symlink(target, path, constants.WHERRY_SYMLINK_TARGET_MUST_EXIST)


def _node(device: "dict[str, Any]", place: str) -> "tuple[int, int, int, int, int, str]":
    kind = {"c": S_IFCHR, "u": S_IFCHR, "b": S_IFBLK, "p": S_IFIFO}[device["type"]]
    mode = kind | device.get("fileMode", 0o666) & 0o7777
    return mode, device.get("major", 0), device.get("minor", 0), device.get("uid", 0), device.get("gid", 0), place
