# SPDX-License-Identifier: Apache-2.0
"""The bytes of a plan -> text and JSON: what will be done, by whom, and which field of the configuration says so.

Not on any hot path: `wherry plan`, golden tests, and the wording of failures load it. A slot, which is filled in when the plan is
executed, is shown by its name: <id>, <bundle>, <pid>, ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from struct import Struct, unpack_from
from typing import Any

from wherry.errors import PlanError
from wherry.kernel.native import constants
from wherry.oci.checks import CAPABILITIES
from wherry.plan.encode import FORMATS, HEADER, NO_REGISTER, NOBODY, OP
from wherry.plan.isolation import CLONE
from wherry.plan.mounts import ATIME, MS_REC, NOATIME, PROPAGATIONS, STRICTATIME
from wherry.plan.process import RLIMITS
from wherry.plan.scheduling import IO_CLASS, MODE, MODE_FLAG, POLICY, SCHEDULER_FLAG

EXECUTORS = {1: "caller", 2: "launcher", 3: "init"}
SLOTS = ("<id>", "<bundle>", "<bundle>", "<directory>", "<created>", "<pid>", "<start-time>")

# The fields behind struct wherry_op. Behind the colon what they are: t text, T template, l list, b blob, r register; none = number.
FIELDS = {
    "CLAIM": "state_head:T state_middle:T state_tail:T",
    "CGROUP_DIRECTORY": "path:T mount_length flags out:r",
    "CGROUP_CONTROLLERS": "path:T mount_length flags controllers:t",
    "CGROUP_CPUSET": "path:T mount_length flags",
    "CGROUP_WRITE": "file:t value:t directory:r flags",
    "CGROUP_DEVICES": "program:b directory:r",
    "CGROUP_CHOWN": "files:l uid gid directory:r",
    "OPEN_TASKS": "file:t directory:r out:r flags",
    "LAUNCH": "",
    "OOM_SCORE_ADJ": "value",
    "OPEN_NAMESPACE": "path:t type out:r",
    "JOIN": "type from:r keep root_uid root_gid",
    "UNSHARE": "flags",
    "TIME_OFFSETS": "lines:t",
    "CLONE": "flags into_cgroup:r",
    "ATTACH_TASKS": "tasks:r",
    "WRITE_MAPS": "uid_map:t gid_map:t uid_program:t gid_program:t flags",
    "BECOME_ROOT": "",
    "KEYRING": "name:T",
    "LOOPBACK_UP": "",
    "HOSTNAME": "name:t",
    "DOMAINNAME": "name:t",
    "PROPAGATION": "flags",
    "OPEN_TREE": "source:T flags out:r",
    "IDMAP_TREE": "uid_map:t gid_map:t tree:r recursive",
    "ATTACH_ROOTFS": "path:T tree:r flags",
    "MOUNT_BIND": "destination:t attributes tree:r flags",
    "MOUNT_FS": "destination:t type:t source:T data:t superblock attributes flags",
    "MOUNT_CGROUP2": "destination:t type:t source:T data:t superblock attributes flags",
    "MOUNT_SYSFS": "destination:t type:t source:T data:t superblock attributes flags",
    "REMOUNT": "destination:t data:t superblock attributes flags",
    "MOUNT_ATTRIBUTES": "destination:t attributes",
    "SYMLINK": "target:t path:t flags",
    "DIRECTORY": "path:t mode",
    "DEVICE_NODE": "path:t mode major minor uid gid",
    "CONSOLE": "height width uid",
    "HOOK": "path:t arguments:l environment:l state:T timeout kind",
    "NETWORK_DEVICES": "",
    "SYSCTL": "path:t value:t",
    "READONLY_PATH": "path:t",
    "MASKED_PATH": "path:t",
    "PIVOT": "flags",
    "ROOT_ATTRIBUTES": "readonly propagation",
    "PERSONALITY": "domain",
    "SCHEDULER": "policy nice flags priority util_min util_max runtime deadline period",
    "IO_PRIORITY": "value",
    "MEMORY_POLICY": "mode max_node nodes:b",
    "CPU_AFFINITY": "mask:b",
    "RLIMIT": "resource soft hard",
    "SECURITY_LABEL": "module:t label:t",
    "UMASK": "mask",
    "WORKING_DIRECTORY": "path:t create stage",
    "NO_NEW_PRIVILEGES": "",
    "SECCOMP": "filter:b flags listener:r",
    "LISTENER": "path:t state:T listener:r",
    "BOUNDING": "keep",
    "IDENTITY": "uid gid groups:b skip_setgroups",
    "CAPABILITIES": "effective permitted inheritable ambient",
    "PROGRAM": "arguments:l environment:l path:t uid flags",
    "PUBLISH": "state_file:T",
    "WAIT_START": "",
    "EXECUTE": "",
    "UNIT": "name:T cgroup:T slice:t properties:l flags",
    "LANDLOCK": "handled paths:l allowed:b",
    "CREATE_TREE": "source:T flags out:r type:t data:t superblock",
    "MOUNT_POINT": "path:T",
    "CHROOT": "path:T",
    "OPEN_TARGET": "out:r",
}

Fields = dict[str, Any]


class Step:
    """One operation. `number` counts from 1, as failures do ("step 12 of 31")."""

    __slots__ = ("executor", "fields", "name", "number", "of_exec", "place")

    def __init__(self, number: int, name: str, executor: str, place: str, fields: Fields) -> None:
        self.of_exec = False
        self.number = number
        self.name = name
        self.executor = executor
        self.place = place
        self.fields = fields

    @property
    def text(self) -> str:
        if self.of_exec and self.name == "CONSOLE":
            return _console(self.fields, "stdio and controlling terminal")  # /dev/console is that of the first process
        return _TEXTS[self.name](self.fields)

    def document(self) -> dict[str, Any]:
        fields = {name: value.hex() if isinstance(value, bytes) else value for name, value in self.fields.items()}
        return {
            "step": self.number,
            "executor": self.executor,
            "operation": self.name.lower(),
            "pointer": self.place,
            "text": self.text,
            "fields": fields,
        }


class Plan:
    """A decoded plan. The bytes are trusted in so far as Python does not read past their end; the decoder in C is the strict one."""

    def __init__(self, data: bytes) -> None:
        if len(data) < HEADER.size:
            raise PlanError("too short for a plan", code="WHERRY-LAUNCH-BAD-PLAN")
        magic, self.version, _, size, flags, self.build_id, count, offset, _, *rest = HEADER.unpack_from(data)
        self.registers, self.inherited, key, _ = rest
        if magic != constants.WHERRY_PLAN_MAGIC or size != len(data):
            raise PlanError("not a plan, or cut off", code="WHERRY-LAUNCH-BAD-PLAN")
        self.flags = [name.lower().replace("_", "-") for name, bit in _enum("WHERRY_PLAN_", _PLAN_FLAGS).items() if flags & bit]
        self.facts_key = _text(data, key) or ""
        self.steps = list(_steps(data, count, offset))
        for step in self.steps if flags & constants.WHERRY_PLAN_EXEC else ():
            step.of_exec = True

    def lines(self) -> list[str]:
        return [_line(step) for step in self.steps]

    def text(self) -> str:
        registers = f"{self.registers} registers ({self.inherited} inherited)"
        head = f"plan version {self.version}, {len(self.steps)} steps, {registers}: {' '.join(self.flags) or '-'}"
        return "\n".join((head, *self.lines())) + "\n"

    def document(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "build": self.build_id.hex(),
            "flags": self.flags,
            "registers": self.registers,
            "inheritedRegisters": self.inherited,
            "factsKey": self.facts_key,
            "steps": [step.document() for step in self.steps],
        }


def describe(plan: bytes) -> str:
    """The plan as text, a line for each step."""
    return Plan(plan).text()


def _line(step: Step) -> str:
    place = f"  <- {step.place}" if step.place else ""
    return f"{step.number:3} {step.executor:8} {step.text}{place}"


# ---- reading


def _steps(data: bytes, count: int, at: int) -> Iterator[Step]:
    head = Struct(f"<{OP}")
    names = {getattr(constants, f"OP_{name}"): name for name in FORMATS}
    for number in range(1, count + 1):
        code, executor, _, size, place = head.unpack_from(data, at)
        name = names.get(code)
        if name is None or size < head.size:
            raise PlanError(f"step {number} has the unknown operation {code}", code="WHERRY-LAUNCH-BAD-PLAN")
        values = unpack_from(f"<{OP}{FORMATS[name]}", data, at)[5:]
        yield Step(number, name, EXECUTORS.get(executor, "?"), _text(data, place) or "", _fields(data, name, list(values)))
        at += size


def _fields(data: bytes, name: str, values: list[int]) -> Fields:
    fields: Fields = {}
    for field in FIELDS[name].split():
        key, _, kind = field.partition(":")
        if key == "attributes":
            fields[key] = values[:8]
            del values[:8]
        else:
            fields[key] = _value(data, kind, values.pop(0))
    return fields


def _value(data: bytes, kind: str, value: int) -> Any:
    if kind == "t":
        return _text(data, value)
    if kind == "T":
        text = _text(data, value)
        return None if text is None else re.sub("\1(.)", lambda mark: SLOTS[ord(mark[1]) - 0x40], text)
    offset, length = value & 0xFFFFFFFF, value >> 32
    if kind == "b":
        return data[offset : offset + length]
    if kind == "l":
        return [_text(data, unpack_from("<Q", data, offset + 8 * index)[0]) for index in range(length)]
    if kind == "r" and value == NO_REGISTER:
        return None
    return value


def _text(data: bytes, reference: int) -> str | None:
    offset, length = reference & 0xFFFFFFFF, reference >> 32
    return data[offset : offset + length].decode("utf-8", "surrogateescape") if offset else None


# ---- words

_PLAN_FLAGS = ("CACHEABLE", "INTERLUDE", "NEW_USER", "TERMINAL", "POSTSTART", "POSTSTOP", "SHARED_PID", "ROOTLESS", "NO_PROCESS", "EXEC", "UNIT", "WARNED")
_CGROUP_FLAGS = ("V2", "EXISTING", "OPTIONAL", "WHERE_POSSIBLE", "JOIN")
_WRITE_FLAGS = ("MISSING_OK", "IGNORE", "ALTERNATIVE")
_PIVOTS = ("pivot to the rootfs and detach the old root", "move the rootfs to / and change root", "change root to the rootfs")
_ATTACH_FLAGS = ("ON_HOST",)
_MOUNT_FLAGS = ("COPY_UP", "TARGET_MODE", "PROC_TARGET", "KEEP_LOCKED", "CREATE", "ON_PROC", "READONLY_LATE")
_ATTRIBUTE_NAMES = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "nodiratime": 0x80, "nosymfollow": 0x200000}
_SUPERBLOCK_NAMES = {"ro": 1, "sync": 0x10, "mand": 0x40, "dirsync": 0x80, "silent": 0x8000, "iversion": 1 << 23, "lazytime": 1 << 25}
_LANDLOCK = {
    name: 1 << bit
    for bit, name in enumerate(
        "execute write-file read-file read-dir remove-dir remove-file make-char make-dir make-reg make-sock make-fifo make-block make-sym"
        " refer truncate ioctl-dev".split()
    )
}
_SECCOMP_FLAGS = {"tsync": 1, "log": 2, "spec-allow": 4, "new-listener": 8, "tsync-esrch": 16, "wait-killable-recv": 32}
_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def _enum(prefix: str, names: tuple[str, ...]) -> dict[str, int]:
    return {name: getattr(constants, prefix + name) for name in names}


def _bits(value: int, names: dict[str, int], nothing: str = "-") -> str:
    """Every bit by its name; one without a name as a number."""
    found = []
    for name, bit in names.items():
        if value & bit:
            found.append(name)
            value &= ~bit
    if value:
        found.append(f"{value:#x}")
    return " ".join(found) or nothing


def _flags(value: int, prefix: str, names: tuple[str, ...]) -> str:
    found = _bits(value, _enum(prefix, names), "").lower().replace("_", "-")
    return f" [{found}]" if found else ""


def _quoted(text: str | None) -> str:
    if text is None:
        return "-"
    return text if re.fullmatch(r"[^\s\"\\\x00-\x1f]+", text) else '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'


def _quoted_all(texts: list[str]) -> str:
    return " ".join(_quoted(text) for text in texts) or "-"


def _register(value: int | None) -> str:
    return "-" if value is None else f"r{value}"


def _mount_attributes(a: list[int]) -> str:
    words = []
    for verb, set_, clear in (("", a[0], a[1]), ("recursive ", a[2], a[3])):
        named = _bits(set_ & ~ATIME, _ATTRIBUTE_NAMES, "").split()
        if set_ & ATIME or clear & ATIME:
            named.append({NOATIME: "noatime", STRICTATIME: "strictatime", 0: "relatime"}.get(set_ & ATIME, f"atime {set_ & ATIME:#x}"))
        if named:
            words.append(f"{verb}set {','.join(named)}")
        if clear & ~ATIME:
            words.append(f"{verb}clear {','.join(_bits(clear & ~ATIME, _ATTRIBUTE_NAMES).split())}")
    words += [f"make {_propagation(flag)}" for flag in a[4:] if flag]
    return f": {'; '.join(words)}" if words else ""


def _propagation(flags: int) -> str:
    names = {bits: name for name, bits in PROPAGATIONS.items()}
    return names.get(flags, f"{flags & ~MS_REC:#x}{' recursive' if flags & MS_REC else ''}")


def _pipes(f: Fields) -> str:
    return "" if NOBODY in (f["root_uid"], f["root_gid"]) else f"; first give our pipes on stdio to {f['root_uid']}:{f['root_gid']}"


def _join(f: Fields) -> str:
    several = f["type"] & (f["type"] - 1)
    return f"join {_namespaces(f['type'])} namespace{'s of' if several else ''} {_register(f['from'])}{_pipes(f)}"


def _namespaces(flags: int) -> str:
    return _bits(flags, CLONE, "no new namespace").replace(" ", ", ")


def _capabilities(mask: int) -> str:
    known = (1 << len(CAPABILITIES)) - 1
    if mask & known == known:
        return "all"
    return _bits(mask, {name[4:].lower(): 1 << number for number, name in enumerate(CAPABILITIES)})


def _map(text: str | None) -> str:
    return "-" if text is None else ", ".join(text.strip().split("\n"))


def _name_of(value: int, names: dict[str, int]) -> str:
    return next((name for name, number in names.items() if number == value), str(value))


def _mode(mode: int) -> str:
    kind = {0x1000: "fifo", 0x2000: "character device", 0x6000: "block device"}.get(mode & 0xF000, f"type {mode & 0xF000:#x}")
    return f"{kind} mode {mode & 0o7777:04o}"


def _limit(value: int) -> str:
    return "unlimited" if value == (1 << 64) - 1 else str(value)


def _groups(data: bytes) -> str:
    return ",".join(str(number) for number in unpack_from(f"<{len(data) // 4}I", data)) or "none"


# ---- one text for each operation


def _cgroup_directory(f: Fields) -> str:
    verb = "open" if f["flags"] & constants.WHERRY_CGROUP_JOIN else "make"
    return f"{verb} cgroup {_quoted(f['path'])} as {_register(f['out'])}{_flags(f['flags'], 'WHERRY_CGROUP_', _CGROUP_FLAGS)}"


def _cgroup_controllers(f: Fields) -> str:
    options = _flags(f["flags"], "WHERRY_CGROUP_", _CGROUP_FLAGS)
    return f"enable controllers {f['controllers']} down to {_quoted(f['path'])}{options}"


def _unit(f: Fields) -> str:
    manager = "the user's systemd" if f["flags"] & constants.WHERRY_UNIT_USER else "systemd"
    values = (f"{name}={text.partition(' ')[2]}" for name, _, text in (item.partition("=") for item in f["properties"]))
    return f"have {manager} start {_quoted(f['name'])} in {_quoted(f['slice'])} with init: {', '.join(values)}"


def _cgroup_write(f: Fields) -> str:
    return f"write {_quoted(f['value'])} to {f['file']} of {_register(f['directory'])}{_flags(f['flags'], 'WHERRY_WRITE_', _WRITE_FLAGS)}"


def _cgroup_chown(f: Fields) -> str:
    owner = "" if f["gid"] == 0xFFFFFFFF else f":{f['gid']}"
    return f"give cgroup {_register(f['directory'])} to {f['uid']}{owner}, with {_quoted_all(f['files'])}"


def _open_tasks(f: Fields) -> str:
    file = _quoted(f["file"]) if f["directory"] is None else f"{f['file']} of {_register(f['directory'])}"
    return f"open {file} as {_register(f['out'])}{_flags(f['flags'], 'WHERRY_CGROUP_', _CGROUP_FLAGS)}"


def _clone(f: Fields) -> str:
    into = "" if f["into_cgroup"] is None else f" into cgroup {_register(f['into_cgroup'])}"
    return f"clone init{into} with new namespaces: {_namespaces(f['flags'])}" if f["flags"] else f"clone init{into} with no new namespace"


def _write_maps(f: Fields) -> str:
    text = f"map uids {_map(f['uid_map'])}; gids {_map(f['gid_map'])}"
    if f["uid_program"]:
        text += f" by {f['uid_program']} and {f['gid_program']}"
    return text + _flags(f["flags"], "WHERRY_MAPS_", ("DENY_SETGROUPS",))


def _open_tree(f: Fields) -> str:
    below = " with all below it" if f["flags"] & constants.WHERRY_TREE_RECURSIVE else ""
    rest = f["flags"] & ~constants.WHERRY_TREE_RECURSIVE
    return f"clone mount tree {_quoted(f['source'])}{below} as {_register(f['out'])}{_flags(rest, 'WHERRY_TREE_', ('NO_SYMLINK', 'ON_HOST'))}"


def _idmap_tree(f: Fields) -> str:
    recursive = " with all below it" if f["recursive"] else ""
    if f["uid_map"] is None:
        return f"map ids of tree {_register(f['tree'])}{recursive} as the container's user namespace does"
    return f"map ids of tree {_register(f['tree'])}{recursive}: uids {_map(f['uid_map'])}; gids {_map(f['gid_map'])}"


def _mount_bind(f: Fields) -> str:
    options = _flags(f["flags"], "WHERRY_MOUNT_", _MOUNT_FLAGS)
    return f"attach tree {_register(f['tree'])} to {_quoted(f['destination'])}{options}{_mount_attributes(f['attributes'])}"


def _mount_fs(f: Fields) -> str:
    text = _filesystem(f, f"mount {f['type']} on {_quoted(f['destination'])}")
    return f"{text}{_flags(f['flags'], 'WHERRY_MOUNT_', _MOUNT_FLAGS)}{_mount_attributes(f['attributes'])}"


def _filesystem(f: Fields, text: str) -> str:
    if f["source"] and f["source"] != f["type"]:
        text += f" from {_quoted(f['source'])}"
    if f["data"]:
        text += f" with {_quoted(f['data'])}"
    if f["superblock"]:
        text += f" superblock {_bits(f['superblock'], _SUPERBLOCK_NAMES).replace(' ', ',')}"
    return text


def _remount(f: Fields) -> str:
    text = f"remount {_quoted(f['destination'])}"
    if f["data"]:
        text += f" with {_quoted(f['data'])}"
    if f["superblock"]:
        text += f" superblock {_bits(f['superblock'], _SUPERBLOCK_NAMES).replace(' ', ',')}"
    return f"{text}{_flags(f['flags'], 'WHERRY_MOUNT_', _MOUNT_FLAGS)}{_mount_attributes(f['attributes'])}"


def _symlink(f: Fields) -> str:
    options = _flags(f["flags"], "WHERRY_SYMLINK_", ("TARGET_MUST_EXIST", "REPLACE"))
    return f"symlink {_quoted(f['path'])} -> {_quoted(f['target'])}{options}"


def _device_node(f: Fields) -> str:
    numbers = "" if f["mode"] & 0xF000 == 0x1000 else f" {f['major']}:{f['minor']}"
    return f"make {_quoted(f['path'])}: {_mode(f['mode'])}{numbers} owner {f['uid']}:{f['gid']}"


def _console(f: Fields, becomes: str = "stdio, controlling terminal and /dev/console") -> str:
    size = f" of {f['width']}x{f['height']}" if f["height"] or f["width"] else ""
    return f"open a terminal{size} for uid {f['uid']}: {becomes}"


def _hook(f: Fields) -> str:
    timeout = f" within {f['timeout']} s" if f["timeout"] else ""
    kind = _HOOKS[f["kind"] - 1]
    vectors = f"arguments {_quoted_all(f['arguments'])}; environment {_quoted_all(f['environment'])}"
    return f"run {kind} hook {_quoted(f['path'])}{timeout}: {vectors}; stdin {_quoted(f['state'])}"


def _root_attributes(f: Fields) -> str:
    words = (["read-only"] if f["readonly"] else []) + ([_propagation(f["propagation"])] if f["propagation"] else [])
    return f"make / {' and '.join(words)}"


def _scheduler(f: Fields) -> str:
    text = f"schedule as {_name_of(f['policy'], POLICY)} nice {f['nice']}"
    text += "".join(f" {key} {f[key]}" for key in ("priority", "util_min", "util_max", "runtime", "deadline", "period") if f[key])
    return text + (f" [{_bits(f['flags'], SCHEDULER_FLAG)}]" if f["flags"] else "")


def _memory_policy(f: Fields) -> str:
    mask = int.from_bytes(f["nodes"], "little")
    nodes = ",".join(str(number) for number in range(mask.bit_length()) if mask >> number & 1)
    flags = f["mode"] & sum(MODE_FLAG.values())
    text = f"memory policy {_name_of(f['mode'] & ~flags, MODE)} nodes {nodes or 'none'}"
    return text + (f" [{_bits(flags, MODE_FLAG)}]" if flags else "")


def _cpu_affinity(f: Fields) -> str:
    return f"run on processors of mask {int.from_bytes(f['mask'], 'little'):#x}" if f["mask"] else "run on all processors"


def _working_directory(f: Fields) -> str:
    if f["stage"]:
        return f"check that the working directory {_quoted(f['path'])} is inside; enter it now where root could not"
    return f"enter working directory {_quoted(f['path'])}{', made where missing' if f['create'] else ''}"


def _landlock(f: Fields) -> str:
    bits = [int.from_bytes(f["allowed"][at : at + 8], "little") for at in range(0, len(f["allowed"]), 8)]
    words = ("all of it" if bit == f["handled"] else _bits(bit, _LANDLOCK) for bit in bits)
    rules = ", ".join(f"{_quoted(path)}: {word}" for path, word in zip(f["paths"], words, strict=True))
    return f"restrict itself by Landlock, of {_bits(f['handled'], _LANDLOCK)}, to {rules or 'nothing'}"


def _seccomp(f: Fields) -> str:
    listener = "" if f["listener"] is None else f", notify descriptor as {_register(f['listener'])}"
    return f"load the seccomp filter of {len(f['filter']) // 8} instructions, flags {_bits(f['flags'], _SECCOMP_FLAGS)}{listener}"


def _identity(f: Fields) -> str:
    groups = "kept: setgroups is denied" if f["skip_setgroups"] else _groups(f["groups"])
    return f"become uid {f['uid']} gid {f['gid']}, groups {groups}"


def _program(f: Fields) -> str:
    home = f"; HOME of uid {f['uid']} from /etc/passwd" if f["flags"] & constants.WHERRY_PROGRAM_FILL_HOME else ""
    adopts = "; adopts what its descendants leave" if f["flags"] & constants.WHERRY_PROGRAM_ADOPTS else ""
    vectors = f"arguments {_quoted_all(f['arguments'])}; environment {_quoted_all(f['environment'])}"
    return f"look up {_quoted(f['arguments'][0])} in {_quoted(f['path'])}; {vectors}{home}{adopts}"


def _publish(f: Fields) -> str:
    if f["state_file"] is None:
        return "publish: pid, sockets, pid file"
    return f"publish: pid, record, sockets, pid file; state.json {_quoted(f['state_file'])}"


_TEXTS: dict[str, Callable[[Fields], str]] = {
    "CLAIM": lambda f: f"claim <id>; state {_quoted(f['state_head'] + '<pid>' + f['state_middle'] + '<status>' + f['state_tail'])}",
    "CGROUP_DIRECTORY": _cgroup_directory,
    "CGROUP_CONTROLLERS": _cgroup_controllers,
    "CGROUP_CPUSET": lambda f: f"copy cpus and mems down to {_quoted(f['path'])}{_flags(f['flags'], 'WHERRY_CGROUP_', _CGROUP_FLAGS)}",
    "CGROUP_WRITE": _cgroup_write,
    "CGROUP_DEVICES": lambda f: f"attach a device program of {len(f['program']) // 8} instructions to {_register(f['directory'])}",
    "CGROUP_CHOWN": _cgroup_chown,
    "OPEN_TASKS": _open_tasks,
    "OPEN_TARGET": lambda f: f"open the container's first process as {_register(f['out'])}",
    "LAUNCH": lambda f: "start the launcher from the sealed program",
    "OOM_SCORE_ADJ": lambda f: f"set oom_score_adj to {f['value']}",
    "OPEN_NAMESPACE": lambda f: f"open {_namespaces(f['type'])} namespace {_quoted(f['path'])} as {_register(f['out'])}",
    "JOIN": _join,
    "UNSHARE": lambda f: f"unshare {_namespaces(f['flags'])} namespace",
    "TIME_OFFSETS": lambda f: f"set the clocks' offsets: {_map(f['lines'])}",
    "CLONE": _clone,
    "ATTACH_TASKS": lambda f: f"enter the cgroup of {_register(f['tasks'])}",
    "WRITE_MAPS": _write_maps,
    "BECOME_ROOT": lambda f: "become root of the user namespace",
    "KEYRING": lambda f: f"join a new session keyring {_quoted(f['name'])}",
    "LOOPBACK_UP": lambda f: "bring up the loopback device",
    "HOSTNAME": lambda f: f"set the host name to {_quoted(f['name'])}",
    "DOMAINNAME": lambda f: f"set the domain name to {_quoted(f['name'])}",
    "PROPAGATION": lambda f: f"make every mount {_propagation(f['flags'])}",
    "OPEN_TREE": _open_tree,
    "CREATE_TREE": lambda f: _filesystem(f, f"make {f['type']} as {_register(f['out'])}"),
    "IDMAP_TREE": _idmap_tree,
    "ATTACH_ROOTFS": lambda f: (
        f"attach tree {_register(f['tree'])} to {_quoted(f['path'])} as the future root{_flags(f['flags'], 'WHERRY_ATTACH_', _ATTACH_FLAGS)}"
    ),
    "MOUNT_POINT": lambda f: f"make {_quoted(f['path'])}, to mount there on the host until the container is deleted",
    "CHROOT": lambda f: f"make {_quoted(f['path'])} the root directory",
    "MOUNT_BIND": _mount_bind,
    "MOUNT_FS": _mount_fs,
    "MOUNT_CGROUP2": lambda f: f"{_mount_fs(f)}; else the own cgroup; else an empty read-only tmpfs",
    "MOUNT_SYSFS": lambda f: f"{_mount_fs(f)}; else the host's /sys with all below it",
    "REMOUNT": _remount,
    "MOUNT_ATTRIBUTES": lambda f: f"change the mount on {_quoted(f['destination'])}{_mount_attributes(f['attributes'])}",
    "SYMLINK": _symlink,
    "DIRECTORY": lambda f: f"make directory {_quoted(f['path'])} mode {f['mode']:04o}",
    "DEVICE_NODE": _device_node,
    "CONSOLE": _console,
    "HOOK": _hook,
    "NETWORK_DEVICES": lambda f: "move network devices and join the resctrl class",
    "SYSCTL": lambda f: f"write {_quoted(f['value'])} to /proc/sys/{f['path']}",
    "READONLY_PATH": lambda f: f"make {_quoted(f['path'])} read-only, where it exists",
    "MASKED_PATH": lambda f: f"hide {_quoted(f['path'])}, where it exists",
    "PIVOT": lambda f: _PIVOTS[f["flags"]],
    "ROOT_ATTRIBUTES": _root_attributes,
    "PERSONALITY": lambda f: f"set personality {_name_of(f['domain'], {'LINUX': 0, 'LINUX32': 8})}",
    "SCHEDULER": _scheduler,
    "IO_PRIORITY": lambda f: f"set io priority {_name_of(f['value'] >> 13, IO_CLASS)} level {f['value'] & 0x1FFF}",
    "MEMORY_POLICY": _memory_policy,
    "CPU_AFFINITY": _cpu_affinity,
    "RLIMIT": lambda f: f"limit {_name_of(f['resource'], RLIMITS)} to {_limit(f['soft'])}, hard {_limit(f['hard'])}",
    "SECURITY_LABEL": lambda f: f"label the program for {f['module']}: {_quoted(f['label'])}",
    "UMASK": lambda f: f"set umask {f['mask']:04o}",
    "WORKING_DIRECTORY": _working_directory,
    "NO_NEW_PRIVILEGES": lambda f: "set no_new_privs",
    "SECCOMP": _seccomp,
    "LANDLOCK": _landlock,
    "LISTENER": lambda f: f"hand {_register(f['listener'])} to the seccomp listener at {_quoted(f['path'])} with {_quoted(f['state'])}",
    "BOUNDING": lambda f: f"keep in the bounding set: {_capabilities(f['keep'])}",
    "IDENTITY": _identity,
    "CAPABILITIES": lambda f: "; ".join(
        f"{kind} {_capabilities(f[kind])}" for kind in ("effective", "permitted", "inheritable", "ambient")
    ),
    "PROGRAM": _program,
    "PUBLISH": _publish,
    "WAIT_START": lambda f: "wait for start",
    "EXECUTE": lambda f: "execute the program",
    "UNIT": _unit,
}
