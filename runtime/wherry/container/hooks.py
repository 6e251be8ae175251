# SPDX-License-Identifier: Apache-2.0
"""Hooks that no plan executes: poststart (as start ends) and poststop (after delete has removed everything).

They come from the copy of config.json in the state directory: what the bundle says today does not matter. A poststart hook that
fails ends the container and makes start fail (specification 1.3); one that runs poststop hooks goes on after each failure.
"""

import posix
from _signal import strsignal  # type: ignore[import-not-found]

from wherry.errors import HookError, WherryError
from wherry.kernel import native
from wherry.kernel.native import Container, Failure, constants
from wherry.oci.config import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.container.create import Prepared
    from wherry.container.options import CreateOptions
    from wherry.oci.model import Hook


def config_copy(container: Container) -> bytes:
    """config.json as it was when the container was created."""
    return container.kept("config.json")


def hooks_of(container: Container, kind: str) -> "list[Hook]":
    hooks: "dict[str, list[Hook]]" = load(config_copy(container)).get("hooks") or {}  # type: ignore[assignment]
    return hooks.get(kind) or []


def run_hook(hook: "Hook", kind: str, index: int, state: bytes) -> None:
    """Runs one hook with the state document on its stdin; HookError where it fails."""
    path, timeout = hook["path"], hook.get("timeout") or 0
    try:
        native.run_hook(path, hook.get("args") or [path], hook.get("env") or [], state, timeout)
    except Failure as failure:
        raise hook_error(failure, kind, index, path, timeout) from failure


def hook_error(failure: Failure, kind: str, index: int, path: str, timeout: int) -> HookError:
    code, text = "WHERRY-HOOK-FAILED", os_text(failure)
    if failure.error == constants.WHERRY_HOOK_TIMEOUT:
        code, text = "WHERRY-HOOK-TIMEOUT", f"it did not end within {timeout} s"
    elif failure.error == constants.WHERRY_HOOK_FAILED:
        text = wait_status(failure.value)
    message = f"error running {kind} hook #{index}: {path}: {text}"
    return HookError(message, code=code, pointer=f"/hooks/{kind}/{index}", hook=kind, path=path, status=failure.value)


def os_text(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def wait_status(status: int) -> str:
    """`exit status 3`, `killed by signal 9`."""
    if posix.WIFSIGNALED(status):
        return f"killed by signal {posix.WTERMSIG(status)}: {(strsignal(posix.WTERMSIG(status)) or '').lower()}"
    return f"exit status {posix.WEXITSTATUS(status)}"


def poststart(container: Container, id: str) -> None:
    # "running", also where the program has come to its end by now
    state = b"".join((container.head, b"%d" % container.pid, container.middle, b"running", container.tail))
    for index, hook in enumerate(hooks_of(container, "poststart")):
        try:
            run_hook(hook, "poststart", index, state)
        except HookError as error:
            end(container, error)
            raise error


def end(container: Container, error: WherryError) -> None:
    """Stops and removes a container that cannot go on; what fails on the way is kept beside the error."""
    from wherry.container.lifecycle import destroy

    finish = None
    try:
        if container.flags & constants.WHERRY_PLAN_POSTSTOP:
            finish = prepare_poststop(container)
        destroy(container, kill_first=True)
    except (OSError, WherryError) as other:
        error.also.append(other if isinstance(other, WherryError) else HookError(os_text(other)))
    if finish is not None:
        error.also += finish()


def prepare_poststop(container: Container) -> "Callable[[], list[HookError]]":
    """Reads all that the hooks need while it is still there. Call the result once the container is removed."""
    hooks = hooks_of(container, "poststop")
    state = container.head + b"0" + container.middle + b"stopped" + container.tail
    return lambda: _poststop(hooks, state)


def _poststop(hooks: "list[Hook]", state: bytes) -> "list[HookError]":
    """All of them are run; returns what failed."""
    errors = []
    for index, hook in enumerate(hooks):
        try:
            run_hook(hook, "poststop", index, state)
        except HookError as error:
            errors.append(error)
    return errors


def poststop_after_failed_create(failure: Failure, prepared: "Prepared", options: "CreateOptions") -> "list[HookError]":
    """What the hooks of create have made, those of poststop remove: where one had its turn, these have theirs."""
    from json import dumps

    from wherry.oci.state import document
    from wherry.plan.describe import Plan

    hook_steps = [index for index, step in enumerate(Plan(prepared.plan).steps) if step.name == "HOOK"]
    if not hook_steps or failure.step < hook_steps[0]:
        return []
    config = load(prepared.config)
    hooks: "list[Hook]" = config["hooks"]["poststop"]
    return _poststop(hooks, dumps(document(config, options.id, "stopped", 0, options.bundle)).encode())
