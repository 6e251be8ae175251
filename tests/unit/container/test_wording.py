# SPDX-License-Identifier: Apache-2.0
"""From a Failure and a plan to words: the field, what was being done, why not, which step; and the texts that engines search for."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest

from wherry.codes import CODES
from wherry.container.options import CreateOptions
from wherry.container.wording import Setting, explain, told
from wherry.errors import HookError, HostError, LaunchError, WherryError
from wherry.kernel.hostfacts import HostFacts
from wherry.kernel.native import NO_STEP, Failure, constants
from wherry.oci.default import spec
from wherry.plan.compile import compile
from wherry.plan.describe import Plan
from wherry.plan.options import Options

FACTS = sorted((Path(__file__).parents[1] / "plan/facts").glob("*.json"))


def make_plan(**changes: Any) -> bytes:
    config: Any = spec()
    config["process"]["terminal"] = False
    for pointer, value in changes.items():
        config[pointer] = value
    return compile(config, HostFacts.from_json(json.loads(FACTS[0].read_text())), Options(build_id=b"x" * 16))


PLAN = make_plan()
SETTING = Setting("create", "/run/wherry", "web", "/srv/web")


def index_of(plan: bytes, name: str, **fields: Any) -> int:
    for index, step in enumerate(Plan(plan).steps):
        if step.name == name and all(step.fields[key] == value for key, value in fields.items()):
            return index
    raise AssertionError(f"no step {name} {fields}")


def at(name: str, error: int, call: str = "NONE", value: int = 0, plan: bytes = PLAN, undo: int = 0, **fields: Any) -> WherryError:
    return explain(Failure(error, index_of(plan, name, **fields), call, value, undo), plan, SETTING)


def test_a_mount() -> None:
    error = at("MOUNT_FS", errno.EPERM, "FSMOUNT", destination="/dev/shm")
    step, steps = index_of(PLAN, "MOUNT_FS", destination="/dev/shm") + 1, len(Plan(PLAN).steps)
    assert str(error) == f"/mounts/3: mount tmpfs on /dev/shm: operation not permitted (fsmount, step {step} of {steps})"
    assert (error.code, error.pointer, error.exit_code) == ("WHERRY-LAUNCH-STEP", "/mounts/3", 1)
    known = {"call": "FSMOUNT", "errno": errno.EPERM, "verb": "create", "step": step, "steps": steps}
    assert error.facts == {**known, "mounted": "shm", "destination": "/dev/shm"}


def test_the_root_filesystem_is_named_as_the_user_wrote_it() -> None:
    text = str(at("OPEN_TREE", errno.ENOENT, "OPEN_TREE"))
    assert text.startswith("/root/path: open /srv/web/rootfs: no such file or directory (open_tree, step ")


def test_a_cgroup_file_is_named_with_its_directory() -> None:
    plan = make_plan(linux={**spec()["linux"], "resources": {"pids": {"limit": 7}}, "cgroupsPath": "/some/where"})
    error = at("CGROUP_WRITE", errno.EINVAL, "WRITE", plan=plan, file="pids.max")
    assert re.match(r"/linux/resources/pids/limit: write 7 to /sys/fs/cgroup/\S*some/where/pids\.max: invalid argument", str(error))


@pytest.mark.parametrize(
    ("error", "texts"),
    [
        (constants.WHERRY_PROGRAM_NOT_FOUND, ['exec: "sh": executable file not found in $PATH: No such file or directory']),
        (errno.ENOENT, ['exec: "sh": stat sh: no such file or directory']),
        (errno.EACCES, ['exec: "sh": permission denied']),
        (errno.EISDIR, ['exec: "sh": is a directory', "permission denied"]),
        (errno.ENOTDIR, ['exec: "sh": not a directory']),
        (errno.ENOEXEC, ['exec: "sh": exec format error']),
    ],
)
@pytest.mark.parametrize("name", ["PROGRAM", "EXECUTE"])
def test_programs_in_the_words_that_engines_turn_into_126_and_127(name: str, error: int, texts: list[str]) -> None:
    worded = at(name, error, "EXECVE" if name == "EXECUTE" else "LOOKUP")
    assert isinstance(worded, LaunchError)
    assert worded.pointer == "/process/args/0"
    if (name, error) == ("EXECUTE", errno.ENOENT):  # what was found when it was looked up names an interpreter that is missing
        texts = ["exec sh: no such file or directory"]
    for text in texts:
        assert text in str(worded)


@pytest.mark.parametrize(
    ("error", "value", "code", "text"),
    [
        (constants.WHERRY_HOOK_FAILED, 3 << 8, "WHERRY-HOOK-FAILED", "exit status 3"),
        (constants.WHERRY_HOOK_FAILED, 9, "WHERRY-HOOK-FAILED", "killed by signal 9: killed"),
        (constants.WHERRY_HOOK_TIMEOUT, 0, "WHERRY-HOOK-TIMEOUT", "it did not end within 5 s"),
        (errno.ENOENT, 0, "WHERRY-HOOK-FAILED", "no such file or directory"),
    ],
)
def test_hooks(error: int, value: int, code: str, text: str) -> None:
    plan = make_plan(hooks={"createRuntime": [{"path": "/bin/one"}, {"path": "/bin/two", "timeout": 5}]})
    worded = at("HOOK", error, "HOOK", value, plan, path="/bin/two")
    assert isinstance(worded, HookError)
    assert worded.code == code
    assert str(worded).startswith(f"/hooks/createRuntime/1: error running createRuntime hook #1: /bin/two: {text} (step ")


def refusals() -> list[str]:
    first = constants.WHERRY_REFUSED_FIRST
    names = [name for name in dir(constants) if name.startswith("WHERRY_") and isinstance(getattr(constants, name), int)]
    of_no_step = {"WHERRY_PLAN_UNIT", "WHERRY_REFUSED_FIRST", "WHERRY_EXISTS", "WHERRY_NOT_CREATED", "WHERRY_OTHER_BUILD"}
    return [name for name in names if first <= getattr(constants, name) < first + 100 and name not in of_no_step]


@pytest.mark.parametrize("name", refusals())
def test_every_refusal_has_words_and_a_code(name: str) -> None:
    number = getattr(constants, name)
    step = {"WHERRY_PROGRAM_NOT_FOUND": "PROGRAM", "WHERRY_HOOK_FAILED": "HOOK", "WHERRY_HOOK_TIMEOUT": "HOOK"}.get(name, "CLONE")
    plan = make_plan(hooks={"prestart": [{"path": "/bin/one"}]})
    error = at(step, number, plan=plan)
    assert error.code in CODES
    assert error.code != "WHERRY-LAUNCH-STEP"
    assert "refused" not in str(error)


def test_the_death_of_init_says_how() -> None:
    assert "the container's first process died: killed by signal 9" in str(at("MASKED_PATH", constants.WHERRY_INIT_DIED, value=9))


def test_a_controller_that_is_missing_above() -> None:
    plan = make_plan(linux={**spec()["linux"], "cgroupsPath": "/one/two"})
    step = index_of(plan, "CGROUP_DIRECTORY")
    path = Plan(plan).steps[step].fields["path"]
    error = explain(Failure(constants.WHERRY_CGROUP_CONTROLLER_MISSING, step, "NONE", path.index("/two")), plan, SETTING)
    assert isinstance(error, HostError)
    assert f"{path.removesuffix('/two')} does not offer the controller" in str(error)


def test_what_the_command_line_named() -> None:
    options = CreateOptions("/run/w", "web", "/srv/web")
    options.pid_file, options.console_socket, options.pidfd_socket = "/p", "/c", "/f"
    for call, text in (("PID_FILE", "--pid-file /p"), ("CONSOLE_SOCKET", "--console-socket /c"), ("PIDFD_SOCKET", "--pidfd-socket /f")):
        error = explain(Failure(errno.ENOENT, index_of(PLAN, "PUBLISH"), call), PLAN, Setting.of(options))
        assert str(error).startswith(f"{text}: no such file or directory")
    error = explain(Failure(errno.ENOTDIR, 0, "OPEN"), PLAN, Setting.of(options))
    assert str(error).startswith("--root /run/w: not a directory")


def test_a_failure_of_no_step() -> None:
    assert str(explain(Failure(errno.EMFILE, NO_STEP, "SOCKETPAIR"), PLAN, SETTING)) == "socketpair: too many open files"


def test_a_cleanup_that_failed_too_is_kept() -> None:
    error = at("CLONE", errno.ENOMEM, "CLONE", undo=errno.EBUSY)
    assert "; and while cleaning up: device or resource busy: what is left is removed by wherry gc" in error.sentence()


def test_every_step_can_be_worded() -> None:
    for index in range(len(Plan(PLAN).steps)):
        text = str(explain(Failure(errno.EPERM, index), PLAN, SETTING))
        assert "operation not permitted (step " in text
        assert "\n" not in text
        assert "<" not in text


@pytest.mark.parametrize("text", ["", "x", "1:2:3", "1:0:3:4", f"0:{constants.WHERRY_EXISTS}:0:0", "1:2:3:4:5"])
def test_what_the_front_tells_is_checked(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import posix

    monkeypatch.setitem(posix.environ, b"WHERRY_FAILURE", text.encode())  # type: ignore[attr-defined]
    assert told() is None


def test_what_the_front_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    import posix

    monkeypatch.setitem(posix.environ, b"WHERRY_FAILURE", b"11:1:%d:7" % constants.WHERRY_CALL_MOVE_MOUNT)  # type: ignore[attr-defined]
    failure = told()
    assert failure is not None
    assert (failure.step, failure.error, failure.call, failure.value) == (11, 1, "MOVE_MOUNT", 7)
    assert told() is None, "it is told once"


@pytest.mark.parametrize(
    ("step", "error", "remedy"),
    [("KEYRING", errno.EDQUOT, "--no-new-keyring"), ("CLONE", errno.EBUSY, "subtree_control"), ("CLONE", errno.EOPNOTSUPP, "threaded")],
)
def test_what_a_person_can_do(step: str, error: int, remedy: str) -> None:
    assert remedy in str(at(step, error).remedy)
