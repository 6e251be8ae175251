# SPDX-License-Identifier: Apache-2.0
"""A plan in words: everything named, nothing lost, and no trust in the bytes."""

from __future__ import annotations

import json

import golden
import pytest
from support import BASE, config, make, plan, steps

from wherry.errors import PlanError
from wherry.plan.describe import FIELDS, Plan, Step, describe
from wherry.plan.encode import Builder


def built(b: Builder) -> Plan:
    return Plan(b.finish(0, 0, 0, "key", bytes(16)))


def test_a_line_has_number_executor_text_and_pointer() -> None:
    lines = describe(make(config())).splitlines()
    assert lines[0] == "plan version 1, 52 steps, 2 registers (1 inherited): cacheable"
    assert lines[6] == "  6 launcher clone init into cgroup r0 with new namespaces: mount, uts, ipc, pid, network  <- /linux/namespaces"
    assert len(lines) == 53


def test_the_document_is_json_and_complete() -> None:
    for case in golden.cases().values():
        found = Plan(make(*case))
        document = json.loads(json.dumps(found.document()))
        assert [step["step"] for step in document["steps"]] == list(range(1, len(found.steps) + 1))
        for step in document["steps"]:
            assert set(step["fields"]) == {field.partition(":")[0] for field in FIELDS[step["operation"].upper()].split()}
            assert step["text"] and step["executor"] in ("caller", "launcher", "init")


def test_every_place_is_in_the_configuration() -> None:
    for name, (document, facts, given) in golden.cases().items():
        for step in Plan(make(document, facts, given)).steps:
            at: object = document
            for token in step.place.split("/")[1:]:
                token = token.replace("~1", "/").replace("~0", "~")
                if isinstance(at, list):
                    at = at[int(token)]
                elif isinstance(at, dict):
                    assert token in at, (name, step.place)
                    at = at[token]


def test_what_has_no_name_is_shown_as_a_number() -> None:
    b = Builder()
    b.unshare(3, 0x4000000 | 0x1, "")
    b.remount("/x", None, 1 << 30, (1 << 30, 1 << 29, 0, 0, 0, 0, 0, 0), 1 << 20, "")
    b.rlimit(3, 99, 1, 2, "")
    b.propagation(0x4000 | 1 << 28, "")
    b.seccomp(bytes(8), 0x100, 0xFFFF, "")
    b.capabilities(1 << 63, 0, (1 << 64) - 1, (1 << 41) - 1, "")
    texts = [step.text for step in built(b).steps]
    assert texts == [
        "unshare uts, 0x1 namespace",
        "remount /x superblock 0x40000000 [0x100000]: set 0x40000000; clear 0x20000000",
        "limit 99 to 1, hard 2",
        "make every mount 0x10000000 recursive",
        "load the seccomp filter of 1 instructions, flags 0x100",
        "effective 0x8000000000000000; permitted -; inheritable all; ambient all",
    ]


def test_a_directory() -> None:
    b = Builder()
    b.directory("/a b", 0o755, "")
    assert built(b).steps[0].text == 'make directory "/a b" mode 0755'


@pytest.mark.parametrize(
    ("text", "shown"), [("plain", "plain"), ("", '""'), ("a b", '"a b"'), ('"', '"\\""'), ("a\nb", '"a\\nb"'), ("é", "é")]
)
def test_texts_are_quoted_where_they_need_it(text: str, shown: str) -> None:
    b = Builder()
    b.hostname(text, "")
    assert built(b).steps[0].text == f"set the host name to {shown}"


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"x" * 100])
def test_what_is_no_plan(damage: bytes) -> None:
    with pytest.raises(PlanError) as error:
        Plan(damage)
    assert error.value.code == "WHERRY-LAUNCH-BAD-PLAN"


def test_a_plan_that_is_cut_off_or_has_an_unknown_operation() -> None:
    data = make(config())
    with pytest.raises(PlanError):
        Plan(data[:-8])
    last = bytearray(data)
    last[-16:-14] = b"\xff\xff"
    with pytest.raises(PlanError, match="unknown operation 65535"):
        Plan(bytes(last))


def test_steps_are_numbered_as_failures_are() -> None:
    found = plan(config(mounts=[*BASE["mounts"], {"destination": "/run", "type": "tmpfs"}]))
    step = next(step for step in steps(found, "MOUNT_FS") if step.place == "/mounts/7")
    assert isinstance(step, Step) and found.steps[step.number - 1] is step
