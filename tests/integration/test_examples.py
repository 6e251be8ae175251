# SPDX-License-Identifier: Apache-2.0
"""Every program of docs/examples runs, prints what its first lines promise, and leaves nothing."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.census import state_with

ELSEWHERE = ("replicas",)  # wants a server: tests/serve/test_orchestrator.py
EXAMPLES = sorted(path for path in (Path(__file__).parents[2] / "docs/examples").glob("*.py") if path.stem not in ELSEWHERE)
FOR_USERS = ("hello", "many", "stream", "untrusted")
USER = 12345

pytestmark = [pytest.mark.requires("containers"), pytest.mark.ours]


def promised(example: Path) -> str:
    """The lines behind "Prints:" in its docstring."""
    _, _, rest = example.read_text().partition("Prints:\n")
    return textwrap.dedent(rest.partition('"""')[0])


def output(example: Path, bundle: Bundle, root: Path, **more: object) -> str:
    env = {"PATH": os.environ["PATH"], "WHERRY_ROOT": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-W", "error", example, bundle.rootfs]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, env=env, cwd="/", **more)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return done.stdout  # type: ignore[no-any-return]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8
    assert all(promised(example).strip() for example in EXAMPLES)


@pytest.mark.requires("root")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, bundle: Bundle, place: Path) -> None:
    assert output(example, bundle, place / "root") == promised(example)
    assert state_with([place / "root"]) == []


@pytest.mark.requires("userns")
@pytest.mark.parametrize("name", FOR_USERS)
def test_as_an_ordinary_user(name: str, bundle: Bundle, place: Path) -> None:
    source = next(path for path in EXAMPLES if path.stem == name)
    if os.geteuid():  # we are one
        assert output(source, bundle, place / "root") == promised(source)
        return
    argv = ["/usr/bin/env", sys.executable, "-c", "import wherry.kernel.native"]
    if subprocess.run(argv, user=USER, group=USER, extra_groups=[], cwd="/", capture_output=True).returncode:
        pytest.skip("requires an interpreter that an ordinary user may run")
    root = place / "root"
    root.mkdir()
    os.chown(root, USER, USER)
    example = place / f"{name}.py"  # where an ordinary user may read it
    example.write_text(source.read_text())
    assert output(example, bundle, root, user=USER, group=USER, extra_groups=[]) == promised(source)
    assert state_with([root]) == []
