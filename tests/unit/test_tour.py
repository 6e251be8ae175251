# SPDX-License-Identifier: Apache-2.0
"""The extracts in docs/tour.md are what stands in the files that they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRACT = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
EXTRACTS = EXTRACT.findall((ROOT / "docs/tour.md").read_text())


def test_there_are_extracts() -> None:
    assert len(EXTRACTS) >= 10


@pytest.mark.parametrize(("name", "text"), EXTRACTS, ids=[f"{number}-{Path(name).name}" for number, (name, _) in enumerate(EXTRACTS)])
def test_extract(name: str, text: str) -> None:
    """Its pieces, between lines of dots, stand in the file in this order."""
    content, at = (ROOT / name).read_text(), 0
    for piece in re.split(r"^ *\.\.\.\n", text, flags=re.MULTILINE):
        assert piece in content[at:], f"{name} no longer has:\n{piece}"
        at = content.index(piece, at) + len(piece)


def test_files_that_are_named() -> None:
    """`plan/compile.py` is below runtime/wherry, others are from the top."""
    names = re.findall(r"`([\w/]+/[\w/]+\.(?:py|c|h|md))`", (ROOT / "docs/tour.md").read_text())
    assert names
    assert [name for name in names if not (ROOT / name).exists() and not (ROOT / "runtime/wherry" / name).exists()] == []
