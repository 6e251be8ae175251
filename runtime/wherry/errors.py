# SPDX-License-Identifier: Apache-2.0
"""Every error that wherry raises. Floor 0: imports nothing at all, because every hot verb loads it.

    Exception
    └── WherryError            anything that is wrong, with its facts
        ├── UsageError         WHERRY-USAGE-*    the command line or the arguments of a call
        ├── ConfigError        WHERRY-CONFIG-*   a value in config.json; `pointer` names it
        │   └── JsonError      WHERRY-JSON-*     config.json is no JSON at all; facts: line, column
        ├── StateError         WHERRY-STATE-*    the container is not in a state for this verb
        │   ├── NotFoundError                    there is no such container
        │   └── ExistsError                      the id is taken
        ├── HostError          WHERRY-HOST-*     the host lacks something, or refuses it
        ├── PlanError          WHERRY-PLAN-*     a valid configuration that cannot be done on this host
        ├── LaunchError        WHERRY-LAUNCH-*   a step of a plan failed; facts: step, steps, call, errno
        │   └── HookError      WHERRY-HOOK-*     a hook failed; facts: hook, path, status
        ├── DeadlineError      WHERRY-DEADLINE   something took longer than it may
        └── InternalError      WHERRY-INTERNAL   a defect of wherry itself

An error carries facts, not only prose: `code` (stable, documented in docs/errors.md), `exit_code`, `pointer` (RFC 6901, of the
field of config.json that it is about), `remedy` (what the reader can do, where that is known) and `facts` (anything else, by
name). `str(error)` is one line, lower case, without a full stop:

    /mounts/3: mount tmpfs on /run: operation not permitted (step 12 of 31)

The causes and remedies of all codes are in wherry.codes, which is loaded late: it is needed only once something has failed.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def printable(text: str) -> str:
    """One line that is safe in a terminal and in a log: what a config or an argument smuggled into it is escaped."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class WherryError(Exception):
    """Base of all. `also` holds errors that happened while this one was being cleaned up after."""

    code = "WHERRY-INTERNAL"
    exit_code = 1

    def __init__(
        self,
        message: str,
        code: "str | None" = None,
        exit_code: "int | None" = None,
        pointer: "str | None" = None,
        remedy: "str | None" = None,
        **facts: "Any",
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if exit_code is not None:
            self.exit_code = exit_code
        self.pointer = pointer
        self.remedy = remedy
        self.facts = facts
        self.also: "list[WherryError]" = []

    def __str__(self) -> str:
        return printable(f"{self.pointer}: {self.message}" if self.pointer else self.message)

    def sentence(self) -> str:
        """The whole text for a person: place, message, remedy, and what failed during the cleanup."""
        text = str(self)
        if self.remedy:
            text += f" ({self.remedy})"
        for other in self.also:
            text += f"; and while cleaning up: {other.sentence()}"
        return text

    def document(self) -> "dict[str, Any]":
        """The same for a program, ready for JSON."""
        document: "dict[str, Any]" = {"code": self.code, "message": self.message, "exitCode": self.exit_code}
        if self.pointer is not None:
            document["pointer"] = self.pointer
        if self.remedy:
            document["remedy"] = self.remedy
        if self.facts:
            document["facts"] = {
                name: value if isinstance(value, (int, str, list, dict, type(None))) else str(value) for name, value in self.facts.items()
            }
        if self.also:
            document["also"] = [other.document() for other in self.also]
        return document


class UsageError(WherryError):
    code = "WHERRY-USAGE"


class ConfigError(WherryError):
    code = "WHERRY-CONFIG-VALUE"


class JsonError(ConfigError):
    code = "WHERRY-JSON-SYNTAX"

    def __str__(self) -> str:
        place = self.facts.get("name", "config.json")
        if "line" in self.facts:
            place += f":{self.facts['line']}:{self.facts['column']}"
        return f"{printable(place)}: {super().__str__()}"


class StateError(WherryError):
    code = "WHERRY-STATE-REFUSED"


class NotFoundError(StateError):
    code = "WHERRY-STATE-NOT-FOUND"


class ExistsError(StateError):
    code = "WHERRY-STATE-EXISTS"


class HostError(WherryError):
    code = "WHERRY-HOST"


class PlanError(WherryError):
    code = "WHERRY-PLAN-UNSUPPORTED"


class LaunchError(WherryError):
    code = "WHERRY-LAUNCH-STEP"


class HookError(LaunchError):
    code = "WHERRY-HOOK-FAILED"


class DeadlineError(WherryError):
    code = "WHERRY-DEADLINE"


class InternalError(WherryError):
    code = "WHERRY-INTERNAL"


# ---- refusals: (verb, status) -> code, text. Engines search these texts for their substrings: docs/errors.md lists them.

_RUNNING = ("WHERRY-STATE-RUNNING", "cannot start an already running container")
_STOPPED = ("WHERRY-STATE-STOPPED", "container not running")

_REFUSALS = {
    ("start", "running"): _RUNNING,
    ("start", "paused"): _RUNNING,
    ("start", "stopped"): ("WHERRY-STATE-STOPPED", "cannot start a container that has stopped"),
    ("kill", "stopped"): _STOPPED,
    ("pause", "stopped"): _STOPPED,
    ("resume", "stopped"): _STOPPED,
    ("resume", "running"): ("WHERRY-STATE-NOT-PAUSED", "container not paused"),
    ("resume", "created"): ("WHERRY-STATE-NOT-PAUSED", "container not paused"),
    ("exec", "stopped"): ("WHERRY-STATE-STOPPED", "cannot exec in a stopped container"),
    ("exec", "paused"): ("WHERRY-STATE-PAUSED", "cannot exec in a paused container (use --ignore-paused to override)"),
    ("update", "stopped"): _STOPPED,
    ("ps", "stopped"): _STOPPED,
    ("checkpoint", "created"): ("WHERRY-STATE-REFUSED", "container cannot be checkpointed in created state"),
    ("checkpoint", "stopped"): ("WHERRY-STATE-STOPPED", "container cannot be checkpointed in stopped state"),
    ("events", "stopped"): ("WHERRY-STATE-STOPPED", "container with id {id} is not running"),
    ("delete", "created"): ("WHERRY-STATE-NOT-STOPPED", "cannot delete container {id} that is not stopped: created"),
    ("delete", "running"): ("WHERRY-STATE-NOT-STOPPED", "cannot delete container {id} that is not stopped: running"),
    ("delete", "paused"): ("WHERRY-STATE-NOT-STOPPED", "cannot delete container {id} that is not stopped: paused"),
}


def refused(verb: str, status: str, id: str) -> StateError:
    """The error for a verb that the container's state does not allow."""
    code, text = _REFUSALS.get((verb, status), ("WHERRY-STATE-REFUSED", f"cannot {verb} container {{id}}: it is {status}"))
    return StateError(text.replace("{id}", id), code=code, id=id, verb=verb, status=status)


def not_found(id: str) -> NotFoundError:
    return NotFoundError(f'container does not exist: "{id}"', id=id)


def exists(id: str) -> ExistsError:
    return ExistsError(f'container with given ID already exists: "{id}"', id=id, remedy="delete it or choose another id")
