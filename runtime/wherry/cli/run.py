# SPDX-License-Identifier: Apache-2.0
"""wherry run ID, and wherry run --rootfs DIR [limits] -- CMD, which needs no config.json."""

from wherry.cli.arguments import BOOL, MANY, TEXT
from wherry.cli.create import FLAGS as CREATE_FLAGS
from wherry.cli.create import options_of, traced
from wherry.container.run import run as run_container
from wherry.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli import Call

WITHOUT_CONFIG: "dict[str, int | str]" = {
    "rootfs": TEXT,
    "memory": TEXT,
    "cpus": TEXT,
    "pids": TEXT,
    "env": MANY,
    "e": "env",
    "workdir": TEXT,
    "user": TEXT,
    "hostname": TEXT,
    "writable": BOOL,
    "network": TEXT,
    "tty": BOOL,
    "t": "tty",
}

FLAGS: "dict[str, int | str]" = {
    **CREATE_FLAGS,
    "detach": BOOL,
    "d": "detach",
    "keep": BOOL,
    "no-subreaper": BOOL,
    **WITHOUT_CONFIG,
}


def run(call: "Call") -> int:
    flags = call.flags
    if flags.given("rootfs"):
        from wherry.cli.rootfs import options_without_config

        options = options_without_config(call)
    else:
        for name in WITHOUT_CONFIG:
            if flags.given(name):
                raise UsageError(f"flag -{name} needs --rootfs DIR: with a bundle, config.json says it")
        if not call.words and not call.rest:
            from wherry.cli.help import teach_run

            return teach_run()
        (id,) = call.positional(1, 1)
        options = options_of(call, id)
    call.warn(traced(call, options, lambda: run_container(options, flags.on("detach"), flags.on("keep"), not flags.on("no-subreaper"))))
    return 0
