# SPDX-License-Identifier: Apache-2.0
"""conmon by itself, called as Podman and CRI-O call it: create, exec, a terminal, and failures, whose text reaches the engine."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.runtime import wait_until

from .conftest import need

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]


class Conmon:
    """One container, in a directory of its own."""

    def __init__(self, wherry: str, place: Path, bundle: Bundle) -> None:
        self.wherry, self.place, self.bundle = wherry, place, bundle
        self.id = f"conmon-{uuid.uuid4().hex[:8]}"
        (place / "exits").mkdir()

    def runtime(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run([self.wherry, "--root", f"{self.place}/root", *words], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done

    def __call__(self, *words: str, log: str = "log") -> dict[str, Any]:
        """What it tells the engine over the pipe: a pid, or -1 and why."""
        read, write = os.pipe()
        argv = ["conmon", "--api-version", "1", "-c", self.id, "-u", uuid.uuid4().hex, "-r", self.wherry, "--runtime-arg", "--root", "--runtime-arg",
                f"{self.place}/root", "-b", str(self.bundle.path), "-l", f"k8s-file:{self.place}/{log}", "--exit-dir", f"{self.place}/exits",
                "--socket-dir-path", str(self.place), "--log-level", "error", *words]  # fmt: skip
        with os.fdopen(read) as answer:
            subprocess.run(  # it goes on in the background
                argv, timeout=30, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[write],
                env={"_OCI_SYNCPIPE": str(write), "PATH": os.environ["PATH"]},
            )  # fmt: skip
            os.close(write)
            found: dict[str, Any] = json.loads(answer.readline())
        return found

    def create(self, *words: str) -> dict[str, Any]:
        self.bundle.save()
        return self("-p", f"{self.place}/pid", *words)

    def execute(self, process: dict[str, Any], *words: str) -> dict[str, Any]:
        (self.place / "process.json").write_text(json.dumps(process))
        return self("-e", "-p", f"{self.place}/exec-pid", "--exec-process-spec", f"{self.place}/process.json", *words, log="exec-log")

    def said(self, log: str = "log") -> list[str]:
        """Lines as k8s-file has them: time, stream, F or P, text."""
        try:
            return [line.split(" ", 3)[1] + ":" + line.split(" ", 3)[3] for line in (self.place / log).read_text().splitlines()]
        except FileNotFoundError:
            return []

    def exit_code(self) -> int:
        file = self.place / "exits" / self.id
        wait_until(lambda: file.exists() and file.read_text(), "the exit file")
        return int(file.read_text())


@pytest.fixture
def conmon(wherry: str, tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Iterator[Conmon]:
    need("conmon")
    place = tmp_path_factory.mktemp("c")
    one = Conmon(wherry, place, bundle)
    yield one
    one.runtime("delete", "--force", one.id, check=False)


def test_a_life(conmon: Conmon) -> None:
    conmon.bundle.args("sh", "-c", "echo out; echo err >&2; exit 7")
    pid = conmon.create()["data"]
    assert int((conmon.place / "pid").read_text()) == pid > 0
    assert json.loads(conmon.runtime("state", conmon.id).stdout)["status"] == "created"
    conmon.runtime("start", conmon.id)
    assert conmon.exit_code() == 7
    wait_until(lambda: sorted(conmon.said()) == ["stderr:err", "stdout:out"], "the log")
    conmon.runtime("delete", conmon.id)


def test_exec(conmon: Conmon) -> None:
    conmon.bundle.args("sleep", "1000")
    conmon.create()
    conmon.runtime("start", conmon.id)
    process = {"args": ["sh", "-c", "echo inside; exit 5"], "cwd": "/tmp", "env": ["PATH=/bin"], "user": {"uid": 7, "gid": 7}}
    assert conmon.execute(process)["data"] > 0
    assert conmon.exit_code() == 5
    wait_until(lambda: conmon.said("exec-log") == ["stdout:inside"], "the log of the exec")
    (conmon.place / "exits" / conmon.id).unlink()
    answer = conmon.execute({**process, "args": ["nosuchprogram"]})
    assert answer["data"] < 0 and "executable file not found in $PATH" in answer["message"]


def test_a_terminal(conmon: Conmon) -> None:
    conmon.bundle.args("sh", "-c", "tty; exit 3")
    conmon.bundle.process["terminal"] = True
    assert conmon.create("-t")["data"] > 0
    conmon.runtime("start", conmon.id)
    assert conmon.exit_code() == 3
    wait_until(lambda: conmon.said() == ["stdout:/dev/pts/0"], "the log")


def test_a_create_that_fails(conmon: Conmon) -> None:
    conmon.bundle.args("nosuchprogram")
    answer = conmon.create()
    assert answer["data"] == -1
    assert "executable file not found in $PATH" in answer["message"]
    assert conmon.runtime("state", conmon.id, check=False).returncode == 1


def test_a_kill(conmon: Conmon) -> None:
    conmon.bundle.args("sleep", "1000")
    conmon.create()
    conmon.runtime("start", conmon.id)
    conmon.runtime("kill", conmon.id, "KILL")
    assert conmon.exit_code() == 137
