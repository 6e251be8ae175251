# SPDX-License-Identifier: Apache-2.0
"""What each hot verb loads. An interpreter starts in 8 ms; each of re, json, typing, argparse would cost as much again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wherry.oci import default

RUNTIME = Path(__file__).parents[2] / "runtime"
FREE = {
    "_json",
    "_struct",
    "_signal",
    "errno",
    "posix",
    "sys",
    "time",
    "_cffi_backend",
    "wherry._native",
    "wherry._native.lib",
    "_sha256",
    "_sha2",
}
"""Built into the interpreter, or the extension."""

COMMAND_LINE = {
    "wherry",
    "wherry.boot",
    "wherry.cli",
    "wherry.cli.arguments",
    "wherry.errors",
    "wherry.container",
    "wherry.container.lifecycle",
}
COMMAND_LINE |= {"wherry.kernel", "wherry.kernel.native"}
LAUNCH = COMMAND_LINE | {"wherry.cli.create", "wherry.container.create", "wherry.container.options"}
LOADED = {
    "create": LAUNCH,
    "run": LAUNCH | {"wherry.cli.run", "wherry.container.run"},
    "start": COMMAND_LINE | {"wherry.cli.start"},
    "state": COMMAND_LINE | {"wherry.cli.state"},
    "kill": COMMAND_LINE | {"wherry.cli.kill"},
    "delete": COMMAND_LINE | {"wherry.cli.delete"},
}

SCRIPT = """
import sys
before = set(sys.modules)
sys.path[:0] = {path!r}
import wherry.boot, wherry.cli
{body}
loaded = sorted(set(sys.modules) - before)
import json
print(json.dumps(loaded))
"""


def loaded(body: str) -> set[str]:
    script = SCRIPT.format(path=[place for place in sys.path if place], body=body)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=30, cwd="/")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout)) - FREE


@pytest.mark.parametrize("verb", sorted(LOADED))
def test_modules_of_a_verb(verb: str) -> None:
    assert loaded(f"import wherry.cli.{verb}") == LOADED[verb]


COMPILE = {
    "wherry.kernel.hostfacts",
    "wherry.oci",
    "wherry.oci.checks",
    "wherry.oci.config",
    "wherry.oci.shape",
    "wherry.cgroup",
    "wherry.cgroup.devices",
}
COMPILE |= {f"wherry.plan{name}" for name in ("", ".compile", ".encode", ".isolation", ".mounts", ".options", ".process")}
EXEC = {"wherry.cli.exec", "wherry.container.execute", "wherry.container.hooks", "wherry.container.run", "wherry.plan.execute"}


def test_modules_of_an_exec() -> None:
    assert loaded("import wherry.cli.exec") == LAUNCH | COMPILE - {"wherry.cgroup", "wherry.cgroup.devices"} | EXEC


@pytest.mark.requires("root")  # without root the same configuration is refused: it has no user namespace
def test_modules_of_a_create_that_is_not_in_the_plan_cache() -> None:
    """An ordinary configuration: namespaces, mounts, device rules, masked paths."""
    body = """
from wherry.container.create import compile_plan
from wherry.container.options import CreateOptions
import wherry.cli.create
config = rb'''CONFIG'''
compile_plan(CreateOptions("/run/wherry", "x", "/"), config, [])
"""
    assert loaded(body.replace("CONFIG", json.dumps(default.spec()))) == LAUNCH | COMPILE
