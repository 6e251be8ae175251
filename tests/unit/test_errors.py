# SPDX-License-Identifier: Apache-2.0
"""The error tree and the table of codes: complete, in both directions, and as documented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wherry import errors
from wherry.codes import CODES, STATUSES
from wherry.errors import ConfigError, JsonError, StateError, WherryError

TOP = Path(__file__).parents[2]
CODE = re.compile(r"WHERRY-[A-Z]+(?:-[A-Z0-9]+)*")


def sources() -> str:
    roots = ("runtime/wherry", "shim/wherry_shim")
    paths = [path for root in roots for path in (TOP / root).rglob("*.py") if path.name != "codes.py"]
    return "\n".join(re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL) for path in paths)


def test_every_code_in_the_sources_is_in_the_table() -> None:
    text = sources()
    used = {code for code in CODE.findall(text) if f"{code}-{{" not in text}
    used |= {f"WHERRY-CONFIG-{name}" for name in re.findall(r'report\.(?:error|warn)\(\s*"([A-Z-]+)"', text)}
    assert used - CODES.keys() == set()


def test_every_code_in_the_table_is_in_the_sources() -> None:
    text = sources()
    unused = {code for code in CODES if f'"{code}"' not in text and f'"{code.removeprefix("WHERRY-CONFIG-")}"' not in text}
    assert unused == set()


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.name)
def test_a_row(code: object) -> None:
    row = CODES[code.name]  # type: ignore[attr-defined]
    for text in (row.cause, row.remedy):
        assert text and text[-1] != "." and (text[0] == text[0].lower() or text.split()[0].isupper()) and "|" not in text
    assert row.status in STATUSES
    assert row.exit_code == 1


def classes(base: type[WherryError]) -> list[type[WherryError]]:
    return [base, *(deeper for child in base.__subclasses__() for deeper in classes(child))]


def test_the_tree() -> None:
    tree = classes(WherryError)
    drawn = errors.__doc__ or ""
    for cls in tree:
        assert cls.code in CODES, cls
        assert CODES[cls.code].exit_code == cls.exit_code
        if cls.__module__ == "wherry.errors":
            assert re.search(rf"\b{cls.__name__}\b", drawn), f"{cls.__name__} is not in the drawing"


def test_texts() -> None:
    error = ConfigError("must be absolute", pointer="/process/cwd", remedy="begin it with /", path="x")
    assert str(error) == "/process/cwd: must be absolute"
    assert error.sentence() == "/process/cwd: must be absolute (begin it with /)"
    assert error.facts == {"path": "x"} and error.code == "WHERRY-CONFIG-VALUE" and error.exit_code == 1
    assert error.document() == {
        "code": "WHERRY-CONFIG-VALUE",
        "message": "must be absolute",
        "exitCode": 1,
        "pointer": "/process/cwd",
        "remedy": "begin it with /",
        "facts": {"path": "x"},
    }


def test_an_error_during_cleanup_is_kept() -> None:
    error = WherryError("mount failed")
    error.also.append(WherryError("umount failed", remedy="reboot"))
    assert error.sentence() == "mount failed; and while cleaning up: umount failed (reboot)"
    assert error.document()["also"] == [{"code": "WHERRY-INTERNAL", "message": "umount failed", "exitCode": 1, "remedy": "reboot"}]


def test_facts_become_json() -> None:
    document = WherryError("x", error=OSError(2, "no"), number=1, nothing=None, path=Path("/x")).document()
    assert document["facts"] == {"error": "[Errno 2] no", "number": 1, "nothing": None, "path": "/x"}


def test_one_line_whatever_is_in_it() -> None:
    assert str(WherryError("a\nb\x1b[31mc\udcff", pointer="/x\r")) == "/x\\r: a\\nb\\x1b[31mc\\udcff"
    assert str(WherryError("größe \u2603")) == "größe \u2603"


def test_json_error_names_the_file() -> None:
    assert str(JsonError("x", name="a.json", line=1, column=2, pointer="/p")) == "a.json:1:2: /p: x"
    assert str(JsonError("x")) == "config.json: x"


# What other programs search for in the texts.
MATCHED = {
    ("start", "running"): "cannot start an already running container",
    ("start", "stopped"): "cannot start a container that has stopped",
    ("kill", "stopped"): "container not running",
    ("pause", "stopped"): "container not running",
    ("exec", "stopped"): "cannot exec in a stopped container",
    ("exec", "paused"): "cannot exec in a paused container (use --ignore-paused to override)",
    ("delete", "running"): "cannot delete container box that is not stopped: running",
    ("events", "stopped"): "container with id box is not running",
}


@pytest.mark.parametrize(("verb", "status"), MATCHED)
def test_refusals(verb: str, status: str) -> None:
    error = errors.refused(verb, status, "box")
    assert MATCHED[verb, status] in str(error)
    assert isinstance(error, StateError) and error.code in CODES
    assert error.facts == {"id": "box", "verb": verb, "status": status}


def test_any_other_refusal_names_verb_and_state() -> None:
    assert str(errors.refused("resume", "creating", "box")) == "cannot resume container box: it is creating"


def test_missing_and_taken() -> None:
    assert "container does not exist" in str(errors.not_found("box"))
    assert "container with given ID already exists" in str(errors.exists("box"))


def test_the_documentation_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(TOP / "docs" / "generate.py"), "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
