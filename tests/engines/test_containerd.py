# SPDX-License-Identifier: Apache-2.0
"""containerd with its own shim for runc, whose binary is wherry."""

import time
import uuid
from pathlib import Path

import pytest

from .conftest import Engine

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]


def run(ctr: Engine, rootfs: Path, *words: str) -> tuple[int, str, str]:
    # ctr closes its ends of the fifos with the exit event: a program that ends at once may lose its output, under every runtime
    done = ctr.run(str(rootfs), f"c{uuid.uuid4().hex[:8]}", *words)
    return done.returncode, done.stdout, done.stderr


def test_output_and_exit_code(ctr: Engine, rootfs: Path) -> None:
    code, out, err = run(ctr, rootfs, "sh", "-c", "echo hello; sleep 0.3; exit 7")
    assert (code, out) == (7, "hello\n"), err


def test_a_program_that_is_not_there(ctr: Engine, rootfs: Path) -> None:
    code, _, err = run(ctr, rootfs, "nosuchprogram")
    assert code != 0
    assert "executable file not found in $PATH" in err


def test_a_task_in_the_background(ctr: Engine, rootfs: Path) -> None:
    name = f"c{uuid.uuid4().hex[:8]}"
    ctr("run", "--detach", *ctr.options, str(rootfs), name, "sleep", "100")
    try:
        assert "RUNNING" in ctr("task", "ls").stdout
        done = ctr("task", "exec", "--exec-id", "e1", name, "sh", "-c", "echo inside; sleep 0.3; exit 3", check=False)
        assert (done.returncode, done.stdout) == (3, "inside\n"), done.stderr
        ctr("task", "pause", name)
        assert "PAUSED" in ctr("task", "ls").stdout
        ctr("task", "resume", name)
        ctr("task", "kill", "--signal", "KILL", name)
        for _ in range(100):
            if "STOPPED" in ctr("task", "ls").stdout:
                break
            time.sleep(0.05)
    finally:
        ctr("task", "rm", "--force", name, check=False)
        ctr("container", "rm", name, check=False)
