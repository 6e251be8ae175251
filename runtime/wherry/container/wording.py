# SPDX-License-Identifier: Apache-2.0
"""Words for what C reports: a Failure (step, error, call, value) and the plan it happened in become an error that names the field
of config.json. Loaded once something failed; what engines search for in these texts is listed in docs/errors.md.

    /mounts/3: mount tmpfs on /run: operation not permitted (fsmount, step 12 of 31)
"""

import posix
from errno import EACCES, EISDIR, ENOENT

from wherry.codes import CODES
from wherry.container.hooks import config_copy, end, hooks_of, os_text, wait_status
from wherry.errors import DeadlineError, HookError, HostError, InternalError, LaunchError, WherryError
from wherry.kernel.native import Container, Failure, call_name, constants
from wherry.oci.config import load
from wherry.plan.describe import Step, steps

# refusal -> (code, words). {value} is the failure's value.
_REFUSALS = {
    "BAD_PLAN": ("WHERRY-LAUNCH-BAD-PLAN", "the plan is damaged at offset {value}"),
    "WRONG_VERSION": ("WHERRY-HOST-BUILD", "the plan was made by another build of wherry"),
    "CGROUP_POPULATED": ("WHERRY-LAUNCH-CGROUP-POPULATED", "container's cgroup is not empty: it holds processes already"),
    "CGROUP_FROZEN": ("WHERRY-LAUNCH-CGROUP-FROZEN", "container's cgroup unexpectedly frozen"),
    "CGROUP_INTERNAL_PROCESSES": ("WHERRY-HOST-CGROUP", "a cgroup above holds processes itself, so it cannot enable controllers"),
    "CGROUP_CONTROLLER_MISSING": ("WHERRY-HOST-CGROUP", "a cgroup above does not offer the controller"),
    "WRONG_NAMESPACE_TYPE": ("WHERRY-LAUNCH-WRONG-NAMESPACE-TYPE", "the file is not a namespace of this type"),
    "NOT_IN_ROOTFS": ("WHERRY-LAUNCH-NOT-IN-ROOTFS", "the path cannot be reached inside of the root filesystem"),
    "NOT_PROCFS": ("WHERRY-LAUNCH-NOT-PROCFS", "/proc is not the kernel's process filesystem"),
    "SYMLINK_REFUSED": ("WHERRY-LAUNCH-SYMLINK-REFUSED", "it is a symbolic link, which must be a directory"),
    "OTHER_NODE": ("WHERRY-LAUNCH-OTHER-NODE", "another file exists there"),
    "CWD_OUTSIDE": ("WHERRY-LAUNCH-CWD-OUTSIDE", "current working directory is outside of container mount namespace root"),
    "INIT_DIED": ("WHERRY-LAUNCH-INIT-DIED", "the container's first process died: {status}"),
    "LAUNCHER_DIED": ("WHERRY-LAUNCH-LAUNCHER-DIED", "the launcher died: {status}"),
    "DEADLINE": ("WHERRY-DEADLINE", "it took longer than it may"),
    "LOCKED_FLAG": ("WHERRY-LAUNCH-LOCKED-FLAG", "a flag that the host's mount has locked cannot be cleared"),
    "UNSUPPORTED": ("WHERRY-LAUNCH-UNSUPPORTED", "the kernel lacks {call}"),
    "CAPABILITY_MISSING": ("WHERRY-LAUNCH-CAPABILITY-MISSING", "the capability cannot be kept"),
    "UNSAFE_DIRECTORY": ("WHERRY-HOST-PERMISSION", "--root belongs to another user, or others may write to it"),
}
_BY_NUMBER = {getattr(constants, f"WHERRY_{name}"): row for name, row in _REFUSALS.items()}
_PROGRAM_STEPS = ("OP_PROGRAM", "OP_EXECUTE")


def explain(failure: Failure, plan: bytes, verb: str) -> WherryError:
    """The error for a failure of create or run."""
    all = steps(plan)
    step = all[failure.step] if failure.step < len(all) else None
    error = _program_error(failure, step) or _hook_error(failure, step) or _step_error(failure, step)
    error.facts["verb"] = verb
    if step is not None:
        error.facts.update(step=failure.step + 1, steps=len(all))
        error.message += f" ({_call(failure)}step {failure.step + 1} of {len(all)})"
    if failure.undo:
        error.also.append(HostError(f"{posix.strerror(failure.undo).lower()}: what is left is removed by wherry gc", errno=failure.undo))
    return error


def _call(failure: Failure) -> str:
    return "" if failure.call == "NONE" else f"{failure.call.lower()}, "


def _step_error(failure: Failure, step: "Step | None") -> WherryError:
    code, words = _BY_NUMBER.get(failure.error, ("WHERRY-LAUNCH-STEP", os_text(failure)))
    for slot, fill in (("{value}", str(failure.value)), ("{call}", failure.call.lower()), ("{status}", wait_status(failure.value))):
        words = words.replace(slot, fill)
    if step is not None and step.text:
        words = f"{step.text}: {words}"
    elif failure.call != "NONE" and code == "WHERRY-LAUNCH-STEP":
        words = f"{failure.call.lower()}: {words}"
    return _error(code, words, step, failure)


def _error(code: str, words: str, step: "Step | None", failure: Failure) -> WherryError:
    kind: "type[WherryError]" = LaunchError
    for prefix, other in (("WHERRY-HOST", HostError), ("WHERRY-DEADLINE", DeadlineError), ("WHERRY-INTERNAL", InternalError)):
        if code.startswith(prefix):
            kind = other
    remedy = CODES[code].remedy if code in CODES and code != "WHERRY-LAUNCH-STEP" else None
    place = (step.place or None) if step is not None else None
    return kind(words, code=code, pointer=place, remedy=remedy, call=failure.call, errno=failure.error)


def _program_error(failure: Failure, step: "Step | None") -> "WherryError | None":
    """What engines turn into 126 and 127: the program cannot be found, or must not be executed."""
    if step is None or step.name not in _PROGRAM_STEPS:
        return None
    if failure.error not in (constants.WHERRY_PROGRAM_NOT_FOUND,) and failure.error >= constants.WHERRY_REFUSED_FIRST:
        return None
    return program_error(failure, step.detail("program"), step.place)


def program_error(failure: Failure, program: str, place: str) -> WherryError:
    code, remedy = "WHERRY-LAUNCH-STEP", None
    if failure.error in (constants.WHERRY_PROGRAM_NOT_FOUND, ENOENT):
        code = "WHERRY-LAUNCH-PROGRAM-NOT-FOUND"
        remedy = CODES[code].remedy
    if failure.error == constants.WHERRY_PROGRAM_NOT_FOUND:
        text = "executable file not found in $PATH: No such file or directory"
    elif failure.error == ENOENT:
        text = f"stat {program}: no such file or directory"
    elif failure.error == EISDIR:
        text = "is a directory: permission denied"
    else:
        text = os_text(failure)
        remedy = "it must be a file that may be executed" if failure.error == EACCES else None
    message = f'exec: "{program}": {text}'
    return LaunchError(message, code=code, pointer=place or None, remedy=remedy, call=failure.call, errno=failure.error)


def _hook_error(failure: Failure, step: "Step | None") -> "WherryError | None":
    if step is None or step.name != "OP_HOOK":
        return None
    _, _, kind, index = step.place.split("/")
    return hook_error(failure, kind, int(index), step.detail("path"))


def hook_error(failure: Failure, kind: str, index: int, path: str) -> HookError:
    code = "WHERRY-HOOK-FAILED"
    if failure.error == constants.WHERRY_HOOK_TIMEOUT:
        code, text = "WHERRY-HOOK-TIMEOUT", "it did not end within its timeout"
    elif failure.error == constants.WHERRY_HOOK_FAILED:
        text = wait_status(failure.value)
    else:
        text = os_text(failure)
    message = f"error running {kind} hook #{index}: {path}: {text}"
    return HookError(message, code=code, pointer=f"/hooks/{kind}/{index}", hook=kind, path=path, status=failure.value)


def told() -> "Failure | None":
    """The failure that the front had, and left to be worded: everything has been undone (create, run) or is as it was left (start)."""
    text = posix.environ.pop(b"WHERRY_FAILURE", b"").decode("ascii", "replace")
    numbers = [int(part) for part in text.split(":") if part.isdecimal()]
    if len(numbers) != 4 or not numbers[1] or numbers[1] == constants.WHERRY_EXISTS:
        return None  # not said what, or the id is taken, which may be a crashed create: done again here
    step, error, call, value = numbers
    return Failure(error, step, call_name(call), value)


def raise_told(plan: bytes, verb: str) -> None:
    failure = told()
    if failure is not None:
        raise explain(failure, plan, verb)


def raise_told_start(container: Container) -> None:
    failure = told()
    if failure is not None:
        raise start_failed(container, failure)


def start_failed(container: Container, failure: Failure) -> WherryError:
    """The error of a start whose program could not be executed. Init is gone by now, and the container has stopped; where a
    startContainer hook failed it is removed, as the specification has it."""
    plan = _kept_plan(container)
    if plan is not None:
        error = explain(failure, plan, "start")
    elif failure.call == "HOOK" or failure.error in (constants.WHERRY_HOOK_FAILED, constants.WHERRY_HOOK_TIMEOUT):
        hooks = hooks_of(container, "startContainer")
        error = hook_error(failure, "startContainer", 0, hooks[0]["path"] if hooks else "")
    elif failure.call == "EXECVE":
        arguments = load(config_copy(container))["process"]["args"]
        error = program_error(failure, arguments[0], "/process/args/0")
    else:
        error = _step_error(failure, None)
    if isinstance(error, HookError):
        end(container, error)
    return error


def _kept_plan(container: Container) -> "bytes | None":
    """The plan that the container was made from, as the state directory keeps it."""
    try:
        descriptor = posix.open("plan", posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW, dir_fd=container.directory)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        return file.read()


