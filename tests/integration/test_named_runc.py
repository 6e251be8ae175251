# SPDX-License-Identifier: Apache-2.0
"""Linked to the name runc: the words that scripts and engines know of runc, and nothing else that is different."""

import re
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]


@pytest.fixture
def runc(runtime: Runtime, place: Path) -> Runtime:
    link = place / "runc"
    link.symlink_to(runtime.command)
    runtime.command = str(link)
    return runtime


def test_version(runc: Runtime) -> None:
    """What engines pick apart: NAME version X, commit: C, spec: S."""
    lines = runc("--version").out.splitlines()
    assert re.fullmatch(r"runc version \d+\.\d+\.\d+\+wherry\.\S+", lines[0])
    assert [line.split(" ")[0] for line in lines[1:4]] == ["commit:", "spec:", "wherry:"]


def test_help(runc: Runtime) -> None:
    assert runc("--help").out.startswith("NAME:\n   runc - Open Container Initiative runtime")
    assert runc("create", "-h").out.startswith("NAME:\n   runc create - ")
    assert "No help topic for 'foo'" in runc("foo", "-h", check=False).err


def test_a_script_whose_interpreter_is_missing(runc: Runtime, bundle: Bundle) -> None:
    """What runc's init says is all that is said."""
    script = bundle.rootfs / "run.sh"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = runc.run(bundle.args("/run.sh"), check=False)
    assert (done.code, done.err) == (1, "exec /run.sh: no such file or directory\n")


def test_a_mount_that_fails(runc: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt", "nothing", "nosuchfs")
    done = runc.run(bundle.args("true"), check=False)
    start = 'runc run failed: unable to start container process: error during container init: error mounting "nothing" to rootfs at "/mnt": '
    assert done.code == 1 and done.err.startswith(start) and done.err.count("\n") == 1


def test_an_unknown_container(runc: Runtime) -> None:
    assert runc("state", "nobody", check=False).err == 'container does not exist: "nobody"\n'
