# SPDX-License-Identifier: Apache-2.0
"""Our schema against the specification's own, where Debian's golang-github-opencontainers-specs-dev is installed (it is older than 1.3:
whatever it knows of Linux, ours must know, with the same type)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from wherry.oci.validate import schema

OFFICIAL = Path(os.environ.get("OCI_SCHEMA", "/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema"))
OTHERS = ("/windows", "/solaris", "/zos")

pytestmark = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs the Debian package golang-github-opencontainers-specs-dev")


def resolve(node: dict[str, Any], file: Path) -> tuple[dict[str, Any], Path]:
    while "$ref" in node:
        name, _, fragment = node["$ref"].partition("#")
        file = file.parent / name if name else file
        node = json.loads(file.read_text())
        for part in fragment.strip("/").split("/"):
            node = node[part] if part else node
    return node, file


def places(node: dict[str, Any], file: Path, at: str = "") -> dict[str, tuple[str, Any]]:
    """pointer -> (type, enum); "*" stands for an index or any key."""
    node, file = resolve(node, file)
    found = {at: (node.get("type", ""), sorted(node["enum"]) if "enum" in node else None)}
    for branch in (*node.get("allOf", ()), *node.get("oneOf", ()), *node.get("anyOf", ())):
        deeper = places(branch, file, at)
        deeper = {place: value for place, value in deeper.items() if place != at or value[0]}
        found |= deeper
    for key, child in node.get("properties", {}).items():
        found |= places(child, file, f"{at}/{key}")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            found |= places(node[name], file, f"{at}/*")
    for child in node.get("patternProperties", {}).values():
        found |= places(child, file, f"{at}/*")
    return found


def test_everything_official_is_known(tmp_path: Path) -> None:
    ours_file = tmp_path / "ours.json"
    ours_file.write_text(json.dumps(schema()))
    ours = places(schema(), ours_file)
    official = places(json.loads((OFFICIAL / "config-schema.json").read_text()), OFFICIAL / "config-schema.json")
    missing = {
        place: kind
        for place, (kind, _) in official.items()
        if not place.startswith(OTHERS) and (place not in ours or (kind and ours[place][0] != kind))
    }
    assert missing == {}


def test_every_official_name_is_a_value_of_ours(tmp_path: Path) -> None:
    ours_file = tmp_path / "ours.json"
    ours_file.write_text(json.dumps(schema()))
    ours = places(schema(), ours_file)
    official = places(json.loads((OFFICIAL / "config-schema.json").read_text()), OFFICIAL / "config-schema.json")
    for place, (_, names) in official.items():
        if names and not place.startswith(OTHERS):
            assert set(names) - set(ours[place][1] or names) <= {"", "SCMP_ACT_NOTIFY"}, place
