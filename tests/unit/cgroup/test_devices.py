# SPDX-License-Identifier: Apache-2.0
"""Device rules: v1's lines, and the v2 program run by an interpreter of the few instructions that it uses."""

import itertools
import random
from struct import iter_unpack
from typing import Any

import pytest

from wherry.cgroup import devices
from wherry.errors import ConfigError

DENY_ALL = {"allow": False, "type": "a", "access": "rwm"}
BLOCK, CHARACTER = 1, 2
MKNOD, READ, WRITE = 1, 2, 4


def run(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """The program's verdict: 1 = allowed."""
    code = list(iter_unpack("<BBhi", program))
    context = {0: access << 16 | kind, 4: major, 8: minor}
    registers = [0] * 11
    at = 0
    for _ in range(10000):
        operation, both, offset, value = code[at]
        target, source = both & 15, both >> 4
        at += 1
        if operation == 0x61:
            registers[target] = context[offset]
        elif operation == 0xBF:
            registers[target] = registers[source]
        elif operation == 0x57:
            registers[target] &= value
        elif operation == 0x77:
            registers[target] >>= value
        elif operation == 0xB7:
            registers[target] = value
        elif operation in (0x55, 0x56):
            at += offset if registers[target] & 0xFFFFFFFF != value & 0xFFFFFFFF else 0
        elif operation == 0x45:
            at += offset if registers[target] & value else 0
        elif operation == 0x05:
            at += offset
        elif operation == 0x95:
            return registers[0]
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")
    raise AssertionError("does not end")


@pytest.mark.parametrize(
    ("kind", "access", "major", "minor", "allowed"),
    [
        *((CHARACTER, READ | WRITE | MKNOD, *numbers, 1) for numbers in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 77), (10, 200))),
        *((kind, MKNOD, 8, 77, 1) for kind in (BLOCK, CHARACTER)),
        (CHARACTER, READ, 10, 201, 0),
        (CHARACTER, WRITE, 5, 1, 0),
        (CHARACTER, READ, 137, 0, 0),
        (BLOCK, READ, 8, 0, 0),
        (BLOCK, READ | MKNOD, 8, 0, 0),
        (CHARACTER, WRITE, 1, 1, 0),
        (BLOCK, READ, 1, 3, 0),
    ],
)
def test_the_default_rules_after_a_refusal_of_all(kind: int, access: int, major: int, minor: int, allowed: int) -> None:
    assert run(devices.program([DENY_ALL]), kind, access, major, minor) == allowed


def test_later_rules_win_for_each_kind_of_access() -> None:
    rules = [
        DENY_ALL,
        {"allow": True, "type": "b", "major": 8, "minor": -1, "access": "rwm"},
        {"allow": False, "type": "b", "major": 8, "minor": 1, "access": "w"},
    ]
    program = devices.program(rules)
    assert run(program, BLOCK, READ | WRITE, 8, 0) == 1
    assert run(program, BLOCK, READ, 8, 1) == 1
    assert run(program, BLOCK, WRITE, 8, 1) == 0
    assert run(program, BLOCK, READ | WRITE, 8, 1) == 0
    assert run(program, CHARACTER, READ, 8, 0) == 0


def test_an_access_may_be_granted_by_several_rules() -> None:
    program = devices.program([DENY_ALL, {"allow": True, "type": "c", "major": 4, "access": "r"}, {"allow": True, "type": "c", "major": 4, "access": "w"}])
    assert run(program, CHARACTER, READ | WRITE, 4, 9) == 1


def test_allowing_all_allows_all() -> None:
    program = devices.program([DENY_ALL, {"allow": True, "access": "rwm"}])
    for kind in (BLOCK, CHARACTER):
        assert run(program, kind, 7, 250, 3) == 1


def test_large_device_numbers_are_compared_whole() -> None:
    program = devices.program([DENY_ALL, {"allow": True, "type": "b", "major": 259, "minor": 0x80000001, "access": "rwm"}])
    assert run(program, BLOCK, READ, 259, 0x80000001) == 1
    assert run(program, BLOCK, READ, 259, 1) == 0


def test_lines_of_v1_follow_the_list() -> None:
    lines = devices.v1_lines([DENY_ALL, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}, {"allow": True, "type": "b", "access": "r"}])
    assert lines[:3] == [("devices.deny", "a", 0), ("devices.allow", "c 1:3 rwm", 1), ("devices.allow", "b *:* r", 2)]
    assert lines[3] == ("devices.allow", "c *:* m", -1)
    assert ("devices.allow", "c 10:200 rwm", -1) in lines


class Kernel:
    """What cgroup v1 makes of the lines: a default and exceptions to it. It never looks behind an "a", and takes away whole exceptions alone."""

    def __init__(self) -> None:
        self.default, self.exceptions = True, dict[tuple[str, str, str], set[str]]()

    def write(self, file: str, line: str) -> None:
        allow = file == "devices.allow"
        if line.startswith("a"):
            self.default, self.exceptions = allow, {}
            return
        kind, numbers, access = line.split()
        major, minor = numbers.split(":")
        held = self.exceptions.setdefault((kind, major, minor), set())
        if allow == self.default:
            held.difference_update(access)
        else:
            held.update(access)

    def allows(self, kind: str, major: int, minor: int, access: str) -> bool:
        found = any(
            access in held and one == kind and first in ("*", str(major)) and second in ("*", str(minor))
            for (one, first, second), held in self.exceptions.items()
        )
        return found != self.default


def made_by(seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rules = []
    for _ in range(rng.randrange(1, 7)):
        rule: dict[str, Any] = {"allow": rng.random() < 0.5, "type": rng.choice("abcu"), "access": rng.choice(["rwm", "r", "rw", "w", "m"])}
        for key in ("major", "minor"):
            if rng.random() < 0.6:
                rule[key] = rng.choice([-1, 8, 9])
        rules.append(rule)
    return [DENY_ALL, *rules]


def test_both_versions_agree() -> None:
    """What cannot be said to v1 is refused; all else holds there as on v2."""
    refused = 0
    for seed in range(400):
        rules = made_by(seed)
        kernel = Kernel()
        try:
            lines = devices.v1_lines(rules)
        except ConfigError as error:
            assert error.code == "WHERRY-HOST-CGROUP" and str(error.pointer).startswith("/linux/resources/devices/")
            refused += 1
            continue
        for file, line, _ in lines:
            kernel.write(file, line)
        program = devices.program(rules)
        for kind, access, major, minor in itertools.product("bc", "rw", (8, 9), (8, 9)):
            wanted = run(program, {"b": BLOCK, "c": CHARACTER}[kind], {"r": READ, "w": WRITE}[access], major, minor)
            assert kernel.allows(kind, major, minor, access) == bool(wanted), (seed, rules, kind, major, minor, access)
    assert 20 < refused < 300


def test_part_of_everything_is_not_everything_on_v1() -> None:
    """The kernel reads "a *:* r" as "a"."""
    lines = devices.v1_lines([DENY_ALL, {"allow": True, "access": "r"}, {"allow": True, "type": "a", "major": 1, "minor": 3}])
    assert [line for _, line, _ in lines[:5]] == ["a", "b *:* r", "c *:* r", "b 1:3 rwm", "c 1:3 rwm"]


def test_an_exception_within_a_wider_rule_is_refused_on_v1() -> None:
    with pytest.raises(ConfigError, match="cannot make an exception") as caught:
        devices.v1_lines([DENY_ALL, {"allow": True, "type": "b", "major": 8}, {"allow": False, "type": "b", "major": 8, "minor": 1, "access": "w"}])
    assert caught.value.pointer == "/linux/resources/devices/2"


def reached(program: bytes) -> set[int]:
    """Indices of the instructions that some path comes by, as the kernel's verifier counts them."""
    code = list(iter_unpack("<BBhi", program))
    found: set[int] = set()
    open_ends = [0]
    while open_ends:
        at = open_ends.pop()
        if at in found:
            continue
        found.add(at)
        operation, _, offset, _ = code[at]
        if operation != 0x95:
            open_ends.append(at + 1 + (offset if operation == 0x05 else 0))
        if operation in (0x45, 0x55, 0x56):
            open_ends.append(at + 1 + offset)
    return found


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [DENY_ALL],
        [DENY_ALL, DENY_ALL],
        [{"allow": True}],
        [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}, DENY_ALL],
        [DENY_ALL, {"allow": True, "type": "a", "access": "m"}, {"allow": False, "type": "b"}, {"allow": False, "access": "w"}],
        [{"allow": False, "major": -1, "minor": -1}],
    ],
)
def test_the_kernel_refuses_a_program_with_instructions_that_nothing_reaches(rules: list[dict[str, object]]) -> None:
    program = devices.program(rules)
    assert reached(program) == set(range(len(program) // 8))
