# SPDX-License-Identifier: Apache-2.0
"""The only importer of wherry._native: what C does for Python, typed.

Everything here blocks without the interpreter's lock, may be called from any thread, and raises OSError only: a plain one
(so FileNotFoundError, PermissionError, ... as usual), or a Failure, which also says which step of a plan and which system
call it was, and carries refusals that no errno names. Wording is left to the floors above.
"""

import posix
import sys

from wherry._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wherry._native import CData, Constants

constants: "Constants" = lib
"""Every number of plan.h and host.h by its name: constants.OP_CLAIM, constants.HOST_CREATED, constants.WHERRY_EXISTS."""

NO_STEP = 0xFFFFFFFF
"""Failure.step where no operation of a plan is at fault."""

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class Failure(OSError):
    """What C reports: `error` is an errno, or a refusal from WHERRY_REFUSED_FIRST on; `step` indexes the plan's operations.

    `call` names the system call ("OPEN", "MOVE_MOUNT"; "NONE" = no call), `value` is by kind (exit status of a hook, offset in a
    bad plan). `undo` is the errno of the cleanup, when that failed too: then the state directory stays, for gc.
    """

    def __init__(self, error: "int", step: "int" = NO_STEP, call: "str" = "NONE", value: "int" = 0, undo: "int" = 0) -> "None":
        super().__init__(error, "refused" if error >= lib.WHERRY_REFUSED_FIRST else posix.strerror(error))
        self.error, self.step, self.call, self.value, self.undo = error, step, call, value, undo


class Create:
    """One create, from the claim of the id to the published container.

        create = Create(plan=..., root=..., ...)
        if not create.begin():      # False: the plan has an interlude, and init waits for the caller
            ... network devices and the like, with create.pid ...
            create.finish()         # or create.abort()
        create.close()              # the container lives on

    When begin or finish raises, all that was done has been undone. stdio: descriptors for the container, -1 = our own. extra: journal
    entries of what the caller itself will make: (WHERRY_JOURNAL_RESCTRL | WHERRY_JOURNAL_UNIT, path or name), see mark().
    """

    __slots__ = ("_create", "_keep", "_request")

    def __init__(
        self,
        *,
        plan: "bytes",
        root: "str",
        id: "str",
        bundle: "str",
        bundle_json: "str",
        config: "bytes",
        pid_file: "str | None" = None,
        console_socket: "str | None" = None,
        pidfd_socket: "str | None" = None,
        preserve_fds: "int" = 0,
        stdio: "tuple[int, int, int]" = (-1, -1, -1),
        deadline_ms: "int" = 0,
        extra: "Sequence[tuple[int, str]]" = (),
    ) -> "None":
        raise RuntimeError

    def begin(self) -> "bool":
        """True: published. False: stopped at the plan's interlude."""
        raise RuntimeError

    def finish(self) -> "None":
        raise RuntimeError

    def abort(self) -> "None":
        """Undoes everything, after the caller's own part failed; does not raise for what was gone already."""
        raise RuntimeError

    def mark(self, index: "int", state: "int") -> "None":
        """Journals the extra entry `index` as WHERRY_JOURNAL_BEGUN, _DONE, _UNDONE or _FOREIGN."""
        raise RuntimeError

    def close(self) -> "None":
        """Closes what is open; idempotent."""
        raise RuntimeError

    @property
    def pid(self) -> "int":
        """Of init, on the host; known from the interlude on."""
        raise RuntimeError

    @property
    def start_time(self) -> "int":
        raise RuntimeError

    @property
    def pidfd(self) -> "int":
        """Of init; belongs to this object. See take_pidfd."""
        raise RuntimeError

    @property
    def directory(self) -> "int":
        """Descriptor of <root>/<id>; belongs to this object."""
        raise RuntimeError

    def take_pidfd(self) -> "int":
        """The same, now the caller's to close."""
        raise RuntimeError

    def take_console(self) -> "int":
        """Master of the pty where no console socket was named, now the caller's to close; -1 = none."""
        raise RuntimeError

    def unlock(self) -> "None":
        """Lets start and delete go ahead while this object stays open."""
        raise RuntimeError


class JournalEntry:
    """One thing on the host that belongs to a container."""

    __slots__ = ("kind", "made_depth", "mount_length", "path", "state")

    def __init__(self, kind: "int", state: "int", made_depth: "int", mount_length: "int", path: "str") -> "None":
        self.kind, self.state, self.made_depth, self.mount_length, self.path = kind, state, made_depth, mount_length, path


class Container:
    """A container by its record, opened with open_container()."""

    __slots__ = ("_container",)

    pid: "int"
    start_time: "int"
    owner_pid: "int"
    flags: "int"
    record_status: "int"
    boot_id: "str"
    head: "bytes"
    middle: "bytes"
    tail: "bytes"
    directory: "int"

    def state_json(self) -> "bytes":
        """What `state` prints: head, pid (0 when stopped), middle, status, tail."""
        raise RuntimeError

    def status(self) -> "int":
        """HOST_CREATING, HOST_CREATED, HOST_RUNNING, HOST_STOPPED or HOST_PAUSED, as it is now."""
        raise RuntimeError

    def journal(self) -> "list[JournalEntry]":
        raise RuntimeError

    def lock(self, wait_ms: "int" = 0) -> "None":
        """BlockingIOError at the end of the wait."""
        raise RuntimeError

    def unlock(self) -> "None":
        raise RuntimeError

    def start(self) -> "None":
        """Failure from init where the program could not be executed; Failure(ENXIO) where it is not in `created`."""
        raise RuntimeError

    def signal(self, number: "int") -> "None":
        """To init. ProcessLookupError when it is gone."""
        raise RuntimeError

    def signal_all(self, number: "int") -> "None":
        """To every process of its cgroup."""
        raise RuntimeError

    def pidfd(self) -> "int":
        """A new pidfd of init, checked against its start time; the caller's to close. ProcessLookupError when it is gone."""
        raise RuntimeError

    def destroy(self, kill_first: "bool" = False) -> "None":
        """Removes cgroups and the state directory; what is gone already is no error."""
        raise RuntimeError

    def close(self) -> "None":
        raise RuntimeError

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: "object") -> "None":
        self.close()


def open_container(root: "str", id: "str") -> "Container":
    """FileNotFoundError: no such container. Failure(WHERRY_WRONG_VERSION): of another release. Failure(EBADMSG): damaged."""
    raise RuntimeError


def facts_key() -> "str":
    """Fingerprint of the host facts that the plan compiler reads."""
    raise RuntimeError


def cache_key(config: "bytes", options: "int" = 0) -> "str":
    """Name of the plan of `config` in the cache, facts key and WHERRY_OPTION_* bits included."""
    raise RuntimeError


def cache_load(root: "str", key: "str") -> "bytes | None":
    """The plan, decoded and checked once; None where there is none that fits this build."""
    raise RuntimeError


def cache_store(root: "str", key: "str", plan: "bytes") -> "bool":
    """False where it could not be kept (which costs time alone)."""
    raise RuntimeError


def check_plan(plan: "bytes") -> "None":
    """Failure(WHERRY_BAD_PLAN, value=offset) or Failure(WHERRY_WRONG_VERSION) unless the decoder takes it."""
    raise RuntimeError


def run_hook(path: "str", argv: "Sequence[str]", env: "Sequence[str]", state: "bytes", timeout: "int" = 0) -> "None":
    """Failure(WHERRY_HOOK_FAILED, value=wait status), Failure(WHERRY_HOOK_TIMEOUT), or OSError of its execve."""
    raise RuntimeError


def pidfd_open(pid: "int") -> "int":
    raise RuntimeError


def pidfd_wait(pidfd: "int", timeout_ms: "int" = -1) -> "bool":
    """Waits for the end of any process: True when it has ended, False at the timeout. Does not reap."""
    raise RuntimeError


def pidfd_reap(pidfd: "int") -> "int":
    """Waits for a child of ours and reaps it: its exit status, 128 + signal where one killed it."""
    raise RuntimeError


def pidfd_signal(pidfd: "int", number: "int") -> "None":
    raise RuntimeError


def program_fd() -> "int":
    """The embedded static program as a sealed memfd, made once per process; never to be closed."""
    raise RuntimeError


def program_libc() -> "str":
    """What the embedded program is linked with: "musl" or "glibc"."""
    raise RuntimeError


def program_size() -> "int":
    raise RuntimeError


def build_id() -> "bytes":
    """16 bytes that the program, this extension and every plan and record of this build share."""
    raise RuntimeError


def sha256(data: "bytes") -> "bytes":
    raise RuntimeError


def start_time(pid: "int") -> "int":
    """Field 22 of /proc/PID/stat. ProcessLookupError when there is no such process."""
    raise RuntimeError


def cgroup_kill(path: "str", v2: "bool") -> "None":
    """Every process below, recursively."""
    raise RuntimeError
