# SPDX-License-Identifier: Apache-2.0
"""Nothing of the specification is skipped in silence: every property of the schema is read by the compiler, or by somebody named here."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import pytest
from support import config, host, options

from wherry.oci.checks import check
from wherry.plan.compile import compile

SCHEMA = json.loads((Path(__file__).parents[3] / "specs/config.schema.json").read_text())

# Read elsewhere, or on purpose by nobody.
ELSEWHERE = {
    "/vm": "for runtimes that start virtual machines",
    "/process/commandLine": "Windows",
    "/process/user/username": "Windows",
    "/process/execCPUAffinity": "exec",
    "/hooks/poststart": "container.hooks runs them from the copy of the configuration; the plan has a flag",
    "/hooks/poststop": "container.hooks",
    "/linux/netDevices/*": "the interlude",
    "/linux/intelRdt": "the interlude",
    "/linux/seccomp": "options.seccomp compiles it",
    "/linux/personality/flags": "the specification knows none; oci.checks warns",
    "/linux/resources/memory/checkBeforeUpdate": "update",
    "/linux/resources/memory/kernel": "the kernel has given it up; a warning",
    "/linux/resources/memory/kernelTCP": "the kernel has given it up; a warning",
}


def properties(schema: dict[str, Any], pointer: str = "") -> Iterator[str]:
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    for key, value in schema.get("properties", {}).items():
        yield f"{pointer}/{key}"
        yield from properties(value, f"{pointer}/{key}")
    for key in ("additionalProperties", "items"):
        if isinstance(schema.get(key), dict):
            yield from properties(schema[key], f"{pointer}/*")


class Recorder(dict[str, Any]):
    """A configuration that notes which of its properties are asked for; inside arrays and maps the pointer has a "*"."""

    MAPS = ("/linux/netDevices", "/linux/sysctl", "/linux/timeOffsets", "/annotations", "/linux/resources/rdma", "/linux/resources/unified")

    def __init__(self, value: dict[str, Any], pointer: str, seen: set[str]) -> None:
        self.pointer, self.seen = pointer, seen
        super().__init__({key: self.wrap(item, self.below(key)) for key, item in value.items()})

    def below(self, key: object) -> str:
        return f"{self.pointer}/{'*' if self.pointer in self.MAPS else key}"

    def wrap(self, item: Any, pointer: str) -> Any:
        if isinstance(item, dict):
            return Recorder(item, pointer, self.seen)
        return [self.wrap(value, f"{pointer}/*") for value in item] if isinstance(item, list) else item

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(self.below(key))
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.seen.add(self.below(key))
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.seen.add(self.below(key))
        return super().__contains__(key)


def reads() -> set[str]:
    seen: set[str] = set()
    cases = [(document, facts, given) for document, facts, given in golden.cases().values()]
    cases.append((config(linux__resources=EVERY), host("v1"), options()))
    for document, facts, given in cases:
        check(copy.deepcopy(document))  # type: ignore[arg-type]
        compile(Recorder(copy.deepcopy(document), "", seen), facts, given)
    return seen


DEVICE = {"major": 8, "minor": 0}
EVERY: dict[str, Any] = {
    **golden.RESOURCES,
    "memory": {"limit": 9, "reservation": 8, "swap": 10, "swappiness": 7, "disableOOMKiller": True, "useHierarchy": True},
    "cpu": {**golden.RESOURCES["cpu"], "realtimeRuntime": 1, "realtimePeriod": 2},
    "blockIO": {
        "weight": 10,
        "leafWeight": 10,
        "weightDevice": [{**DEVICE, "weight": 10, "leafWeight": 10}],
        **{f"throttle{way}Device": [{**DEVICE, "rate": 1}] for way in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")},
    },
}


def test_every_property_is_read_by_somebody() -> None:
    seen = reads()
    missed = [
        pointer
        for pointer in properties(SCHEMA)
        if pointer not in seen and not any(pointer == known or pointer.startswith(f"{known}/") for known in ELSEWHERE)
    ]
    assert missed == []


@pytest.mark.parametrize("pointer", ELSEWHERE)
def test_the_exceptions_are_properties(pointer: str) -> None:
    known = set(properties(SCHEMA))
    assert pointer in known or any(name.startswith(pointer) for name in known)
