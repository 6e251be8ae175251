# SPDX-License-Identifier: Apache-2.0
"""specs/coverage.toml says what becomes of every property: it has each once, names what is there, and agrees with what is read."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from wherry.codes import CODES
from wherry.plan.encode import FORMATS

TOP = Path(__file__).parents[2]
SCHEMA = json.loads((TOP / "specs/config.schema.json").read_text())
ROWS: dict[str, dict[str, str]] = tomllib.loads((TOP / "specs/coverage.toml").read_text())
KEYS = {"done": {"by", "test"}, "refused": {"code", "test"}, "ignored": {"reason"}}
DONE = [leaf for leaf, row in ROWS.items() if row["status"] == "done"]


def leaves(schema: dict[str, Any], pointer: str = "") -> Iterator[str]:
    """Where nothing is below: `*` is an element of an array or a value of a map."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    below = {f"{pointer}/{key}": child for key, child in schema.get("properties", {}).items()}
    below |= {f"{pointer}/*": schema[key] for key in ("additionalProperties", "items") if isinstance(schema.get(key), dict)}
    for place, child in below.items():
        yield from leaves(child, place)
    if not below:
        yield pointer


@cache
def names_in(file: str) -> set[str]:
    """test_x and Class::test_x of a file."""
    found = set()
    for node in ast.parse((TOP / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def test_every_leaf_has_a_row_in_the_order_of_the_schema() -> None:
    wanted = list(leaves(SCHEMA))
    assert sorted(set(wanted) - ROWS.keys()) == [], "no row"
    assert sorted(ROWS.keys() - set(wanted)) == [], "no such property"
    assert list(ROWS) == wanted


def test_rows_say_what_their_status_wants() -> None:
    wrong = [leaf for leaf, row in ROWS.items() if row.keys() - {"status", "note"} != KEYS.get(row["status"])]
    assert wrong == []
    assert [leaf for leaf, row in ROWS.items() if not all(row.values())] == []


@pytest.mark.parametrize("test", sorted({row["test"] for row in ROWS.values() if "test" in row}))
def test_the_test_exists(test: str) -> None:
    match = re.fullmatch(r"(tests/[\w/]+\.py)::([\w:]+)(?:\[([\w-]+)\])?", test)
    assert match, test
    file, name, case = match.groups()
    assert (TOP / file).exists(), test
    assert name in names_in(file), test
    if case:  # only plans that are kept as text are named by their case
        assert list((TOP / file).parent.glob(f"golden*/{case}.txt")), test


def test_codes_are_known() -> None:
    assert [row["code"] for row in ROWS.values() if "code" in row and row["code"] not in CODES] == []
    mentioned = {code for row in ROWS.values() for code in re.findall(r"WHERRY-[A-Z-]*[A-Z]", row.get("note", ""))}
    assert mentioned - CODES.keys() == set()


def test_who_does_it_exists() -> None:
    """Operations of the launch plan, or modules."""
    unknown = {
        name
        for row in ROWS.values()
        for name in row.get("by", "").split()
        if name not in FORMATS and not (name.endswith(".py") and (TOP / "runtime/wherry" / name).is_file())
    }
    assert unknown == set()


def test_reasons_begin_with_a_section() -> None:
    """of the specification: `Section: what it says`"""
    assert [leaf for leaf, row in ROWS.items() if row["status"] == "ignored" and not re.match(r"[A-Z][\w -]+: \w", row["reason"])] == []


def modules_that_name(leaf: str) -> list[str]:
    """Those of `by` that have the property's name as a text."""
    name = [part for part in leaf.split("/") if part != "*"][-1]
    modules = [module for module in ROWS[leaf]["by"].split() if module.endswith(".py")]
    return [module for module in modules if f'"{name}"' in (TOP / "runtime/wherry" / module).read_text()]


def test_what_is_done_is_read() -> None:
    """By the compiler, as recorded over the golden configurations, or by a module that the row names."""
    sys.path.insert(0, str(TOP / "tests/unit/plan"))
    try:
        from test_properties import reads
    finally:
        sys.path.pop(0)
    seen = reads()
    assert "/process/args" in seen and "/process/commandLine" not in seen
    assert [leaf for leaf in DONE if re.sub(r"(/\*)+$", "", leaf) not in seen and not modules_that_name(leaf)] == []
