# SPDX-License-Identifier: Apache-2.0
"""The formats of the encoder against the structs of plan.h: as cffi lays them out from the text, and as the C compiler did."""

from __future__ import annotations

from struct import Struct, calcsize
from typing import Any

import header
import pytest
from support import FILTER, options

from wherry.cgroup import resources
from wherry.kernel import native
from wherry.plan import encode
from wherry.plan.describe import _TEXTS, FIELDS, Plan
from wherry.plan.isolation import CLONE

FFI, NUMBERS = header.load()
SAME = {"DOMAINNAME": "hostname", "CHROOT": "mount_point", "READONLY_PATH": "path", "MASKED_PATH": "path", "MOUNT_CGROUP2": "mount_fs", "MOUNT_SYSFS": "mount_fs"}
EXTENSION = hasattr(native.lib, "host_facts_key")
SIZES = {"B": 1, "H": 2, "I": 4, "i": 4, "Q": 8}


def struct_name(name: str) -> str:
    return f"struct wherry_op_{SAME.get(name, name.lower())}"


def opcodes() -> list[str]:
    names = FFI.typeof("enum wherry_opcode").relements
    return [name[3:] for name in names if name != "OP_COUNT_PLUS_1"]


def offsets(name: str) -> dict[str, tuple[int, int]]:
    """Where the encoder puts each field, and how many bytes it gives it."""
    found, done = {}, encode.OP
    rest = encode.FORMATS[name]
    for field in FIELDS[name].split():
        key = field.partition(":")[0]
        size = 64 if key == "attributes" else 0
        while rest[:1].isdigit() and rest.lstrip("0123456789")[:1] == "x":
            done, rest = done + rest[: rest.index("x") + 1], rest[rest.index("x") + 1 :]
        letters = "8Q" if size else rest[0]
        at = calcsize(f"<{done}")
        found[key] = (at, size or SIZES[letters])
        done, rest = done + letters, rest[len(letters) :]
    return found


def layouts() -> list[Any]:
    return [pytest.param(FFI, id="header")] + ([pytest.param(native.ffi, id="compiled")] if EXTENSION else [])


def test_every_operation_has_a_format_fields_and_a_text() -> None:
    assert set(opcodes()) == set(encode.FORMATS) == set(FIELDS) == set(_TEXTS)
    assert list(encode.FORMATS) == sorted(encode.FORMATS, key=lambda name: getattr(NUMBERS, f"OP_{name}"))


@pytest.mark.parametrize("ffi", layouts())
@pytest.mark.parametrize("name", list(encode.FORMATS))
def test_struct(ffi: Any, name: str) -> None:
    struct = struct_name(name)
    assert calcsize(f"<{encode.OP}{encode.FORMATS[name]}") == ffi.sizeof(struct)
    assert ffi.sizeof(struct) % 8 == 0
    for field, (at, size) in offsets(name).items():
        declared = dict(ffi.typeof(struct).fields)[field]
        assert (field, at, size) == (field, declared.offset, ffi.sizeof(declared.type))
    fields = [field for field, _ in ffi.typeof(struct).fields if field not in ("op", "reserved")]
    assert sorted(fields) == sorted(offsets(name))


@pytest.mark.parametrize("ffi", layouts())
def test_header_and_head_of_an_operation(ffi: Any) -> None:
    assert encode.HEADER.size == ffi.sizeof("struct wherry_plan")
    assert Struct(f"<{encode.OP}").size == ffi.sizeof("struct wherry_op") == ffi.offsetof("struct wherry_op", "place") + 8
    assert ffi.offsetof("struct wherry_plan", "registers") == 44
    assert ffi.sizeof("struct wherry_attributes") == calcsize("<8Q")
    assert ffi.sizeof("struct wherry_text") == ffi.sizeof("struct wherry_blob") == ffi.sizeof("struct wherry_list") == 8


def test_numbers_that_python_writes_itself() -> None:
    assert (encode.CALLER, encode.LAUNCHER, encode.INIT) == (NUMBERS.WHERRY_CALLER, NUMBERS.WHERRY_LAUNCHER, NUMBERS.WHERRY_INIT)
    assert encode.NO_REGISTER == NUMBERS.WHERRY_NO_REGISTER
    slots = ("ID", "BUNDLE", "BUNDLE_JSON", "DIRECTORY", "CREATED", "PID", "START_TIME")
    for slot in slots:
        assert getattr(encode, slot) == chr(NUMBERS.WHERRY_SLOT_MARK) + chr(0x40 + getattr(NUMBERS, f"WHERRY_SLOT_{slot}"))
    assert len(slots) == NUMBERS.WHERRY_SLOT_COUNT
    flags = (resources.MISSING_OK, resources.IGNORE, resources.ALTERNATIVE)
    assert flags == (NUMBERS.WHERRY_WRITE_MISSING_OK, NUMBERS.WHERRY_WRITE_IGNORE, NUMBERS.WHERRY_WRITE_ALTERNATIVE)


@pytest.mark.skipif(not EXTENSION, reason="needs the extension")
def test_header_text_and_compiled_header_agree() -> None:
    for enum in ("wherry_opcode", "wherry_plan_flags", "wherry_mount_flags", "wherry_cgroup_flags", "wherry_slot", "wherry_refusal"):
        for name, value in FFI.typeof(f"enum {enum}").relements.items():
            assert getattr(native.lib, name) == value


def test_clone_flags_are_the_kernels() -> None:
    import os

    for kind, name in (
        ("mount", "NEWNS"),
        ("uts", "NEWUTS"),
        ("ipc", "NEWIPC"),
        ("user", "NEWUSER"),
        ("pid", "NEWPID"),
        ("network", "NEWNET"),
    ):
        assert CLONE[kind] == getattr(os, f"CLONE_{name}", CLONE[kind])


# ---- the heap


def test_equal_texts_are_stored_once() -> None:
    b = encode.Builder()
    assert b.text("same") == b.text("same") != b.text("other")
    assert b.list(["a", "b"]) == b.list(("a", "b"))
    assert b.blob(FILTER) == b.blob(bytes(FILTER))
    assert (b.text(None), b.list([]), b.blob(b"")) == (0, 0, 0)


def test_an_empty_text_is_not_absent() -> None:
    reference = encode.Builder().text("")
    assert reference & 0xFFFFFFFF and not reference >> 32


@pytest.mark.parametrize("values", [["x"], ["a" * 3, "b" * 5], [""] * 9])
def test_lists_are_aligned_and_readable(values: list[str]) -> None:
    b = encode.Builder()
    b.text("odd")
    b.program(values, [], "p", 0, 0, "")
    plan = Plan(b.finish(0, 0, 0, "key", bytes(16)))
    assert b.list(values) & 7 == 0
    assert plan.steps[0].fields["arguments"] == values


def test_a_plan_has_its_size_and_its_facts_key() -> None:
    b = encode.Builder()
    b.launch()
    data = b.finish(5, 3, 2, "f" * 64, b"B" * 16)
    plan = Plan(data)
    assert (plan.facts_key, plan.build_id, plan.registers, plan.inherited) == ("f" * 64, b"B" * 16, 3, 2)
    assert plan.flags == ["cacheable", "new-user"]
    assert int.from_bytes(data[8:12], "little") == len(data)


def test_what_is_too_large_is_refused() -> None:
    from wherry.errors import PlanError

    b = encode.Builder()
    b.hostname("x" * NUMBERS.WHERRY_MAX_PLAN, "/hostname")
    with pytest.raises(PlanError) as error:
        b.finish(0, 0, 0, "", options().build_id)
    assert error.value.code == "WHERRY-PLAN-TOO-LARGE"
    b = encode.Builder()
    for _ in range(NUMBERS.WHERRY_MAX_STEPS + 1):
        b.launch()
    with pytest.raises(PlanError):
        b.finish(0, 0, 0, "", options().build_id)
