# SPDX-License-Identifier: Apache-2.0
"""Generated configurations on generated hosts: valid ones compile to the same bytes twice, or meet a documented error that names its place;
one broken value is found where it is."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import broken, configs, places
from support import FILTER, HERE, host, options

from wherry.codes import CODES
from wherry.errors import ConfigError, WherryError
from wherry.kernel import native
from wherry.kernel.hostfacts import HostFacts
from wherry.oci.checks import CONFIG, check
from wherry.oci.config import load
from wherry.oci.validate import validate
from wherry.plan.compile import compile
from wherry.plan.describe import describe

HOSTS = sorted(file.stem for file in (HERE / "facts").glob("*.json"))
pytestmark = pytest.mark.timeout(600)  # where one fails, it is made small
SEEN: set[str] = set()


def bounded(examples: int) -> settings:
    """The same ones each time; WHERRY_EXAMPLES=10: ten times as many, others each time."""
    times = int(os.environ.get("WHERRY_EXAMPLES", "1"))
    return settings(max_examples=examples * times, deadline=None, derandomize=times == 1, database=None, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))


def compiled(config: dict[str, Any], facts: HostFacts, **given: Any) -> bytes | WherryError:
    document: Any = load(json.dumps(config).encode())
    check(document)
    try:
        return compile(document, facts, options(seccomp=lambda section: (FILTER, 4), **given))
    except WherryError as error:
        return error


@bounded(200)
@given(configs(), st.sampled_from(HOSTS), st.booleans())
def test_valid_configurations_compile_to_the_same_bytes_or_say_why_not(config: dict[str, Any], name: str, no_pivot: bool) -> None:
    SEEN.update(pointer_class(pointer) for pointer, _ in places(config, CONFIG))
    first, second = (compiled(config, host(name), no_pivot=no_pivot) for _ in range(2))
    if isinstance(first, WherryError):
        assert first.code in CODES, first.code
        assert first.pointer, first
        assert str(first) == str(second)
        exists(config, first.pointer)
    else:
        assert first == second
        assert describe(first)


def pointer_class(pointer: str) -> str:
    return "/".join("*" if part.isdigit() else part for part in pointer.split("/"))


def exists(config: Any, pointer: str) -> None:
    """The place, or the one above it where something is missing."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for number, part in enumerate(parts):
        if isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            assert number == len(parts) - 1, pointer


@bounded(40)
@given(configs())
def test_validate_agrees_that_they_are_valid(config: dict[str, Any]) -> None:
    result = validate(json.dumps(config).encode())
    assert result.valid, [str(finding) for finding in result.findings if finding.severity == "error"]


@pytest.mark.skipif(not hasattr(native.lib, "host_facts_key"), reason="needs the extension, which has the strict decoder")
@bounded(80)
@given(configs(), st.sampled_from(HOSTS))
def test_the_decoder_takes_their_plans(config: dict[str, Any], name: str) -> None:
    plan = compiled(config, host(name), build_id=b"")
    if not isinstance(plan, WherryError):
        native.check_plan(plan)


@bounded(180)
@given(broken(), st.sampled_from(HOSTS))
def test_a_broken_value_is_named(given: tuple[dict[str, Any], str, Any], name: str) -> None:
    config, pointer, value = given
    with pytest.raises(ConfigError) as caught:
        compiled(config, host(name))
    error = caught.value
    assert error.code in CODES
    # a list or object of wrong values is found at the value, or at its first item
    assert error.pointer == pointer or (isinstance(value, list | dict) and str(error.pointer).startswith(f"{pointer}/")), (error.pointer, pointer, value)


def test_the_strategies_cover_every_section() -> None:
    sections = {f"/{name}" for name in CONFIG.properties} | {f"/linux/{name}" for name in CONFIG.properties["linux"].properties} | {
        f"/process/{name}" for name in CONFIG.properties["process"].properties}  # fmt: skip
    assert sections - SEEN <= {"/vm", "/process/commandLine"}
