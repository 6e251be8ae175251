# SPDX-License-Identifier: Apache-2.0
"""Leaves the plan of an exec in the container's directory: the front answers the next one like it (csrc/program/exec.c)."""

from wherry.container.create import keep, listen_environment
from wherry.container.execute import ExecOptions, compile_plan, process_of, target_of
from wherry.kernel import native
from wherry.kernel.native import Container
from wherry.oci.config import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def remember(container: Container, config: "dict[str, Any]", options: ExecOptions, plan: bytes) -> None:
    """Where the front could have asked for it. Whatever is in the way costs time alone."""
    text = asked(options)
    if text is None or "listenerPath" in ((config.get("linux") or {}).get("seccomp") or {}):
        return

    def pattern() -> bytes | None:
        if native.BLANK in text:
            return None
        marked = with_marks(options, cached.marked())
        return compile_plan(config, process_of(config, marked), target_of(container, marked), marked)

    try:
        cached = native.Pattern(text, container=container, file=options.process is not None)
        keep(f"/proc/self/fd/{container.directory}", cached, plan, pattern)  # by its name it would come again where a delete was faster
    except OSError:
        return


def asked(options: ExecOptions) -> bytes | None:
    """What names the plan: the process.json, or the command line, written as csrc/program/exec.c does. None: not the front's."""
    others = (options.capabilities, options.groups, options.no_new_privileges, options.label, options.apparmor, options.cgroups)
    if any(others) or options.preserve_fds or options.ignore_paused or options.rootless is not None or listen_environment():
        return None
    if options.process is not None:
        return None if options.args or options.cwd or options.env or options.uid is not None else named(options)
    if options.terminal or options.adopts:
        return None
    user = "" if options.uid is None else f"{options.uid}" if options.gid is None else f"{options.uid}:{options.gid}"
    words = [options.cwd or "", user, *options.env, *options.args]
    if not all(word.isascii() and word.isprintable() and '"' not in word and "\\" not in word for word in words):
        return None
    env, args = (",".join(f'"{word}"' for word in part) for part in (options.env, options.args))
    return f'{{"cwd":"{words[0]}","user":"{user}","process":{{"env":[{env}],"args":[{args}]}}}}'.encode()


def named(options: ExecOptions) -> bytes:
    """A process.json. One that adopts has another plan, which the front does not ask for; JSON may end in blanks."""
    return (options.process or b"") + (b" \t \t " if options.adopts else b"")


def with_marks(options: ExecOptions, marked: bytes) -> ExecOptions:
    result = ExecOptions(options.root, options.id)
    result.__dict__.update(options.__dict__)
    if options.process is not None:
        result.process = marked
    else:
        process: Any = load(marked)["process"]
        result.args, result.env = process["args"], process["env"]
    return result
