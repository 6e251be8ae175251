# SPDX-License-Identifier: Apache-2.0
"""With the front and without: the same bytes on stdout, the same texts on stderr, the same exit codes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Result, Runtime

pytestmark = [pytest.mark.requires("containers"), pytest.mark.ours, pytest.mark.one_way]


@pytest.fixture
def both(command: str, runtime: Runtime) -> tuple[Runtime, Runtime]:
    """One state root, two ways to it."""
    other = Runtime(command, runtime.root, runtime.tag, front=False)
    with_front = Runtime(command, runtime.root, runtime.tag, front=True)
    runtime.containers = with_front.containers = other.containers = []
    return with_front, other


def same(one: Result, other: Result) -> None:
    assert (one.code, plain(one.out), plain(one.err)) == (other.code, plain(other.out), plain(other.err))


def plain(text: str) -> str:
    """Without what differs between two containers or two moments."""
    text = re.sub(r"-[0-9]+\b(?=\W|$)", "-N", text)
    return re.sub(r'("pid": )\d+|("created": ")[^"]*', r"\1\2", text)


def life(runtime: Runtime, bundle: Bundle) -> list[Result]:
    """Every verb in every state, and what it said."""
    container = runtime.create(bundle, check=False)
    said = [container.result]

    def all_verbs() -> None:
        said.append(runtime("state", container.id, check=False))
        said.append(runtime("create", "--bundle", bundle.path, container.id, check=False))
        said.append(runtime("kill", container.id, "NOSUCH", check=False))
        said.append(runtime("kill", container.id, "CONT", check=False))

    all_verbs()
    said.append(container.start(check=False))
    all_verbs()
    said.append(container.start(check=False))
    said.append(container.delete(check=False))
    said.append(container.kill("KILL", check=False))
    if said[-1].code == 0:
        container.known_pid = container.known_pid or 0
        while runtime("state", container.id).json()["status"] != "stopped":
            pass
    all_verbs()
    said.append(container.start(check=False))
    said.append(container.delete(check=False))
    said.append(container.delete(check=False))
    said.append(runtime("delete", "--force", container.id, check=False))
    said.append(runtime("state", container.id, check=False))
    said.append(runtime("start", container.id, check=False))
    said.append(runtime("kill", container.id, check=False))
    return said


CONFIGS: dict[str, Callable[[Bundle], object]] = {
    "plain": lambda bundle: bundle,
    "annotations": lambda bundle: bundle.config.update(annotations={"é": '"\n\\'}),
    "userns": lambda bundle: bundle.user_namespace(),
    "poststop": lambda bundle: bundle.config.update(hooks={"poststop": [{"path": "/bin/true"}]}),
    "poststart": lambda bundle: bundle.config.update(hooks={"poststart": [{"path": "/bin/true"}]}),
    "host pid": lambda bundle: bundle.without_namespace("pid"),
    "terminal": lambda bundle: bundle.process.update(terminal=True),
    "bad mount": lambda bundle: bundle.mount("/x", "/no/such/source", "bind", ["bind"]),
    "no program": lambda bundle: bundle.args("no-such-program"),
    "bad hook": lambda bundle: bundle.config.update(hooks={"createRuntime": [{"path": "/bin/false"}]}),
    "no namespaces": lambda bundle: bundle.linux.update(namespaces=[{"type": "mount"}]) or bundle.config.pop("hostname"),
    "wrong value": lambda bundle: bundle.process.update(cwd=5),
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.requires("root")) if kind == "userns" else kind for kind in CONFIGS])
def test_a_whole_life(both: tuple[Runtime, Runtime], bundle: Bundle, kind: str) -> None:
    CONFIGS[kind](bundle)
    lives = [life(runtime, bundle) for runtime in both for _ in range(2)]  # the second one comes from the plan cache
    for other in lives[1:]:
        for mine, theirs in zip(lives[0], other, strict=True):
            same(mine, theirs)


def test_mixed_life(both: tuple[Runtime, Runtime], make_bundle: Callable[[], Bundle]) -> None:
    """Each verb by the other way than the one before."""
    front, python = both
    for first, second in ((front, python), (python, front)):
        container = first.create(make_bundle())
        assert second("state", container.id).json()["status"] == "created"
        second("start", container.id)
        assert first("state", container.id).json()["status"] == "running"
        first("kill", container.id, "KILL")
        while second("state", container.id).json()["status"] != "stopped":
            pass
        second("delete", container.id)
        assert first("state", container.id, check=False).code == 1


def test_log_files_are_the_same(both: tuple[Runtime, Runtime], bundle: Bundle, place: Path) -> None:
    bundle.config["root"]["path"] = "nowhere"
    logs = []
    for number, runtime in enumerate(both):
        runtime.options = ["--log", str(place / f"log{number}"), "--log-format", "json"]
        runtime.create(bundle, check=False)
        runtime("state", "nobody", check=False)
        logs.append(re.sub(r'"time":\s*"[^"]*"', "", plain((place / f"log{number}").read_text())))
    assert logs[0] == logs[1]


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["state"], ["state", "--help"], ["features"], ["list"], ["nosuch"], ["kill", "nobody", "9", "x"]])
def test_command_line(both: tuple[Runtime, Runtime], arguments: list[str]) -> None:
    same(*[runtime(*arguments, check=False) for runtime in both])
