# SPDX-License-Identifier: Apache-2.0
"""Whole plans as text: what changes in one of them shows in review. `pytest tests/unit/plan --update-golden` writes them anew."""

from __future__ import annotations

from pathlib import Path

import golden
import pytest
from support import check_kept, make, options

from wherry.kernel import native
from wherry.plan.describe import describe
from wherry.plan.encode import FORMATS

CASES = golden.cases()
FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", sorted(CASES))
def test_plan(name: str, request: pytest.FixtureRequest) -> None:
    check_kept(FOLDER / f"{name}.txt", describe(make(*CASES[name])), request.config)


def test_no_golden_plan_without_a_case() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(CASES)


def test_every_operation_is_in_a_golden_plan() -> None:
    from wherry.plan.describe import Plan

    used = {step.name for case in CASES.values() for step in Plan(make(*case)).steps}
    assert set(FORMATS) - used == {"DIRECTORY", "CHROOT", "OPEN_TARGET"}  # directories are made by the mounts and the devices that need them; the others are of an exec


@pytest.mark.parametrize("name", sorted(CASES))
def test_same_input_same_bytes(name: str) -> None:
    again = golden.cases()[name]
    assert make(*CASES[name]) == make(*again)


@pytest.mark.skipif(not hasattr(native.lib, "host_facts_key"), reason="needs the extension, which has the strict decoder")
@pytest.mark.parametrize("name", sorted(CASES))
def test_decoder_takes_it(name: str) -> None:
    document, facts, given = CASES[name]
    mine = options(**{key: getattr(given, key) for key in ("no_pivot", "no_new_keyring", "bundle", "environment", "seccomp")})
    mine.build_id = b""
    native.check_plan(make(document, facts, mine))
