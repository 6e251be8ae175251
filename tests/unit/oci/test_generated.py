# SPDX-License-Identifier: Apache-2.0
"""Configurations by the thousand: made from the shapes, then broken anywhere. create, validate and the schema must agree on them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.errors import ConfigError
from wherry.oci.checks import CONFIG, check, findings
from wherry.oci.config import load
from wherry.oci.shape import Late, Map, Object
from wherry.oci.validate import schema_findings, validate

from .configs import full, put

TEXT = st.sampled_from(["", "/", "/a", "a", "rel/path", "../x", "0-3", "1.3.0", "2MB", "net.a", "x=y", "eth0", "ro", "bind", "tmpfs", "CAP_KILL", "~/", "a\nb"])
SCALAR = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
ANYTHING = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2), max_leaves=4)
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def of(want: Any) -> st.SearchStrategy[Any]:
    """Any value of a shape."""
    if isinstance(want, Late):
        want = want.load()
    if isinstance(want, Object):
        required = {key: of(want.properties[key]) for key in want.required}
        return st.fixed_dictionaries(required, optional={key: of(child) for key, child in want.properties.items() if key not in required})
    if isinstance(want, Map):
        return st.dictionaries(TEXT, of(want.values), max_size=2)
    if isinstance(want, list):
        return st.lists(of(want[0]), max_size=2)
    if isinstance(want, frozenset):
        return st.sampled_from(sorted(want))
    if isinstance(want, tuple):
        return st.integers(*want)
    return TEXT if want is str else st.booleans()


@st.composite
def shaped(draw: st.DrawFn) -> dict[str, Any]:
    """full() with one section replaced by anything of its shape."""
    section = draw(st.sampled_from([key for key in CONFIG.properties if key != "ociVersion"]))
    return {**full(), section: draw(of(CONFIG.properties[section]))}


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """full() with up to three values replaced by anything."""
    config = full()
    for _ in range(draw(st.integers(1, 3))):
        places = sorted(pointers(config, ""))
        put(config, draw(st.sampled_from(places)), draw(ANYTHING))
    return config


def pointers(value: Any, place: str) -> list[str]:
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(key.replace("~", "~0").replace("/", "~1"), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    return [pointer for key, item in items for pointer in (f"{place}/{key}", *pointers(item, f"{place}/{key}"))]


def agree(config: Any) -> None:
    found = findings(config)
    errors = {(finding.pointer, finding.code) for finding in found if finding.severity == "error"}
    before = json.dumps(config)
    try:
        warnings = check(config)
    except ConfigError as error:
        assert (error.pointer, error.code) in errors
    else:
        assert errors == set()
        shown = [str(finding) for finding in found if finding.code != "WHERRY-CONFIG-UNKNOWN-PROPERTY"]
        assert warnings == shown
    assert json.dumps(config) == before


@SLOW
@given(shaped())
def test_create_and_validate_agree_on_well_shaped_configurations(config: dict[str, Any]) -> None:
    agree(config)
    assert "WHERRY-CONFIG-TYPE" not in {finding.code for finding in findings(config)}  # type: ignore[arg-type]


@SLOW
@given(mutated())
def test_create_and_validate_agree_on_broken_configurations(config: dict[str, Any]) -> None:
    agree(config)


@SLOW
@given(mutated())
def test_the_schema_finds_nothing_that_the_rules_miss(config: dict[str, Any]) -> None:
    """Rules word things better; the schema is for others who have only it. What other runtimes take (a user without gid) is a warning at the same place."""
    document: Any = load(json.dumps(config).encode())
    places = {finding.pointer for finding in schema_findings(document) if finding.severity == "error"}
    if places:
        assert any(finding.severity == "error" or finding.pointer in places for finding in findings(document))


@SLOW
@given(mutated())
def test_validate_never_raises(config: dict[str, Any]) -> None:
    result = validate(json.dumps(config).encode())
    assert list(result.lines())
    assert json.loads(json.dumps(result.document()))["valid"] == result.valid
    for finding in result.findings:
        assert finding.pointer == "" or finding.pointer.startswith("/")
        assert str(finding).isprintable()
