# SPDX-License-Identifier: Apache-2.0
"""What systemd is told of a container: the name of its unit, its slice, and linux.resources as properties. Pure.

A property is (name, D-Bus signature, value). Systemd is told all that it has a property for, so that a `daemon-reload` sets it to the same
again; the files are written after that as without systemd, because it rounds, and leaves out in silence what its kernel cannot do.
systemd.resource-control(5), and the D-Bus names in org.freedesktop.systemd1(5).
"""

from wherry.cgroup.devices import DEFAULT_RULES
from wherry.cgroup.resources import io_weight_of, swap_of, weight_of_shares
from wherry.errors import ConfigError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Property = tuple[str, str, Any]
    Section = dict[str, Any]

PATH = "/linux/cgroupsPath"
ANNOTATION = "org.systemd.property."
UNLIMITED = (1 << 64) - 1
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.\\@")
_NAME_MAX = 255
# What the runtime itself decides: another value would put processes of others into the unit, or take ours out of sight.
RESERVED = ("PIDs", "PIDFDs", "Slice", "Delegate", "Documentation", "Controller")


class Unit:
    """Name and slice; both may hold slot marks (the id). `cgroup`: where it is, below the cgroup of its manager."""

    __slots__ = ("cgroup", "name", "slice")

    def __init__(self, name: str, slice: str) -> None:
        self.name, self.slice = name, slice
        parent = expand_slice(slice)
        self.cgroup = expand_slice(name) if self.is_slice else f"{parent}/{name}"  # a slice is where its own name says

    @property
    def is_slice(self) -> bool:
        return self.name.endswith(".slice")


def unit_of(path: str, default_name: str, user: bool) -> Unit:
    """linux.cgroupsPath as slice:prefix:name; absent: a scope called `default_name` in the default slice."""
    slice, prefix, name = "", "", default_name
    if path:
        parts = path.split(":")
        if len(parts) != 3:
            raise ConfigError(
                f'systemd needs "slice:prefix:name", this is "{path}"',
                code="WHERRY-CONFIG-VALUE",
                pointer=PATH,
                remedy="or leave --systemd-cgroup out",
            )
        slice, prefix, name = parts
        if not name:
            raise ConfigError('the name in "slice:prefix:name" is empty', code="WHERRY-CONFIG-VALUE", pointer=PATH)
        if not name.endswith(".slice"):
            name = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
        check_name(name, PATH)
    slice = "-.slice" if slice == "-" else slice or ("user.slice" if user else "system.slice")
    return Unit(name, slice)


def check_name(name: str, pointer: "str | None" = None) -> None:
    """Whether systemd takes it for a unit; without a pointer it comes from the container's id."""
    wrong = "".join(dict.fromkeys(letter for letter in name if letter not in _LETTERS))
    if not wrong and len(name) <= _NAME_MAX:
        return
    why = f"it holds {wrong!r}" if wrong else f"it is longer than {_NAME_MAX} characters"
    if pointer is None:
        raise UsageError(
            f"the unit {name} cannot be: {why}", code="WHERRY-USAGE-ID", remedy="choose another id, or give linux.cgroupsPath"
        )
    raise ConfigError(f"the unit {name} cannot be: {why}", code="WHERRY-CONFIG-VALUE", pointer=pointer)


def expand_slice(slice: str) -> str:
    """The cgroup of a slice, as its name says it: a-b.slice is /a.slice/a-b.slice, -.slice is the root."""
    if slice == "-.slice":
        return ""
    name = slice.removesuffix(".slice")
    parts = name.split("-")
    if name == slice or not all(parts) or not _LETTERS.issuperset(slice) or len(slice) > _NAME_MAX:
        remedy = "such as machine.slice, or a-b.slice for one in a.slice"
        raise ConfigError(f'"{slice}" is no slice', code="WHERRY-CONFIG-VALUE", pointer=PATH, remedy=remedy)
    return "".join(f"/{'-'.join(parts[: number + 1])}.slice" for number in range(len(parts)))


# ---- what every unit has


def base_properties(unit: Unit, v2: bool, version: int) -> "list[Property]":
    """A scope belongs to the container below its own cgroup (Delegate). No dependencies, so that it outlives nothing and orders nothing.

    What has failed is forgotten at once (CollectMode): else the name would stay taken.
    """
    found: "list[Property]" = []
    if not unit.is_slice:
        found.append(("Delegate", "b", True))
    found += [(f"{name}Accounting", "b", True) for name in ("Memory", "CPU", "IO" if v2 else "BlockIO", "Tasks")]
    found.append(("DefaultDependencies", "b", False))
    if version >= 236:
        found.append(("CollectMode", "s", "inactive-or-failed"))
    return found


# ---- linux.resources


def v2_properties(resources: "Section", version: int) -> "list[Property]":
    """`unified` comes last, so it wins: a later property of the same name replaces the earlier one."""
    found: "dict[str, tuple[str, Any]]" = {}
    memory = resources.get("memory") or {}
    swap = swap_of(memory.get("limit"), memory.get("swap"))
    for key, name in (("limit", "MemoryMax"), ("reservation", "MemoryLow")):
        if memory.get(key):
            found[name] = ("t", _number(memory[key]))
    if swap is not None:
        found["MemorySwapMax"] = ("t", UNLIMITED if swap == "max" else int(swap))
    cpu = resources.get("cpu") or {}
    if cpu.get("idle") and version >= 252:
        found["CPUWeight"] = ("t", 0)
    elif cpu.get("shares") and not cpu.get("idle"):
        found["CPUWeight"] = ("t", weight_of_shares(cpu["shares"]))
    found.update(_quota(cpu.get("quota"), cpu.get("period"), version))
    if version >= 244:
        found.update(_cpuset(cpu))
    found.update(_tasks(resources))
    weight = (resources.get("blockIO") or {}).get("weight")
    if weight:
        found["IOWeight"] = ("t", io_weight_of(weight))
    for file, value in (resources.get("unified") or {}).items():
        found.update(_unified(file, str(value).strip(), version))
    return [(name, *value) for name, value in found.items()]


def v1_properties(resources: "Section", version: int) -> "list[Property]":
    found: "dict[str, tuple[str, Any]]" = {}
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    if memory.get("limit"):
        found["MemoryLimit"] = ("t", _number(memory["limit"]))
    if cpu.get("shares"):
        found["CPUShares"] = ("t", cpu["shares"])
    found.update(_quota(cpu.get("quota"), cpu.get("period"), version))
    found.update(_tasks(resources))
    weight = (resources.get("blockIO") or {}).get("weight")
    if weight:
        found["BlockIOWeight"] = ("t", weight)
    return [(name, *value) for name, value in found.items()]


def _number(value: int) -> int:
    return UNLIMITED if value < 0 else value


def _quota(quota: "int | None", period: "int | None", version: int) -> "dict[str, tuple[str, Any]]":
    """Microseconds a second. Systemd rounds to 10 ms at a time, so it is rounded up here: no container gets less than was asked for."""
    found: "dict[str, tuple[str, Any]]" = {}
    if period and version >= 242:
        found["CPUQuotaPeriodUSec"] = ("t", period)
    if quota or period:
        a_second = UNLIMITED
        if quota and quota > 0:
            a_second = -(-quota * 1000000 // ((period or 100000) * 10000)) * 10000
        found["CPUQuotaPerSecUSec"] = ("t", a_second)
    return found


def _tasks(resources: "Section") -> "dict[str, tuple[str, Any]]":
    limit = (resources.get("pids") or {}).get("limit")
    if limit is None:
        return {}
    return {"TasksMax": ("t", limit if limit > 0 else UNLIMITED)}


def _cpuset(cpu: "Section") -> "dict[str, tuple[str, Any]]":
    names = (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes"))
    return {name: ("ay", bit_bytes(cpu[key], f"/linux/resources/cpu/{key}")) for key, name in names if cpu.get(key)}


def bit_bytes(text: str, pointer: str) -> "list[int]":
    """ "0-3,8" as bytes, bit 0 of the first = number 0."""
    mask = 0
    try:
        for part in text.strip().split(","):
            if part.strip():
                first, dash, last = part.partition("-")
                low = int(first)
                high = int(last) if dash else low
                if not 0 <= low <= high < 1 << 16:
                    raise ValueError(part)
                mask |= (1 << high + 1) - (1 << low)
    except ValueError:
        raise ConfigError(f'"{text}" is no list of numbers', code="WHERRY-CONFIG-VALUE", pointer=pointer) from None
    return list(mask.to_bytes((mask.bit_length() + 7) // 8, "little"))


_UNIFIED_NUMBERS = {
    "cpu.weight": ("CPUWeight", 0), "memory.high": ("MemoryHigh", 0), "memory.low": ("MemoryLow", 0), "memory.min": ("MemoryMin", 0),
    "memory.max": ("MemoryMax", 0), "memory.swap.max": ("MemorySwapMax", 0), "memory.zswap.max": ("MemoryZSwapMax", 253),
    "pids.max": ("TasksMax", 0),
}  # fmt: skip
_UNIFIED_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def _unified(file: str, value: str, version: int) -> "dict[str, tuple[str, Any]]":
    """Files that are no property, and values that say nothing to systemd, are only written."""
    pointer = f"/linux/resources/unified/{file}"
    name, since = _UNIFIED_NUMBERS.get(file, ("", 0))
    if name and version >= since and (value == "max" or value.isdecimal()):
        return {name: ("t", UNLIMITED if value == "max" else int(value))}
    if file in _UNIFIED_SETS and version >= 244 and value:
        return {_UNIFIED_SETS[file]: ("ay", bit_bytes(value, pointer))}
    if file == "cpu.idle" and value == "1" and version >= 252:
        return {"CPUWeight": ("t", 0)}
    if file == "memory.oom.group" and value in ("0", "1") and version >= 253:
        return {"OOMPolicy": ("s", "kill" if value == "1" else "continue")}
    if file == "cpu.max":
        quota, _, period = value.partition(" ")
        if (quota == "max" or quota.isdecimal()) and (not period or period.isdecimal()):
            return _quota(-1 if quota == "max" else int(quota), int(period or 100000), version)
    return {}


# ---- linux.resources.devices


def device_properties(rules: "list[Section]") -> "list[Property]":
    """What the rules allow, or more: systemd's list has no exceptions. The exact rules hold beside it, as a program or as files of v1."""
    allowed: "dict[str, str]" = {}
    everything = True  # a cgroup without rules
    for rule in (*rules, *DEFAULT_RULES):
        kind, access = rule.get("type") or "a", rule.get("access") or "rwm"
        whole = kind == "a" and set(access) >= set("rwm") and all(rule.get(key) in (None, -1) for key in ("major", "minor"))
        if whole:
            everything, allowed = bool(rule.get("allow")), {}
        elif rule.get("allow") and not everything:
            for name in _device_names(kind, rule):
                known = allowed.get(name, "")
                allowed[name] = "".join(letter for letter in "rwm" if letter in known or letter in access)
    if everything:
        return [("DevicePolicy", "s", "auto"), ("DeviceAllow", "a(ss)", [])]
    return [("DevicePolicy", "s", "strict"), ("DeviceAllow", "a(ss)", [list(item) for item in allowed.items()])]


def _device_names(kind: str, rule: "Section") -> "list[str]":
    major, minor = rule.get("major"), rule.get("minor")
    found = []
    for long in ("block", "char") if kind == "a" else ("block",) if kind == "b" else ("char",):
        if major in (None, -1):
            found.append(f"{long}-*")
        elif minor in (None, -1):
            found.append(f"{long}-{major}")
        else:
            found.append(f"/dev/{long}/{major}:{minor}")
    return found


# ---- annotations


def annotation_properties(annotations: "dict[str, str]") -> "list[Property]":
    """org.systemd.property.NAME: a value in GVariant's text format. A NAME that ends in "Sec" takes seconds and becomes the property in microseconds."""
    found: "list[Property]" = []
    for key, text in sorted(annotations.items()):
        if key.startswith(ANNOTATION):
            found.append(_annotation(key.removeprefix(ANNOTATION), text, f"/annotations/{key}"))
    return found


def _annotation(name: str, text: str, pointer: str) -> "Property":
    from wherry.cgroup.gvariant import Malformed, parse

    def refuse(why: str, remedy: "str | None" = None) -> ConfigError:
        return ConfigError(why, code="WHERRY-CONFIG-VALUE", pointer=pointer, remedy=remedy)

    if len(name) < 3 or not name.isascii() or not name.isalpha():
        raise refuse(f'"{name}" is no name of a property: three or more letters', "such as TimeoutStopUSec")
    if name in RESERVED:
        raise refuse(f"{name} is decided by the runtime", "use linux.cgroupsPath to choose slice and name" if name == "Slice" else None)
    try:
        signature, value = parse(text)
    except Malformed as error:
        raise refuse(f"no value of GVariant's text format: {error}", "a text needs quotes, a number may need its type: uint64 5") from None
    if name.endswith("Sec") and not name.endswith("USec"):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1 << 44:  # in microseconds it fits 64 bits
            raise refuse("not a number of seconds", f"{name[:-3]}USec takes a uint64 of microseconds")
        return f"{name[:-3]}USec", "t", int(value * 1000000)
    return name, signature, value


# ---- properties in a plan


def to_text(property: "Property") -> str:
    from json import dumps

    name, signature, value = property
    return f"{name}={signature} {dumps(value, separators=(',', ':'))}"


def from_text(text: str) -> "Property":
    from json import loads

    name, _, rest = text.partition("=")
    signature, _, value = rest.partition(" ")
    return name, signature, loads(value)
