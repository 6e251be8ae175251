# SPDX-License-Identifier: Apache-2.0
"""specs/config.schema.json against the shapes of the checks: the same properties, types, names and ranges, and a word on each."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from wherry.oci.checks import CONFIG
from wherry.oci.shape import Late, Map, Object
from wherry.oci.validate import schema, schema_findings

from .configs import MISSING, broken, full

SCHEMA = schema()


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def described(node: dict[str, Any], place: str = "") -> dict[str, Any]:
    """place -> what the schema says there"""
    node = resolved(node)
    kind = node["type"]
    if kind == "object" and "additionalProperties" in node:
        return {place: "map"} | described(node["additionalProperties"], f"{place}/*")
    if kind == "object":
        found = {place: ("object", tuple(sorted(node.get("required", ()))))}
        for key, child in node["properties"].items():
            found |= described(child, f"{place}/{key}")
        return found
    if kind == "array":
        return {place: "array"} | described(node["items"], f"{place}/*")
    if kind == "integer":
        return {place: (node["minimum"], node["maximum"])}
    return {place: tuple(sorted(node["enum"])) if "enum" in node else kind}


def shaped(want: Any, place: str = "") -> dict[str, Any]:
    """place -> what the checks want there, in the same words"""
    if isinstance(want, Late):
        want = want.load()
    if isinstance(want, Map):
        return {place: "map"} | shaped(want.values, f"{place}/*")
    if isinstance(want, Object):
        found = {place: ("object", tuple(sorted(want.required)))}
        for key, child in want.properties.items():
            found |= shaped(child, f"{place}/{key}")
        return found
    if isinstance(want, list):
        return {place: "array"} | shaped(want[0], f"{place}/*")
    if isinstance(want, frozenset):
        return {place: tuple(sorted(want))}
    return {place: {str: "string", bool: "boolean"}.get(want, want)}


# What a rule wants, and so the schema, although the shape alone does not.
RULED = {
    "/process": ("object", ("args", "cwd", "user")),
    "/process/user": ("object", ("gid", "uid")),
    "/linux/resources/blockIO/weight": (0, 1000),
    "/linux/resources/blockIO/leafWeight": (0, 1000),
    "/linux/resources/blockIO/weightDevice/*/weight": (0, 1000),
    "/linux/resources/blockIO/weightDevice/*/leafWeight": (0, 1000),
}


def test_schema_and_shapes_say_the_same() -> None:
    wanted = shaped(CONFIG) | RULED
    actions = "/linux/seccomp/defaultAction"
    wanted[actions] = tuple(name for name in wanted[actions] if name != "SCMP_ACT_NOTIFY")
    assert described(SCHEMA) == wanted


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def words(node: dict[str, Any], place: str) -> list[str]:
    """Places of properties without title or description."""
    missing = []
    for key, child in node.get("properties", {}).items():
        if not (child.get("title") and child.get("description", "").endswith(".")) and "L3:" not in str(child) and "MB:" not in str(child):
            missing.append(f"{place}/{key}")
        missing += words(resolved(child), f"{place}/{key}")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            missing += words(resolved(node[name]), f"{place}/*")
    return missing


def test_every_property_is_described() -> None:
    assert words(SCHEMA, "") == []


def test_the_full_configuration_has_every_property() -> None:
    """What test_checks breaks places of is complete."""

    def places(value: Any, place: str) -> set[str]:
        if isinstance(value, dict):
            return {place}.union(*(places(item, f"{place}/{key}") for key, item in value.items()))
        if isinstance(value, list):
            return {place}.union(*(places(item, f"{place}/*") for item in value))
        return {place}

    missing = {place for place in described(SCHEMA) if "*" not in place} - places(full(), "")
    assert missing == {
        "/hooks/prestart",
        "/linux/intelRdt/enableCMT",
        "/linux/intelRdt/enableMBM",
        "/linux/personality/flags",
        "/process/commandLine",
        "/process/scheduler/deadline",
        "/process/scheduler/nice",
        "/process/scheduler/period",
        "/process/scheduler/runtime",
        "/process/user/username",
    }


def test_the_full_configuration_is_valid() -> None:
    assert schema_findings(full()) == []


@pytest.mark.parametrize(
    ("pointer", "value", "code"),
    [
        ("/ociVersion", MISSING, "REQUIRED"),
        ("/process/user/uid", MISSING, "REQUIRED"),
        ("/process/user/uid", "0", "TYPE"),
        ("/process/user/uid", -1, "RANGE"),
        ("/process/rlimits/0/type", "NOFILE", "UNKNOWN-VALUE"),
        ("/process/cwd", "x", "VALUE"),
        ("/process/args", [], "VALUE"),
        ("/annotations/", "x", "VALUE"),
        ("/linux/resources/unified/a~1b", "x", "VALUE"),
        ("/linux/devices/0/major", MISSING, "REQUIRED"),
        ("/linux/timeOffsets/other", {}, "UNKNOWN-VALUE"),
        ("/linux/resources/blockIO/weight", 5, "VALUE"),
        ("/linux/netDevices/sixteen_letters_", {}, "RANGE"),
        ("/hostname", "x" * 65, "RANGE"),
    ],
)
def test_worded(pointer: str, value: Any, code: str) -> None:
    (finding,) = schema_findings(broken(**{pointer: value}))
    assert (finding.pointer, finding.code) == (pointer, f"WHERRY-CONFIG-{code}")
    assert finding.message[0] != "'"
