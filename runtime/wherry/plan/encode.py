# SPDX-License-Identifier: Apache-2.0
"""Operations -> the bytes of a plan: one method of Builder for each operation of plan.h. Decides nothing.

Layout: header, heap, operations. The heap comes first because then an offset is final as soon as a text is put there. Equal texts
are stored once, and nothing depends on addresses or hashes: the same calls give the same bytes.

A reference to the heap (struct wherry_text and its like: two uint32_t) is one int here: offset | length << 32; 0 = absent.
The formats below spell out every padding byte of the structs; a unit test compares them with what the compiler of C makes of plan.h.
"""

from _struct import Struct, pack

from wherry.errors import ConfigError, PlanError
from wherry.kernel import native
from wherry.kernel.native import constants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# In a template these stand for what is filled in when the plan is executed (WHERRY_SLOT_MARK, then 0x40 + enum wherry_slot).
ID, BUNDLE, BUNDLE_JSON, DIRECTORY, CREATED, PID, START_TIME = ("\1" + chr(0x40 + number) for number in range(7))

CALLER, LAUNCHER, INIT = 1, 2, 3  # enum wherry_executor
NO_REGISTER = 0xFFFF
NOBODY = 0xFFFFFFFF  # (uid_t)-1

HEADER = Struct("<IHHII16sIIIHHQQ")
OP = "HBBIQ"

# by operation, in the order of plan.h: the fields behind struct wherry_op
FORMATS = {
    "CLAIM": "QQQ",
    "CGROUP_DIRECTORY": "QIIH6x",
    "CGROUP_CONTROLLERS": "QIIQ",
    "CGROUP_CPUSET": "QII",
    "CGROUP_WRITE": "QQH2xI",
    "CGROUP_DEVICES": "QH6x",
    "CGROUP_CHOWN": "QIIH6x",
    "OPEN_TASKS": "QHHI",
    "LAUNCH": "",
    "OOM_SCORE_ADJ": "i4x",
    "OPEN_NAMESPACE": "QIH2x",
    "JOIN": "IHHII",
    "UNSHARE": "Q",
    "TIME_OFFSETS": "Q",
    "CLONE": "QH6x",
    "ATTACH_TASKS": "H6x",
    "WRITE_MAPS": "QQQQQ",
    "BECOME_ROOT": "",
    "KEYRING": "Q",
    "LOOPBACK_UP": "",
    "HOSTNAME": "Q",
    "DOMAINNAME": "Q",
    "PROPAGATION": "Q",
    "OPEN_TREE": "QIH2x",
    "IDMAP_TREE": "QQH2xI",
    "ATTACH_ROOTFS": "QHH4x",
    "MOUNT_BIND": "Q8QH2xI",
    "MOUNT_FS": "QQQQQ8QQ",
    "MOUNT_CGROUP2": "QQQQQ8QQ",
    "MOUNT_SYSFS": "QQQQQ8QQ",
    "REMOUNT": "QQQ8QQ",
    "MOUNT_ATTRIBUTES": "Q8Q",
    "SYMLINK": "QQQ",
    "DIRECTORY": "QI4x",
    "DEVICE_NODE": "QIIIII4x",
    "CONSOLE": "HHI",
    "HOOK": "QQQQII",
    "NETWORK_DEVICES": "",
    "SYSCTL": "QQ",
    "READONLY_PATH": "Q",
    "MASKED_PATH": "Q",
    "PIVOT": "Q",
    "ROOT_ATTRIBUTES": "I4xQ",
    "PERSONALITY": "Q",
    "SCHEDULER": "IiQIII4xQQQ",
    "IO_PRIORITY": "I4x",
    "MEMORY_POLICY": "IIQ",
    "CPU_AFFINITY": "Q",
    "RLIMIT": "I4xQQ",
    "SECURITY_LABEL": "QQ",
    "UMASK": "I4x",
    "WORKING_DIRECTORY": "QII",
    "NO_NEW_PRIVILEGES": "",
    "SECCOMP": "QIH2x",
    "LISTENER": "QQH6x",
    "BOUNDING": "Q",
    "IDENTITY": "IIQQ",
    "CAPABILITIES": "QQQQ",
    "PROGRAM": "QQQII",
    "PUBLISH": "Q",
    "WAIT_START": "",
    "EXECUTE": "",
    "UNIT": "QQQQQ",
    "LANDLOCK": "QQQ",
    "CREATE_TREE": "QIH2xQQQ",
    "MOUNT_POINT": "Q",
    "CHROOT": "Q",
    "OPEN_TARGET": "H6x",
}

NO_ATTRIBUTES = (0, 0, 0, 0, 0, 0, 0, 0)  # set, clear, recursive set, recursive clear, four propagations: struct wherry_attributes


class _Kind:
    """How one operation is packed."""

    __slots__ = ("code", "pack", "size")

    def __init__(self, name: str, fields: str) -> None:
        struct = Struct(f"<{OP}{fields}")
        self.code: int = getattr(constants, f"OP_{name}")
        self.pack = struct.pack
        self.size = struct.size


class Builder:
    """Collects operations; finish() gives the plan."""

    __slots__ = ("_heap", "_kinds", "_places", "_steps", "_texts", "place", "steps")

    def __init__(self) -> None:
        self._heap = bytearray(HEADER.size)  # the header's room, so that offsets count from the start of the plan
        self._steps: "list[bytes]" = []
        self._texts: "dict[object, int]" = {None: 0}
        self._places: "dict[str, int]" = {"": 0}
        self.steps = 0
        self.place = ""  # JSON pointer of the last operation

    # ---- the heap

    def text(self, value: "str | None") -> int:
        known = self._texts.get(value)
        return self._store(value) if known is None else known  # type: ignore[arg-type]

    def _store(self, value: str) -> int:
        try:
            data = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ConfigError("a string holds half of a surrogate pair", code="WHERRY-JSON-ENCODING", pointer=self.place) from None
        if b"\0" in data:
            raise ConfigError("a string holds a NUL character", code="WHERRY-JSON-NUL", pointer=self.place)
        reference = len(self._heap) | len(data) << 32
        self._heap += data
        self._heap.append(0)
        self._texts[value] = reference
        return reference

    def list(self, values: "Sequence[str]") -> int:
        """0 = an empty list."""
        key = tuple(values)
        if not key:
            return 0
        known = self._texts.get(key)
        if known is None:
            texts = [self.text(value) for value in key]
            known = self._texts[key] = self._aligned(pack(f"<{len(texts)}Q", *texts)) | len(texts) << 32
        return known

    def blob(self, data: bytes) -> int:
        """0 = empty."""
        if not data:
            return 0
        known = self._texts.get(data)
        if known is None:
            known = self._texts[data] = self._aligned(data) | len(data) << 32
        return known

    def _aligned(self, data: bytes) -> int:
        self._heap += bytes(-len(self._heap) % 8)
        offset = len(self._heap)
        self._heap += data
        return offset

    # ---- the list of operations

    def _add(self, name: str, executor: int, place: str, *fields: int) -> None:
        kind = _KINDS.get(name)
        if kind is None:
            kind = _KINDS[name] = _Kind(name, FORMATS[name])
        self.place = place
        reference = self.text(place) if place else 0
        self._steps.append(kind.pack(kind.code, executor, 0, kind.size, reference, *fields))

    def finish(self, flags: int, registers: int, inherited: int, key: str, build_id: bytes = b"") -> bytes:
        """The plan. `key` is the fingerprint of the host facts."""
        facts_key = self.text(key)
        heap, steps = self._heap, b"".join(self._steps)
        heap += bytes(-len(heap) % 8)
        size = len(heap) + len(steps)
        if size > constants.WHERRY_MAX_PLAN or len(self._steps) > constants.WHERRY_MAX_STEPS:
            raise PlanError(f"the launch plan would have {len(self._steps)} steps in {size} bytes", code="WHERRY-PLAN-TOO-LARGE")
        HEADER.pack_into(
            heap,
            0,
            constants.WHERRY_PLAN_MAGIC,
            constants.WHERRY_VERSION,
            HEADER.size,
            size,
            flags,
            build_id or native.build_id(),
            len(self._steps),
            len(heap),
            len(steps),
            registers,
            inherited,
            facts_key,
            0,
        )
        return bytes(heap) + steps

    # ---- on the host, before there is a process

    def claim(self, head: str, middle: str, tail: str) -> None:
        self._add("CLAIM", CALLER, "", self.text(head), self.text(middle), self.text(tail))

    def cgroup_directory(self, path: str, mount_length: int, flags: int, out: int, place: str) -> None:
        self._add("CGROUP_DIRECTORY", CALLER, place, self.text(path), mount_length, flags, out)

    def cgroup_controllers(self, path: str, mount_length: int, flags: int, controllers: str, place: str) -> None:
        self._add("CGROUP_CONTROLLERS", CALLER, place, self.text(path), mount_length, flags, self.text(controllers))

    def cgroup_cpuset(self, path: str, mount_length: int, flags: int, place: str) -> None:
        self._add("CGROUP_CPUSET", CALLER, place, self.text(path), mount_length, flags)

    def cgroup_write(self, directory: int, file: str, value: str, flags: int, place: str) -> None:
        self._add("CGROUP_WRITE", CALLER, place, self.text(file), self.text(value), directory, flags)

    def cgroup_devices(self, directory: int, program: bytes, place: str) -> None:
        self._add("CGROUP_DEVICES", CALLER, place, self.blob(program), directory)

    def cgroup_chown(self, directory: int, files: "Sequence[str]", uid: int, gid: int, place: str) -> None:
        self._add("CGROUP_CHOWN", CALLER, place, self.list(files), uid, gid, directory)

    def open_tasks(self, directory: int, file: str, out: int, flags: int, place: str) -> None:
        self._add("OPEN_TASKS", CALLER, place, self.text(file), directory, out, flags)

    def open_target(self, out: int) -> None:
        self._add("OPEN_TARGET", CALLER, "", out)

    def launch(self) -> None:
        self._add("LAUNCH", CALLER, "")

    # ---- the launcher, before clone

    def oom_score_adj(self, value: int, place: str) -> None:
        self._add("OOM_SCORE_ADJ", LAUNCHER, place, value)

    def open_namespace(self, path: str, kind: int, out: int, place: str, executor: int = LAUNCHER) -> None:
        self._add("OPEN_NAMESPACE", executor, place, self.text(path), kind, out)

    def join(self, executor: int, kind: int, source: int, place: str, root: "tuple[int, int]" = (NOBODY, NOBODY), keep: bool = False) -> None:
        self._add("JOIN", executor, place, kind, source, keep, *root)

    def unshare(self, executor: int, flags: int, place: str) -> None:
        self._add("UNSHARE", executor, place, flags)

    def time_offsets(self, executor: int, lines: str, place: str) -> None:
        self._add("TIME_OFFSETS", executor, place, self.text(lines))

    def clone(self, flags: int, into_cgroup: int, place: str) -> None:
        self._add("CLONE", LAUNCHER, place, flags, into_cgroup)

    # ---- init, and whom it asks

    def attach_tasks(self, tasks: int, place: str) -> None:
        self._add("ATTACH_TASKS", INIT, place, tasks)

    def write_maps(self, uid_map: str, gid_map: str, uid_program: "str | None", gid_program: "str | None", flags: int, place: str) -> None:
        texts = [self.text(text) for text in (uid_map, gid_map, uid_program, gid_program)]
        self._add("WRITE_MAPS", LAUNCHER, place, *texts, flags)

    def become_root(self, place: str) -> None:
        self._add("BECOME_ROOT", INIT, place)

    def keyring(self, name: str) -> None:
        self._add("KEYRING", INIT, "", self.text(name))

    def loopback_up(self, place: str) -> None:
        self._add("LOOPBACK_UP", INIT, place)

    def hostname(self, name: str, place: str) -> None:
        self._add("HOSTNAME", INIT, place, self.text(name))

    def domainname(self, name: str, place: str) -> None:
        self._add("DOMAINNAME", INIT, place, self.text(name))

    def propagation(self, flags: int, place: str) -> None:
        self._add("PROPAGATION", INIT, place, flags)

    def open_tree(self, executor: int, source: str, flags: int, out: int, place: str) -> None:
        self._add("OPEN_TREE", executor, place, self.text(source), flags, out)

    def create_tree(self, kind: str, source: str, data: "str | None", superblock: int, out: int, place: str) -> None:
        self._add("CREATE_TREE", LAUNCHER, place, self.text(source), 0, out, self.text(kind), self.text(data), superblock)

    def idmap_tree(self, tree: int, uid_map: "str | None", gid_map: "str | None", recursive: bool, place: str) -> None:
        self._add("IDMAP_TREE", LAUNCHER, place, self.text(uid_map), self.text(gid_map), tree, recursive)

    def attach_rootfs(self, path: str, tree: int, flags: int, place: str) -> None:
        self._add("ATTACH_ROOTFS", INIT, place, self.text(path), tree, flags)

    def mount_point(self, path: str, place: str) -> None:
        self._add("MOUNT_POINT", CALLER, place, self.text(path))

    def chroot(self, path: str, place: str) -> None:
        self._add("CHROOT", INIT, place, self.text(path))

    def mount_bind(self, destination: str, tree: int, attributes: "tuple[int, ...]", flags: int, place: str) -> None:
        self._add("MOUNT_BIND", INIT, place, self.text(destination), *attributes, tree, flags)

    def mount_fs(
        self,
        destination: str,
        kind: str,
        source: str,
        data: "str | None",
        superblock: int,
        attributes: "tuple[int, ...]",
        flags: int,
        place: str,
        name: str = "MOUNT_FS",
    ) -> None:
        """Also MOUNT_CGROUP2 and MOUNT_SYSFS, by name."""
        text = self.text
        self._add(name, INIT, place, text(destination), text(kind), text(source), text(data), superblock, *attributes, flags)

    def remount(self, destination: str, data: "str | None", superblock: int, attributes: "tuple[int, ...]", flags: int, place: str) -> None:
        self._add("REMOUNT", INIT, place, self.text(destination), self.text(data), superblock, *attributes, flags)

    def mount_attributes(self, destination: str, attributes: "tuple[int, ...]", place: str) -> None:
        self._add("MOUNT_ATTRIBUTES", INIT, place, self.text(destination), *attributes)

    def symlink(self, target: str, path: str, flags: int, place: str = "") -> None:
        self._add("SYMLINK", INIT, place, self.text(target), self.text(path), flags)

    def directory(self, path: str, mode: int, place: str) -> None:
        self._add("DIRECTORY", INIT, place, self.text(path), mode)

    def device_node(self, path: str, mode: int, major: int, minor: int, uid: int, gid: int, place: str) -> None:
        self._add("DEVICE_NODE", INIT, place, self.text(path), mode, major, minor, uid, gid)

    def console(self, height: int, width: int, uid: int, place: str) -> None:
        self._add("CONSOLE", INIT, place, height, width, uid)

    def hook(
        self,
        executor: int,
        kind: int,
        path: str,
        arguments: "Sequence[str]",
        environment: "Sequence[str]",
        state: str,
        timeout: int,
        place: str,
    ) -> None:
        texts = (self.text(path), self.list(arguments), self.list(environment), self.text(state))
        self._add("HOOK", executor, place, *texts, timeout, kind)

    def network_devices(self, place: str) -> None:
        self._add("NETWORK_DEVICES", CALLER, place)

    def unit(self, name: str, cgroup: str, slice: str, properties: "Sequence[str]", flags: int, place: str) -> None:
        self._add("UNIT", CALLER, place, self.text(name), self.text(cgroup), self.text(slice), self.list(properties), flags)

    def sysctl(self, path: str, value: str, place: str) -> None:
        self._add("SYSCTL", INIT, place, self.text(path), self.text(value))

    def readonly_path(self, path: str, place: str) -> None:
        self._add("READONLY_PATH", INIT, place, self.text(path))

    def masked_path(self, path: str, place: str) -> None:
        self._add("MASKED_PATH", INIT, place, self.text(path))

    def pivot(self, flags: int) -> None:
        self._add("PIVOT", INIT, "/root/path", flags)

    def root_attributes(self, readonly: bool, propagation: int, place: str) -> None:
        self._add("ROOT_ATTRIBUTES", INIT, place, readonly, propagation)

    def personality(self, domain: int, place: str) -> None:
        self._add("PERSONALITY", INIT, place, domain)

    def scheduler(self, policy: int, nice: int, flags: int, priority: int, runtime: int, deadline: int, period: int, place: str) -> None:
        self._add("SCHEDULER", INIT, place, policy, nice, flags, priority, 0, 0, runtime, deadline, period)

    def io_priority(self, value: int, place: str) -> None:
        self._add("IO_PRIORITY", INIT, place, value)

    def memory_policy(self, mode: int, max_node: int, nodes: bytes, place: str) -> None:
        self._add("MEMORY_POLICY", INIT, place, mode, max_node, self.blob(nodes))

    def cpu_affinity(self, mask: bytes, place: str) -> None:
        self._add("CPU_AFFINITY", INIT, place, self.blob(mask))

    def rlimit(self, executor: int, resource: int, soft: int, hard: int, place: str) -> None:
        self._add("RLIMIT", executor, place, resource, soft, hard)

    def security_label(self, module: str, label: str, place: str) -> None:
        self._add("SECURITY_LABEL", INIT, place, self.text(module), self.text(label))

    def umask(self, mask: int, place: str) -> None:
        self._add("UMASK", INIT, place, mask)

    def working_directory(self, path: str, create: bool, stage: int, place: str) -> None:
        self._add("WORKING_DIRECTORY", INIT, place, self.text(path), create, stage)

    def no_new_privileges(self, place: str) -> None:
        self._add("NO_NEW_PRIVILEGES", INIT, place)

    def seccomp(self, program: bytes, flags: int, listener: int, place: str) -> None:
        self._add("SECCOMP", INIT, place, self.blob(program), flags, listener)

    def listener(self, path: str, state: str, listener: int, place: str) -> None:
        self._add("LISTENER", CALLER, place, self.text(path), self.text(state), listener)

    def landlock(self, handled: int, rules: "Sequence[tuple[str, int]]", place: str) -> None:
        allowed = self.blob(pack(f"<{len(rules)}Q", *(bits for _, bits in rules)))
        self._add("LANDLOCK", INIT, place, handled, self.list([path for path, _ in rules]), allowed)

    def bounding(self, keep: int, place: str) -> None:
        self._add("BOUNDING", INIT, place, keep)

    def identity(self, uid: int, gid: int, groups: "Sequence[int]", skip_setgroups: bool, place: str) -> None:
        self._add("IDENTITY", INIT, place, uid, gid, self.blob(pack(f"<{len(groups)}I", *groups)), skip_setgroups)

    def capabilities(self, effective: int, permitted: int, inheritable: int, ambient: int, place: str) -> None:
        self._add("CAPABILITIES", INIT, place, effective, permitted, inheritable, ambient)

    def program(self, arguments: "Sequence[str]", environment: "Sequence[str]", path: str, uid: int, flags: int, place: str) -> None:
        self._add("PROGRAM", INIT, place, self.list(arguments), self.list(environment), self.text(path), uid, flags)

    def publish(self, state_file: "str | None") -> None:
        self._add("PUBLISH", CALLER, "", self.text(state_file))

    def wait_start(self) -> None:
        self._add("WAIT_START", INIT, "")

    def execute(self, place: str) -> None:
        self._add("EXECUTE", INIT, place)


_KINDS: "dict[str, _Kind]" = {}
