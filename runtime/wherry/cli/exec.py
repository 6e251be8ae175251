# SPDX-License-Identifier: Apache-2.0
"""wherry exec ID COMMAND [ARGUMENT...]"""

import posix
import sys

from wherry.cli import Call
from wherry.cli.arguments import BOOL, MANY, NUMBER, TEXT, Values
from wherry.cli.create import traced
from wherry.container.execute import ExecOptions, execute
from wherry.container.options import absolute
from wherry.container.run import become_attendant, hold_signals
from wherry.errors import DeadlineError, UsageError, WherryError

FLAGS: dict[str, int | str] = {
    "process": TEXT,
    "p": "process",
    "detach": BOOL,
    "d": "detach",
    "tty": BOOL,
    "t": "tty",
    "env": MANY,
    "e": "env",
    "cwd": TEXT,
    "user": TEXT,
    "u": "user",
    "additional-gids": MANY,
    "g": "additional-gids",
    "cap": MANY,
    "c": "cap",
    "no-new-privs": BOOL,
    "process-label": TEXT,
    "apparmor": TEXT,
    "cgroup": MANY,
    "ignore-paused": BOOL,
    "console-socket": TEXT,
    "pidfd-socket": TEXT,
    "pid-file": TEXT,
    "preserve-fds": NUMBER,
    "timeout": TEXT,
    "trace": TEXT,
}
FLAGS_FIRST = True
"""What stands behind the ID is the command's."""

OWN_FAILURE = 255
TIMED_OUT = 124
"""timeout(1)'s: no signal ends a process with it."""

_IDS = (1 << 32) - 1  # the last one is no id: see oci.shape
_LONGEST = 1e9


def run(call: Call) -> int:
    """Every failure of our own exits with 255, so that it is told from the process's. Attached, this does not return."""
    if not call.words + call.rest:
        from wherry.cli.help import wrong_number

        raise wrong_number("exec", 0, 1)
    if b"WHERRY_LATE" in posix.environ and call.flags.given("timeout"):
        text = f"the process did not end within {call.flags.text('timeout')} s, and was killed with all that it had started"
        raise DeadlineError(text, exit_code=TIMED_OUT)
    try:
        return _exec(call)
    except (WherryError, OSError) as error:
        from wherry.cli.log import from_os_error

        known = error if isinstance(error, WherryError) else from_os_error(error)
        failed = WherryError(f"exec failed: {known}", code=known.code, exit_code=OWN_FAILURE, remedy=known.remedy, **known.facts)
        failed.also = known.also
        raise failed from error


def _exec(call: Call) -> int:
    options = options_of(call)
    options.attached = not call.flags.on("detach")
    timeout = _timeout(call.flags)
    options.adopts = timeout is not None
    options.moves = True
    if options.attached:
        hold_signals()
    create = traced(call, options, lambda: execute(options))
    master = create.take_console()
    pid = create.pid
    create.close()
    if options.attached:
        sys.stdout.flush()
        become_attendant(options.root, str(pid), "x", master, timeout)
    return 0


def _timeout(flags: "Values") -> "float | None":
    text = flags.text("timeout")
    if text is None:
        return None
    if flags.on("detach"):
        remedy = "nobody waits then: leave one of the two out, or run timeout(1) in the container"
        raise UsageError("flag -timeout cannot be used with -detach", remedy=remedy)
    try:
        seconds = float(text) if text.isascii() else 0.0
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise UsageError(f'invalid value "{text}" for flag -timeout: seconds, such as 1.5, more than 0')
    return seconds


def options_of(call: Call) -> ExecOptions:
    flags = call.flags
    words = call.words + call.rest
    args = words[2:] if words[1:2] == ["--"] else words[1:]
    options = ExecOptions(call.root(), words[0], args)
    path = flags.text("process")
    if path is not None:
        options.process, options.process_name = _read(path), path
    options.cwd, options.env, options.terminal = flags.text("cwd"), flags.many("env"), flags.on("tty")
    if flags.text("user"):
        options.uid, options.gid = user_of(flags.text("user") or "")
    options.groups = [number_of(text, "additional-gids") for text in flags.many("additional-gids")]
    options.capabilities = flags.many("cap")
    options.no_new_privileges = flags.on("no-new-privs")
    options.label, options.apparmor = flags.text("process-label"), flags.text("apparmor")
    options.cgroups, options.ignore_paused = flags.many("cgroup"), flags.on("ignore-paused")
    options.console_socket = flags.text("console-socket") or None
    options.pidfd_socket = flags.text("pidfd-socket") or None
    pid_file = flags.text("pid-file")
    options.pid_file = absolute(pid_file) if pid_file else None
    options.preserve_fds = flags.number("preserve-fds")
    if not 0 <= options.preserve_fds < 1 << 15:
        raise UsageError(f"invalid value {options.preserve_fds} for flag -preserve-fds: 0 to 32767")
    options.rootless = {"true": True, "false": False}.get(call.globals.text("rootless") or "auto")
    return options


def user_of(text: str) -> tuple[int, "int | None"]:
    """UID[:GID]; numbers only, for names are the image's to say, and it may lie."""
    uid, separator, gid = text.partition(":")
    return number_of(uid, "user"), number_of(gid, "user") if separator else None


def number_of(text: str, flag: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) >= _IDS:
        raise UsageError(f'invalid value "{text}" for flag -{flag}: not an id')
    return int(text)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
