# SPDX-License-Identifier: Apache-2.0
"""Leaves the plan of an exec to the next one like it, which the front answers (csrc/program/exec.c): for all containers of this one's kind, among
the plans of creates; or, where this one is not like others, in its directory."""

from wherry.container.create import ask_for, keep, listen_environment
from wherry.container.execute import _FILES, ExecOptions, cgroups_of, compile_plan, has_keyring, named, process_of, target_of
from wherry.container.hooks import config_copy
from wherry.errors import WherryError
from wherry.kernel import native
from wherry.kernel.kinds import NOT_ITS, Kind, mark
from wherry.kernel.native import Container
from wherry.oci.config import load
from wherry.plan.execute import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def remember(container: Container, config: "dict[str, Any]", options: ExecOptions, plan: bytes, elsewhere: bool = False, soon: bool = False) -> None:
    """Where the front could have asked for it. Whatever is in the way costs time alone. elsewhere: not in the cgroup of the record. soon: somebody
    waits for us, so what only others of its kind need is compiled when a second one comes."""
    text = asked(options)
    if text is None or "listenerPath" in ((config.get("linux") or {}).get("seccomp") or {}):
        return

    def pattern() -> bytes | None:
        if native.BLANK in text:
            return None
        marked = with_marks(options, cached.marked())
        return compile_plan(config, process_of(config, marked), target_of(container, marked), marked)

    try:
        facts = options.facts.key if options.facts else native.facts_key()
        if not elsewhere and native.BLANK not in plan and _of_kind(container, text, options, facts, soon):
            return
        cached = native.Pattern(text, container=container, file=options.process is not None, facts=facts)
        keep(f"/proc/self/fd/{container.directory}", cached, plan, pattern)  # by its name it would come again where a delete was faster
    except (WherryError, OSError):
        return


def _of_kind(container: Container, text: bytes, options: ExecOptions, key: str, soon: bool) -> bool:
    """For every container of this one's kind. False where it is of none, or the first."""
    config = config_copy(container)
    try:
        kind = Kind(container, config, text, options.process is not None, key)
    except OSError:
        return False
    if soon and ask_for(f"{options.root}/@plans/{kind.pattern}"):
        return False
    target = _marked_target(container, kind)
    if container.damage or native.BLANK in config or native.BLANK in text or target is None:
        return False
    document: Any = load(kind.config())
    marked = with_marks(options, kind.text())
    shared = compile_plan(document, process_of(document, marked), target, marked)
    return NOT_ITS not in shared and key.encode() in shared and native.cache_store(options.root, kind.pattern, shared)


def _marked_target(container: Container, kind: Kind) -> "Target | None":
    """By what names the kind, and not by a look of its own: init may have left a namespace since, and what would be filled in for others is without it."""
    cgroups = cgroups_of(container)
    if len(cgroups) != kind.cgroups:
        return None
    for number, cgroup in enumerate(cgroups, 1):
        cgroup.path = f"{cgroup.mount}/{mark(number).decode()}"
    init, others = mark(0).decode(), kind.namespaces
    return Target(init, {name: f"/proc/{init}/ns/{file}" for name, file in _FILES.items() if file in others}, cgroups, has_keyring(container))


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


def with_marks(options: ExecOptions, marked: bytes) -> ExecOptions:
    result = ExecOptions(options.root, options.id)
    result.__dict__.update(options.__dict__)
    if options.process is not None:
        result.process = marked
    else:
        process: Any = load(marked)["process"]
        result.args, result.env = process["args"], process["env"]
    return result
