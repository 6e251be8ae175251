# SPDX-License-Identifier: Apache-2.0
"""What went wrong, told twice: one line on stderr for a person, one line in --log for an engine. Loaded only then.

Engines read the log as one JSON object, so an error is one line and stands there alone, unless --debug was asked for. A target is a file,
or, as with crun, `file:PATH`, `journald:ID` or `syslog:ID`. Without one, warnings and what --debug says are lines of text on stderr.
"""

import posix
import sys
import time
from _json import encode_basestring_ascii

from wherry.errors import HostError, InternalError, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli import Call

_SYSLOG = {"error": 3, "warning": 4, "info": 6, "debug": 7}


def report(error: "WherryError | OSError", call: "Call | None") -> int:
    """Writes the error to stderr and to the log; returns the exit code of the process."""
    known = error if isinstance(error, WherryError) else from_os_error(error)
    text = known.sentence()
    if call is not None and call.name() == "runc":
        from wherry.cli.runc import worded

        text = worded(known, text, call.verb)
    elif call is not None and call.verb and not text.startswith(call.verb):
        text = f"{call.verb}: {text}"
    if call is None:
        complain(text)
        return known.exit_code
    fields = {"code": known.code}
    if known.pointer is not None:
        fields["pointer"] = known.pointer
    if write(call, "error", text, fields):
        complain(text)
    return known.exit_code


def report_defect(error: Exception, call: "Call | None") -> int:
    """For what must not happen: the trace is shown with --debug, the line says how to get it."""
    if call is not None and call.globals.on("debug"):
        import traceback

        complain(traceback.format_exc().rstrip())
    message = f"{type(error).__name__}: {error}".replace("\n", " ")
    return report(InternalError(message, remedy="this is a defect of wherry; --debug shows where"), call)


def from_os_error(error: OSError) -> WherryError:
    """The one place where a foreign error that nobody awaited becomes ours."""
    text = (error.strerror or str(error)).lower()
    if error.filename is not None:
        name = error.filename if isinstance(error.filename, str) else repr(error.filename)
        text = f"{name}: {text}"
    code = "WHERRY-HOST-PERMISSION" if isinstance(error, PermissionError) else "WHERRY-HOST"
    return HostError(text, code=code, errno=error.errno)


def complain(text: str) -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        posix.write(2, (text + "\n").encode("utf-8", "surrogateescape"))
    except OSError:
        pass


def tell(call: "Call", level: str, text: str, fields: "dict[str, str] | None" = None, when: "float | None" = None) -> None:
    """What is no error: one line into the log, or to stderr where there is none."""
    if call.globals.text("log"):
        write(call, level, text, fields or {}, when)
    else:
        line = json_line if call.globals.text("log-format") == "json" else text_line
        complain(line(level, text, fields or {}, when)[:-1])


def write(call: "Call", level: str, text: str, fields: "dict[str, str]", when: "float | None" = None) -> bool:
    """One line into the log. True: stderr is still to be told (it was not itself the log)."""
    target = call.globals.text("log")
    if not target:
        return True
    kind, _, name = target.partition(":")
    try:
        if kind == "journald":
            pairs = {"MESSAGE": text, "PRIORITY": _SYSLOG[level], "CONTAINER_ID": name, "SYSLOG_IDENTIFIER": "wherry"}
            _send("/run/systemd/journal/socket", "".join(f"{key}={value}\n" for key, value in pairs.items()))
        elif kind == "syslog":
            _send("/dev/log", f"<{24 + _SYSLOG[level]}>wherry[{posix.getpid()}]: {name}: {text}")
        else:
            line = json_line if call.globals.text("log-format") == "json" else text_line
            return _append(name if kind == "file" else target, line(level, text, fields, when))
    except OSError as error:
        complain(f"{target}: cannot write the log: {(error.strerror or '').lower()}")
    return True


def _append(path: str, line: str) -> bool:
    descriptor = posix.open(path, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC, 0o644)
    try:
        posix.write(descriptor, line.encode("utf-8", "surrogateescape"))
        log, ours = posix.fstat(descriptor), posix.fstat(2)
        return (log.st_dev, log.st_ino) != (ours.st_dev, ours.st_ino)
    finally:
        posix.close(descriptor)


def _send(path: str, text: str) -> None:
    import _socket

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
        connection.send(text.encode("utf-8", "surrogateescape"))
    finally:
        connection.close()


def json_line(level: str, text: str, fields: "dict[str, str]", when: "float | None" = None) -> str:
    pairs = {"level": level, "msg": text, "time": now(when), **fields}
    return "{" + ",".join(f'"{key}":{encode_basestring_ascii(_clean(value))}' for key, value in pairs.items()) + "}\n"


def text_line(level: str, text: str, fields: "dict[str, str]", when: "float | None" = None) -> str:
    pairs = {"msg": text, **fields}
    return f'time="{now(when)}" level={level} ' + " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items()) + "\n"


def now(when: "float | None" = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def _clean(text: str) -> str:
    """Bytes that are no UTF-8 become question marks: half surrogates are no JSON."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _quoted(text: str) -> str:
    """As logrus does: bare where nothing in it needs quotes."""
    if text and all(letter.isalnum() or letter in "-._/@^+" for letter in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
