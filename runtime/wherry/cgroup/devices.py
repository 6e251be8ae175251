# SPDX-License-Identifier: Apache-2.0
"""linux.resources.devices: lines for cgroup v1's devices.allow and devices.deny, a BPF program for cgroup v2. Pure.

The rules are a list in which later ones win, per kind of access. v1 evaluates it by being written in order. The v2 program walks it
from the end and keeps the set of accesses that no rule has decided yet: an allow rule takes its accesses out of the set, a deny rule that
meets one of them refuses. Nothing left = allowed; the end of the list = refused. bpf-helpers(7), struct bpf_cgroup_dev_ctx in linux/bpf.h.
"""

from _struct import pack

from ..errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = dict[str, Any]
    Device = tuple[str, int, int]

# What every container may use, as runc has it, after the rules of the config: mknod of anything, the default devices, ptys, tun.
DEFAULT_RULES: "tuple[Rule, ...]" = (
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
    {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
)

_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_TYPE = {"b": 1, "c": 2, "u": 2}  # BPF_DEVCG_DEV_*
_EVERY = 7


def v1_lines(rules: "list[Rule]") -> "list[tuple[str, str, int]]":
    """(file, line, index of the rule in the config or -1) in the order in which they are written, after a refusal of everything. ConfigError
    for what the kernel would pass over: it takes nothing out of an exception but that exception itself."""
    lines = []
    default = False  # what the kernel does with all that is no exception ...
    exceptions: "dict[Device, int]" = {}  # ... and its exceptions, with their accesses
    for number, rule in enumerate((*rules, *DEFAULT_RULES)):
        index, allow = number if number < len(rules) else -1, bool(rule.get("allow"))
        file = "devices.allow" if allow else "devices.deny"
        if _decides_all(rule):
            default, exceptions = allow, {}
            lines.append((file, "a", index))
            continue
        for device in _devices(rule):
            if allow != default:
                exceptions[device] = exceptions.get(device, 0) | _bits(rule)
            else:
                _check_exceptions(exceptions, device, _bits(rule), index)
                covered = [one for one in exceptions if one != device and _covers(device, one)]
                lines += [(file, _v1_line(one, rule), index) for one in covered]
                for one in (device, *covered):
                    exceptions[one] = exceptions.get(one, 0) & ~_bits(rule)
            lines.append((file, _v1_line(device, rule), index))
    return lines


def _devices(rule: "Rule") -> "list[Device]":
    """The kernel knows "a" only as a whole, whatever numbers and accesses stand behind it: so a part of it is one of both kinds."""
    numbers = [-1 if rule.get(key) is None else rule[key] for key in ("major", "minor")]
    return [(kind, numbers[0], numbers[1]) for kind in {"a": "bc", "u": "c"}.get(rule.get("type") or "a", rule.get("type") or "")]


def _covers(wide: "Device", narrow: "Device") -> bool:
    return wide[0] == narrow[0] and all(one in (-1, other) for one, other in zip(wide[1:], narrow[1:], strict=True))


def _check_exceptions(exceptions: "dict[Device, int]", device: "Device", bits: int, index: int) -> None:
    """Nobody minds about mknod alone, which the default rules allow of everything anyhow."""
    for one, held in exceptions.items():
        meets = one[0] == device[0] and all(-1 in pair or pair[0] == pair[1] for pair in zip(one[1:], device[1:], strict=True))
        if index >= 0 and meets and not _covers(device, one) and held & bits & ~_ACCESS["m"]:
            raise ConfigError(
                "cgroup v1 cannot make an exception within a rule for more devices",
                code="WHERRY-HOST-CGROUP",
                pointer=f"/linux/resources/devices/{index}",
                remedy="list the devices one by one, or order the rules so that the wider one comes last",
            )


def program(rules: "list[Rule]") -> bytes:
    """struct bpf_insn[] for BPF_PROG_TYPE_CGROUP_DEVICE. A rule with a wildcard for type, major or minor matches every one."""
    code = [
        _instruction(0x61, 2, 1, 0, 0),  # r2 = ctx->access_type
        _instruction(0xBF, 3, 2, 0, 0),  # r3 = r2
        _instruction(0x57, 3, 0, 0, 0xFFFF),  # r3 &= 0xffff: type
        _instruction(0x77, 2, 0, 0, 16),  # r2 >>= 16: accesses asked for
        _instruction(0x61, 4, 1, 4, 0),  # r4 = ctx->major
        _instruction(0x61, 5, 1, 8, 0),  # r5 = ctx->minor
    ]
    for rule in reversed((*rules, *DEFAULT_RULES)):
        code += _rule(rule)
        if _decides_all(rule):  # no rule before it is ever asked, and the kernel refuses a program with instructions that nothing reaches
            return b"".join(code)
    code += [_instruction(0xB7, 0, 0, 0, 0), _instruction(0x95, 0, 0, 0, 0)]
    return b"".join(code)


def _rule(rule: "Rule") -> "list[bytes]":
    access = _bits(rule)
    body = _verdict(bool(rule.get("allow")), access)
    tests = []  # (register, value): all must be equal
    kind = rule.get("type") or "a"
    if kind != "a":
        tests.append((3, _TYPE[kind]))
    for register, key in ((4, "major"), (5, "minor")):
        value = rule.get(key)
        if value is not None and value != -1:
            tests.append((register, value))
    code = []
    for number, (register, value) in enumerate(tests):
        skip = len(tests) - number - 1 + len(body)
        code.append(_instruction(0x56, register, 0, skip, value))  # 32-bit jump if not equal, past this rule
    return code + body


def _decides_all(rule: "Rule") -> bool:
    wild = all(rule.get(key) in (None, -1) for key in ("major", "minor"))
    return (rule.get("type") or "a") == "a" and wild and _bits(rule) == _EVERY


def _verdict(allow: bool, access: int) -> "list[bytes]":
    end = [_instruction(0xB7, 0, 0, 0, int(allow)), _instruction(0x95, 0, 0, 0, 0)]
    if access == _EVERY:
        return end
    if allow:  # r2 &= ~access; something undecided is left: go on
        return [_instruction(0x57, 2, 0, 0, ~access & _EVERY), _instruction(0x55, 2, 0, 2, 0), *end]
    return [_instruction(0x45, 2, 0, 1, access), _instruction(0x05, 0, 0, 2, 0), *end]  # one of them asked for: refuse


def _bits(rule: "Rule") -> int:
    bits = 0
    for letter in _letters(rule):
        bits |= _ACCESS[letter]
    return bits


def _letters(rule: "Rule") -> str:
    """Others are ignored, with a warning by the checks."""
    return "".join(letter for letter in rule.get("access") or "rwm" if letter in _ACCESS)


def _v1_line(device: "Device", rule: "Rule") -> str:
    return f"{device[0]} {':'.join('*' if number == -1 else str(number) for number in device[1:])} {_letters(rule)}"


def _instruction(code: int, destination: int, source: int, offset: int, immediate: int) -> bytes:
    if immediate > 0x7FFFFFFF:
        immediate -= 1 << 32
    return pack("<BBhi", code, source << 4 | destination, offset, immediate)
