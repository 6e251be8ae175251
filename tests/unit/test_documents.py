# SPDX-License-Identifier: Apache-2.0
"""What the documents point at is there: links and their anchors, files in backticks, the tests that show something."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MADE = {".venv", "build", "dist", "_site"}
TOPS = ("csrc", "runtime", "shim", "tests", "docs", "specs", "conformance", ".ci")
PAGES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.md") if not MADE & set(path.relative_to(ROOT).parts) and "/." not in str(path.relative_to(ROOT)))
LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")
NAMED = re.compile(rf"`((?:{'|'.join(map(re.escape, TOPS))})/[\w./{{}},*-]+)`")
FUNCTION = re.compile(r"def (test_\w+)|^(?:static void |IN_\w+\()(\w+)", re.MULTILINE)


def names_by_file() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("csrc/tests/test_*.c")]:
        found.setdefault(path.name, set()).update(one or other for one, other in FUNCTION.findall(path.read_text()))
    return found


NAMES = names_by_file()


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def alternatives(path: str) -> list[str]:
    """a/{b,c}.py is two files."""
    found = re.search(r"\{([^{}]*)\}", path)
    return [one for word in found[1].split(",") for one in alternatives(path[: found.start()] + word + path[found.end() :])] if found else [path]


def test_there_are_pages() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    here = ROOT / page
    for link in LINK.findall(re.sub(r"^(?: {4}|```).*$", "", here.read_text(), flags=re.M)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (here.parent / file).resolve() if file else here
        assert target.exists(), f"{page}: {link}"
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), f"{page}: {link} has no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_files_in_backticks(page: str) -> None:
    for name in NAMED.findall((ROOT / page).read_text()):
        for one in alternatives(name.rstrip(".,")):
            assert one.startswith("docs/_site") or list(ROOT.glob(one)), f"{page}: there is no {one}"


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named(page: str) -> None:
    named = re.findall(r"(?:[\w/]*/)?(test_\w+\.(?:py|c))::(\w+)", (ROOT / page).read_text())
    assert [f"{file}::{name}" for file, name in named if name not in NAMES.get(file, ())] == []


def test_decisions_are_numbered_once() -> None:
    numbers = [path.name[:4] for path in (ROOT / "specs/decisions").glob("*.md")]
    assert len(numbers) == len(set(numbers)) and all(number.isdecimal() for number in numbers)
