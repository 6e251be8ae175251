# SPDX-License-Identifier: Apache-2.0
"""Floor 6: the command line. Reads the global flags, picks one module by the verb and imports only that.

A verb's module offers `FLAGS`, its table of flags, and `run(call) -> exit code`. What a person reads (help, usage) stands in
wherry.cli.help, which no verb loads.
"""

from posix import environ

from wherry.cli.arguments import BOOL, TEXT, read
from wherry.errors import UsageError, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.arguments import Values

GLOBAL_FLAGS: "dict[str, int | str]" = {
    "root": TEXT,
    "log": TEXT,
    "log-format": TEXT,
    "log-level": TEXT,
    "debug": BOOL,
    "systemd-cgroup": BOOL,
    "cgroup-manager": TEXT,
    "rootless": TEXT,
    "criu": TEXT,
    "version": BOOL,
    "v": "version",
}

VERBS = (
    *("create", "start", "state", "kill", "delete", "run", "exec", "pause", "resume", "update", "ps", "events", "stats", "checkpoint", "restore"),
    *("list", "spec", "features", "plan", "validate", "gc", "doctor", "setup", "completion", "man", "version", "help"),
)


class Call:
    """One command line, read: global flags, the verb's own flags, positional arguments and what stood after `--`."""

    __slots__ = ("flags", "globals", "rest", "verb", "words")

    def __init__(self, globals: "Values") -> None:
        self.globals = self.flags = globals
        self.verb = ""
        self.words: "list[str]" = []
        self.rest: "list[str]" = []

    def root(self) -> str:
        """Where containers are kept."""
        from wherry.container.options import absolute, default_root

        root = self.globals.text("root")
        return absolute(root) if root else default_root()

    def notify(self) -> "str | None":
        """A service manager's socket, for what creates or starts."""
        if b"NOTIFY_SOCKET" not in environ:
            return None
        from wherry.container.notify import wanted

        return wanted()

    def warn(self, warnings: "list[str]") -> None:
        """Into the log; to stderr where there is none. Only of what went well: an engine takes a second line beside an error for another one."""
        if warnings:
            from wherry.cli.log import tell

            for warning in warnings:
                tell(self, "warning", warning)

    def name(self) -> str:
        """What the program was called by: wherry, or runc, where it is linked to that name and its words are those of runc."""
        return "runc" if environ.get(b"WHERRY_NAME") == b"runc" else "wherry"

    def positional(self, least: int, most: int) -> "list[str]":
        """The positional arguments of a verb to which `--` means nothing."""
        words = self.words + self.rest
        if not least <= len(words) <= most:
            from wherry.cli.help import wrong_number

            raise wrong_number(self.verb, len(words), least, most)
        return words


def main(argv: "list[str]") -> int:
    """Runs one command line; returns the exit code. What went wrong is one line on stderr, and one in the log."""
    call = None
    try:
        values, words, rest = read(GLOBAL_FLAGS, argv, globals_only=True)
        call = Call(values)
        _check_build()
        return _run(call, words, rest)
    except (WherryError, OSError) as error:
        from wherry.cli.log import report

        return report(error, call)
    except Exception as error:
        from wherry.cli.log import report_defect

        return report_defect(error, call)


def _run(call: Call, words: "list[str]", rest: "list[str]") -> int:
    _check_globals(call.globals)
    call.verb = words[0] if words else "version" if call.globals.on("version") else "help"
    if call.verb not in VERBS:
        from wherry.cli.help import unknown_verb

        raise unknown_verb(call.verb, words[1:])
    module = __import__(f"wherry.cli.{call.verb}", fromlist=("run",))
    if words and not call.globals.on("help"):
        call.flags, call.words, after = read(module.FLAGS, words[1:], getattr(module, "FLAGS_FIRST", False), call.verb)
        call.rest = after + rest
    if call.flags.on("help"):
        from wherry.cli.help import show

        return show(call.verb)
    code: int = module.run(call)
    return code


def _check_build() -> None:
    """The front that became this interpreter says of which build it is; ours must be the same."""
    front = environ.get(b"WHERRY_BUILD")
    if front:
        from wherry.kernel.native import build_id

        if front.decode("ascii", "replace") != build_id().hex():
            from wherry.errors import HostError

            message = "the program wherry and the Python package beside it are of different builds"
            raise HostError(message, code="WHERRY-HOST-BUILD", remedy="install wherry again")


def _check_globals(values: "Values") -> None:
    for name, allowed in (
        ("log-format", ("text", "json")),
        ("rootless", ("true", "false", "auto")),
        ("cgroup-manager", ("cgroupfs", "systemd", "disabled")),
    ):
        text = values.text(name)
        if text is not None and text not in allowed:
            raise UsageError(f'invalid value "{text}" for flag -{name}: one of {", ".join(allowed)}')
