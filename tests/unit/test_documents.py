# SPDX-License-Identifier: Apache-2.0
"""What the documents point at is there: the tests that show something, other documents, files of the source."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("", "tests", "specs", "docs", "runtime", "runtime/wherry", "shim", "shim/wherry_shim", "csrc", "csrc/include", "conformance")
DOCUMENTS = sorted(path for place in ("", "docs", "specs", "specs/decisions", "conformance") for path in (ROOT / place).glob("*.md"))
FUNCTION = re.compile(r"def (test_\w+)|^(?:static void |IN_\w+\()(\w+)", re.MULTILINE)


def there(path: str, document: Path) -> bool:
    return any((ROOT / floor / path).exists() for floor in FLOORS) or (document.parent / path).exists()


def names_by_file() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("csrc/tests/test_*.c")]:
        found.setdefault(path.name, set()).update(one or other for one, other in FUNCTION.findall(path.read_text()))
    return found


NAMES = names_by_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named(document: Path) -> None:
    named = re.findall(r"(?:[\w/]*/)?(test_\w+\.(?:py|c))::(\w+)", document.read_text())
    assert [f"{file}::{name}" for file, name in named if name not in NAMES.get(file, ())] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", text) if not (document.parent / link).exists()]
    paths = [path for path in re.findall(r"`([\w./-]+/[\w./-]+\.(?:py|c|h|sh|md|toml|proto))`", text) if not there(path, document)]
    assert (links, paths) == ([], [])


def test_decisions_are_numbered_once() -> None:
    numbers = [path.name[:4] for path in (ROOT / "specs/decisions").glob("*.md")]
    assert len(numbers) == len(set(numbers)) and all(number.isdecimal() for number in numbers)
