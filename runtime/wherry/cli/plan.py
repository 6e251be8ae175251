# SPDX-License-Identifier: Apache-2.0
"""wherry plan: what create would do to the host, step by step. Does none of it."""

import json

from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.cli.create import FLAGS as CREATE_FLAGS
from wherry.cli.create import options_of
from wherry.container.create import compile_plan, listen_environment, read_config
from wherry.container.options import CreateOptions, absolute, read_file
from wherry.errors import UsageError
from wherry.kernel.hostfacts import HostFacts, gather
from wherry.plan.describe import Plan

FLAGS: dict[str, int | str] = {
    **{name: CREATE_FLAGS[name] for name in ("bundle", "b", "no-pivot", "no-new-keyring", "preserve-fds")},
    "facts": TEXT,
    "format": TEXT,
    "f": "format",
    "json": BOOL,
}


def run(call: Call) -> int:
    words = call.positional(0, 1)
    kind = "json" if call.flags.on("json") else call.flags.text("format") or "text"
    if kind not in ("text", "json"):
        raise UsageError(f'invalid value "{kind}" for flag -format: text or json')
    given = call.flags.text("facts")
    if given == "-":
        print(json.dumps(_all_facts(options_of(call, "plan")).to_json(), indent=2))
        return 0
    options = options_of(call, "plan")
    if words:
        options.bundle = absolute(words[0])
    options.attached = True
    plan, warnings = _plan(options, _facts(given) if given else None)
    if kind == "json":
        print(json.dumps({**Plan(plan).document(), "warnings": warnings}, indent=2))
    else:
        print(Plan(plan).text(), end="")
        for warning in warnings:
            print(f"left out: {warning}")
    return 0


def _all_facts(options: CreateOptions) -> HostFacts:
    facts = gather(lsms=True, delegate=True, mappers=True)
    if options.cgroup_manager == "systemd":
        from wherry.container.unit import look

        look(facts, options, {}, given=False)
    return facts


def _plan(options: CreateOptions, facts: HostFacts | None) -> tuple[bytes, list[str]]:
    return compile_plan(options, read_config(options.bundle), listen_environment(), facts)


def _facts(path: str) -> HostFacts:
    try:
        return HostFacts.from_json(json.loads(read_file(path)))
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or '').lower()}", code="WHERRY-USAGE-FILE") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: no host facts: {error}", code="WHERRY-USAGE-FILE", remedy="wherry plan --facts - prints them") from error
