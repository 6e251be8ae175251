# SPDX-License-Identifier: Apache-2.0
"""wherry create ID"""

from wherry.cli.arguments import BOOL, NUMBER, TEXT
from wherry.container.create import create
from wherry.container.options import CreateOptions, absolute
from wherry.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from wherry.cli import Call
    from wherry.container.execute import ExecOptions

    T = TypeVar("T")

FLAGS: "dict[str, int | str]" = {
    "bundle": TEXT,
    "b": "bundle",
    "console-socket": TEXT,
    "pidfd-socket": TEXT,
    "pid-file": TEXT,
    "no-pivot": BOOL,
    "no-new-keyring": BOOL,
    "preserve-fds": NUMBER,
    "trace": TEXT,
}


def run(call: "Call") -> int:
    (id,) = call.positional(1, 1)
    options = options_of(call, id)
    call.warn(traced(call, options, lambda: create(options)))
    return 0


def traced(call: "Call", options: "CreateOptions | ExecOptions", act: "Callable[[], T]") -> "T":
    """What `act` returns; with --trace it leaves a timeline, with --debug the same in words."""
    file = call.flags.text("trace")
    if file is None and not call.globals.on("debug"):
        return act()
    from wherry.cli.debug import lines
    from wherry.container.trace import record

    with record(options, file and absolute(file), options.preserve_fds, lines(call)):
        return act()


def options_of(call: "Call", id: str) -> CreateOptions:
    """What create and run have in common on the command line."""
    flags, globals = call.flags, call.globals
    options = CreateOptions(call.root(), id, absolute(flags.text("bundle") or "."), call.verb)
    options.console_socket = flags.text("console-socket") or None
    options.pidfd_socket = flags.text("pidfd-socket") or None
    pid_file = flags.text("pid-file")
    options.pid_file = absolute(pid_file) if pid_file else None
    options.warn, options.fresh = call.warn, globals.on("debug")
    options.notify = call.notify()
    options.no_pivot, options.no_new_keyring = flags.on("no-pivot"), flags.on("no-new-keyring")
    options.preserve_fds = flags.number("preserve-fds")
    if not 0 <= options.preserve_fds < 1 << 15:
        raise UsageError(f"invalid value {options.preserve_fds} for flag -preserve-fds: 0 to 32767")
    options.cgroup_manager = "systemd" if globals.on("systemd-cgroup") else globals.text("cgroup-manager") or "cgroupfs"
    options.rootless = {"true": True, "false": False}.get(globals.text("rootless") or "auto")
    return options
