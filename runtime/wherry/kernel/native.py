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
    from mmap import mmap

    from wherry._native import CData, Constants

constants: "Constants" = lib
"""Every number of plan.h and host.h by its name: constants.OP_CLAIM, constants.HOST_CREATED, constants.WHERRY_EXISTS."""

NO_STEP = 0xFFFFFFFF
"""Failure.step where no operation of a plan is at fault."""

STATUS_NAMES = ("", "creating", "created", "running", "stopped", "paused")
"""By HOST_CREATING .. HOST_PAUSED, in the words of the runtime specification."""

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class Failure(OSError):
    """What C reports: `error` is an errno, or a refusal from WHERRY_REFUSED_FIRST on; `step` indexes the plan's operations.

    `call` names the system call ("OPEN", "MOVE_MOUNT"; "NONE" = no call), `value` is by kind (exit status of a hook, offset in a
    bad plan). `undo` is the errno of the cleanup, when that failed too: then the state directory stays, for gc.
    """

    def __init__(self, error: "int", step: "int" = NO_STEP, call: "str" = "NONE", value: "int" = 0, undo: "int" = 0) -> "None":
        super().__init__(error, "refused" if error >= lib.WHERRY_REFUSED_FIRST else posix.strerror(error))
        self.error, self.step, self.call, self.value, self.undo = error, step, call, value, undo


def _bytes(text: "str") -> "bytes":
    data = text.encode(_ENCODING, _ERRORS)
    if b"\0" in data:
        raise OSError(22, "embedded null character", text)
    return data


def _text(data: "CData") -> "str":
    raw: bytes = ffi.string(data)
    return raw.decode(_ENCODING, _ERRORS)


def _failure(message: "CData", undo: "int" = 0) -> "Failure":
    return Failure(message.error, message.step, call_name(message.call), message.value, undo)


def call_name(number: "int") -> "str":
    """Of enum wherry_call, without its prefix: "MOVE_MOUNT"."""
    name: bytes = ffi.string(lib.native_call_name(number))
    return name.decode()


def _check(result: "int", name: "str | None" = None) -> "int":
    """0 or a positive answer, else the exception for -errno or -refusal."""
    if result >= 0:
        return result
    if -result >= lib.WHERRY_REFUSED_FIRST:
        raise Failure(-result)
    if name is None:
        raise OSError(-result, posix.strerror(-result))
    raise OSError(-result, posix.strerror(-result), name)


class Create:
    """One create, from the claim of the id to the published container.

        create = Create(plan=..., root=..., ...)
        if not create.begin():      # False: the plan has an interlude, and init waits for the caller
            ... network devices and the like, with create.pid ...
            create.finish()         # or create.abort(); False again: at the next one
        create.close()              # the container lives on

    When begin or finish raises, all that was done has been undone. stdio: descriptors for the container, -1 = our own. extra: journal
    entries of what the caller itself will make: (WHERRY_JOURNAL_RESCTRL | WHERRY_JOURNAL_UNIT, path or name), see mark(). trace: a memfd of
    zeros and its mapping, where all executors leave a struct wherry_span for each step of the plan. console_as_is: who reads the master shows
    its bytes on no terminal of its own.
    """

    __slots__ = ("_create", "_keep", "_request", "plan")

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
        trace: "tuple[int, mmap] | None" = None,
        console_as_is: "bool" = False,
    ) -> "None":
        self._keep: list[object] = []  # C borrows what stands here until close()
        self._create: CData = None
        self.plan = plan
        request = self._request = ffi.new("struct host_request *")
        request.plan, request.plan_size = self._data(plan), len(plan)
        request.config, request.config_size = self._data(config), len(config)
        request.root, request.id = self._string(root), self._string(id)
        request.bundle, request.bundle_json = self._string(bundle), self._string(bundle_json)
        if pid_file is not None:
            request.pid_file = self._string(pid_file)
        if console_socket is not None:
            request.console_socket = self._string(console_socket)
        if pidfd_socket is not None:
            request.pidfd_socket = self._string(pidfd_socket)
        request.preserve_fds, request.stdio, request.deadline_ms = preserve_fds, stdio, deadline_ms
        request.program, request.console_as_is = program_fd(), console_as_is
        if extra:
            entries = ffi.new("struct host_extra[]", [(kind, self._string(name)) for kind, name in extra])
            self._keep.append(entries)
            request.extra, request.extra_count = entries, len(extra)
        if trace is not None:
            memory = ffi.from_buffer("struct wherry_span[]", trace[1], require_writable=True)
            self._keep.append(memory)
            request.trace_fd, request.trace = trace[0], memory

    def _data(self, data: "bytes") -> "CData":
        view = ffi.from_buffer(data)
        self._keep.append(view)
        return view

    def _string(self, text: "str") -> "CData":
        return ffi.cast("char *", self._data(_bytes(text)))  # bytes end with a NUL of their own

    def begin(self) -> "bool":
        """True: published. False: stopped at the plan's interlude."""
        self._create = lib.native_create_new()
        if self._create == ffi.NULL:
            self._create = None
            raise OSError(12, posix.strerror(12))
        if lib.host_create_begin(self._create, self._request) < 0:
            self._fail()
        return not self._create.waiting

    def finish(self) -> "bool":
        """From there on; the same answer."""
        if lib.host_create_finish(self._create) < 0:
            self._fail()
        return not self._create.waiting

    def begin_restore(self) -> "None":
        """In place of begin: all that comes before the launch. Then finish_restore() or abort()."""
        self._create = lib.native_create_new()
        if self._create == ffi.NULL:
            self._create = None
            raise OSError(12, posix.strerror(12))
        if lib.host_restore_begin(self._create, self._request) < 0:
            self._fail()

    def restore_steps(self, pid: "int" = 0) -> "None":
        """In between: prestart and createRuntime with that pid; without one the limits that wait for a unit of systemd. A failure undoes nothing."""
        if lib.host_restore_steps(self._create, lib.HOST_RESTORE_HOOKS if pid else lib.HOST_RESTORE_LIMITS, pid) < 0:
            raise _failure(self._create.failure)

    def finish_restore(self, pid: "int", master: "int" = -1) -> "None":
        """Publishes a child of ours as the container's init. `master` of its terminal, or -1, becomes the container's."""
        if lib.host_restore_finish(self._create, pid, master) < 0:
            self._fail()

    def execute(self, target: "int") -> "None":
        """In place of begin, for a plan of exec: returns once its program executes. `target`: a pidfd of the container's init."""
        self._request.target = target
        self._create = lib.native_create_new()
        if self._create == ffi.NULL:
            self._create = None
            raise OSError(12, posix.strerror(12))
        if lib.host_exec(self._create, self._request) < 0:
            self._fail()

    def _fail(self) -> "None":
        failure = _failure(self._create.failure, self._create.undo_error)
        self.close()
        raise failure

    def abort(self) -> "None":
        """Undoes everything, after the caller's own part failed; does not raise for what was gone already."""
        if self._create is None:
            return
        lib.host_create_abort(self._create)
        undo = self._create.undo_error
        self.close()
        if undo:
            raise OSError(undo, posix.strerror(undo))

    def mark(self, index: "int", state: "int") -> "None":
        """Journals the extra entry `index` as WHERRY_JOURNAL_BEGUN, _DONE, _UNDONE or _FOREIGN."""
        _check(lib.host_create_mark(self._create, index, state))

    def close(self) -> "None":
        """Closes what is open; idempotent."""
        create, self._create = self._create, None
        if create is not None:
            lib.host_create_release(create)
            lib.native_create_free(create)
        self._keep.clear()

    @property
    def pid(self) -> "int":
        """Of init, on the host; known from the interlude on."""
        value: int = self._create.machine.init
        return value

    @property
    def start_time(self) -> "int":
        value: int = self._create.start_time
        return value

    @property
    def pidfd(self) -> "int":
        """Of init; belongs to this object. See take_pidfd."""
        value: int = self._create.machine.init_pidfd
        return value

    @property
    def directory(self) -> "int":
        """Descriptor of <root>/<id>; belongs to this object."""
        value: int = self._create.directory
        return value

    def take_pidfd(self) -> "int":
        """The same, now the caller's to close."""
        value: int = self._create.machine.init_pidfd
        self._create.machine.init_pidfd = -1
        return value

    def take_console(self) -> "int":
        """Master of the pty where no console socket was named, now the caller's to close; -1 = none."""
        value: int = self._create.request.console_master
        self._create.request.console_master = -1
        return value

    def unlock(self) -> "None":
        """Lets start and delete go ahead while this object stays open."""
        _check(lib.native_unlock(self._create.directory))


class JournalEntry:
    """One thing on the host that belongs to a container."""

    __slots__ = ("kind", "made_depth", "mount_length", "path", "state")

    def __init__(self, kind: "int", state: "int", made_depth: "int", mount_length: "int", path: "str") -> "None":
        self.kind, self.state, self.made_depth, self.mount_length, self.path = kind, state, made_depth, mount_length, path


class Container:
    """A container by its record, opened with open_container(). What it tells is read anew each time; its record is a live mapping."""

    __slots__ = ("_container", "damage", "id")

    def __init__(self, root: "str", id: "str") -> "None":
        self.id = id
        self._container: CData = ffi.new("struct host_container *")
        error = lib.host_open(self._container, _bytes(root), _bytes(id))
        self.damage: int = -error
        """0, WHERRY_OTHER_BUILD (all works), or why there is no record: ENODATA, EBADMSG, WHERRY_WRONG_VERSION (lock and destroy work)."""

    @property
    def opened(self) -> "CData":
        """struct host_container, with a record."""
        _ = self._head
        return self._container

    @property
    def _head(self) -> "CData":
        head = self._container.head
        if head == ffi.NULL:
            raise Failure(self.damage or 9)
        return head

    def _piece(self, text: "CData") -> "bytes":
        base = ffi.cast("char *", self._head)
        piece: bytes = ffi.unpack(base + text.offset, text.length)
        return piece

    @property
    def pid(self) -> "int":
        value: int = self._head.pid
        return value

    @property
    def start_time(self) -> "int":
        value: int = self._head.start_time
        return value

    @property
    def owner_pid(self) -> "int":
        value: int = self._head.owner_pid
        return value

    @property
    def flags(self) -> "int":
        """WHERRY_PLAN_* bits of its plan."""
        value: int = self._head.flags
        return value

    @property
    def record_status(self) -> "int":
        value: int = self._head.status
        return value

    @property
    def boot_id(self) -> "str":
        return _text(self._head.boot_id)

    @property
    def head(self) -> "bytes":
        return self._piece(self._head.state_head)

    @property
    def middle(self) -> "bytes":
        return self._piece(self._head.state_middle)

    @property
    def tail(self) -> "bytes":
        return self._piece(self._head.state_tail)

    @property
    def directory(self) -> "int":
        """Descriptor of <root>/<id>; belongs to this object."""
        value: int = self._container.directory
        return value

    def kept(self, name: "str") -> "bytes":
        """A file of its directory: `plan` and `config.json` are what it was made from."""
        descriptor = posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW, dir_fd=self.directory)
        with open(descriptor, "rb") as file:
            return file.read()

    def state_json(self) -> "bytes":
        """What `state` prints: head, pid (0 when stopped), middle, status, tail."""
        status = self.status()
        pid = 0 if status == lib.HOST_STOPPED else self.pid
        return b"".join((self.head, b"%d" % pid, self.middle, STATUS_NAMES[status].encode(), self.tail))

    def status(self) -> "int":
        """HOST_CREATING, HOST_CREATED, HOST_RUNNING, HOST_STOPPED or HOST_PAUSED, as it is now."""
        return _check(lib.host_status(self._container))

    def journal(self) -> "list[JournalEntry]":
        head = self._head
        entries = ffi.cast("struct wherry_journal_entry *", ffi.cast("char *", head) + head.journal_offset)
        found = []
        for index in range(head.journal_count):
            entry = entries[index]
            path = self._piece(entry.path).decode(_ENCODING, _ERRORS)
            found.append(JournalEntry(entry.kind, entry.state, entry.made_depth, entry.mount_length, path))
        return found

    def lock(self, wait_ms: "int" = 0) -> "None":
        """BlockingIOError at the end of the wait, FileNotFoundError where the container has been deleted meanwhile."""
        _check(lib.host_lock(self._container, wait_ms), self.id)

    def unlock(self) -> "None":
        _check(lib.native_unlock(self._container.directory))

    def start(self) -> "None":
        """Failure from init where the program could not be executed; Failure(WHERRY_NOT_CREATED) where it is not in `created`."""
        message = ffi.new("struct wherry_message *")
        result = lib.host_start(self._container, message)
        if result < 0 and message.kind == lib.WHERRY_FAILED:
            raise _failure(message)
        _check(result, self.id)

    def signal(self, number: "int") -> "None":
        """To init. ProcessLookupError when it is gone."""
        _check(lib.host_signal(self._container, number), self.id)

    def signal_all(self, number: "int") -> "None":
        """To every process of its cgroup."""
        _check(lib.host_signal_all(self._container, number), self.id)

    def pidfd(self) -> "int":
        """A new pidfd of init, checked against its start time; the caller's to close. ProcessLookupError when it is gone."""
        return _check(lib.host_pidfd(self._container), self.id)

    def destroy(self, kill_first: "bool" = False) -> "None":
        """Removes cgroups and the state directory; what is gone already is no error."""
        _check(lib.host_destroy(self._container, kill_first), self.id)

    def close(self) -> "None":
        lib.host_close(self._container)

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: "object") -> "None":
        self.close()


def open_container(root: "str", id: "str", damaged: "bool" = False) -> "Container":
    """FileNotFoundError: no such container (or no such root). Failure: of another version, damaged, or without a record (ENODATA: claimed
    this moment, or its create died early); with `damaged` these come back as a Container that can be locked and destroyed, see `damage`."""
    container = Container(root, id)
    damage = container.damage
    if not damage or damage == lib.WHERRY_OTHER_BUILD or (damaged and container.directory >= 0):
        return container
    found = container.directory >= 0
    container.close()
    if found or damage >= lib.WHERRY_REFUSED_FIRST:
        raise Failure(damage)
    raise OSError(damage, posix.strerror(damage), root + "/" + id)


def facts_key() -> "str":
    """Fingerprint of the host facts that the plan compiler reads."""
    out = ffi.new("char[65]")
    _check(lib.host_facts_key(out))
    return _text(out)


class Pattern:
    """A configuration as the cache of plans sees it: its names there, and its blanks, the texts that differ from container to container.

    exact, pattern: file names. OSError(EBADMSG) where quotes or brackets do not match. With a container: of an exec in it, by its process.json
    (`file`) or by the command line as the front writes it down; `facts`: what facts_key() has said, if that still holds."""

    __slots__ = ("_config", "_read")

    def __init__(self, config: "bytes", options: "int" = 0, container: "Container | None" = None, file: "bool" = False, facts: "str" = "") -> None:
        self._config = config  # the blanks are in it
        self._read = ffi.new("struct host_pattern *")
        key, text = facts.encode() if facts else ffi.NULL, ffi.from_buffer(config)
        if container is None:
            _check(lib.host_pattern_read(self._read, text, len(config), options, key))
        else:
            _check(lib.host_exec_pattern(self._read, container.opened, file, text, len(config), key))

    @property
    def exact(self) -> "str":
        return _text(self._read.exact.hex)

    @property
    def pattern(self) -> "str":
        return _text(self._read.pattern.hex)

    def load(self, root: "str") -> "bytes | None":
        """The plan, decoded and checked once; None where there is none that fits this build."""
        return _loaded(lib.host_pattern_load, _bytes(root), self._read)

    def fill(self, plan: "bytes") -> "bytes":
        """The plan of this configuration from a pattern; nothing where it becomes too long."""
        return _loaded(lib.host_pattern_fill, self._read, ffi.from_buffer(plan), len(plan)) or b""

    def marked(self, first: "int" = 0, marks: "list[bytes] | None" = None) -> "bytes":
        """The configuration with a mark in each blank from the first one on: what it compiles to is a pattern. marks: others than usual."""
        base, marked, end = ffi.cast("char *", ffi.from_buffer(self._config)), b"", 0
        for index, blank in enumerate(self._read.blanks[first : self._read.count], first):
            marked += self._config[end : blank.text - base] + (marks[index] if marks else b"%s%02x}" % (BLANK, index))
            end = blank.text - base + blank.length
        return marked + self._config[end:]


BLANK = b"@{wherry:"  # WHERRY_BLANK


def exec_plan(container: "Container", root: "str", file: "bool", text: "bytes", facts: "str" = "") -> "bytes | None":
    """What the container has left for an exec, or one of its kind; None where there is nothing that fits."""
    key = facts.encode() if facts else ffi.NULL
    return None if container.damage else _loaded(lib.host_exec_plan, container.opened, _bytes(root), file, ffi.from_buffer(text), len(text), key)


def _loaded(load: "Callable[..., int]", *arguments: "object") -> "bytes | None":
    plan, size = ffi.new("void const **"), ffi.new("size_t *")
    if load(*arguments, plan, size) < 0:
        return None
    data = bytes(ffi.buffer(plan[0], size[0]))
    lib.native_unmap(plan[0], size[0])
    return data


def cache_store(root: "str", name: "str", plan: "bytes") -> "bool":
    """False where it could not be kept (which costs time alone)."""
    key = ffi.new("struct host_cache_key *")
    key.hex = name.encode()
    return bool(lib.host_cache_store(_bytes(root), key, ffi.from_buffer(plan), len(plan)) == 0)


def check_plan(plan: "bytes") -> "None":
    """Failure(WHERRY_BAD_PLAN, value=offset) or Failure(WHERRY_WRONG_VERSION) unless the decoder takes it."""
    where = ffi.new("uint64_t *")
    result = lib.native_check_plan(ffi.from_buffer(plan), len(plan), where)
    if result < 0:
        raise Failure(-result, value=where[0])


def _vector(texts: "Sequence[str]") -> "tuple[CData, list[CData]]":
    """A char *[] that ends with NULL, and what it points to."""
    strings = [ffi.new("char[]", _bytes(text)) for text in texts]
    return ffi.new("char *[]", [*strings, ffi.NULL]), strings


def run_hook(path: "str", argv: "Sequence[str]", env: "Sequence[str]", state: "bytes", timeout: "int" = 0) -> "None":
    """Failure(WHERRY_HOOK_FAILED, value=wait status), Failure(WHERRY_HOOK_TIMEOUT), or Failure with the errno of its execve."""
    arguments, _keep_arguments = _vector(argv or [path])
    environment, _keep_environment = _vector(env)
    message = ffi.new("struct wherry_message *")
    if lib.native_run_hook(_bytes(path), arguments, environment, state, len(state), timeout, message) < 0:
        raise _failure(message)


def pidfd_wait(pidfd: "int", timeout_ms: "int" = -1) -> "bool":
    """Waits for the end of any process: True when it has ended, False at the timeout or when a signal came in between. Does not reap."""
    result: int = lib.native_pidfd_wait(pidfd, timeout_ms)
    return False if result == -4 else _check(result) == 1


def pidfd_reap(pidfd: "int") -> "int":
    """Waits for a child of ours and reaps it: its exit status, 128 + signal where one killed it."""
    while True:
        result: int = lib.native_pidfd_reap(pidfd)
        if result != -4:  # EINTR: Python's handlers have run by now
            _check(result)
            return result - 128 if result >= 256 else result


def pidfd_signal(pidfd: "int", number: "int") -> "None":
    _check(lib.native_pidfd_signal(pidfd, number))


def kill_tree(pid: "int", pidfd: "int") -> "None":
    _check(lib.host_kill_tree(pid, pidfd))


def subreaper() -> "None":
    """From here on orphans among our descendants become our children."""
    _check(lib.native_subreaper())


def program_fd() -> "int":
    """The embedded static program as a sealed memfd, made once per process; never to be closed."""
    return _check(lib.native_program())


def seal(program: "bytes") -> "int":
    """A program as a sealed memfd, the caller's to close: who executes it leads nobody to a file of the host (CVE-2019-5736)."""
    return _check(lib.native_seal(ffi.from_buffer(program), len(program)))


def program_libc() -> "str":
    """What the embedded program is linked with: "musl" or "glibc"."""
    return _text(lib.native_program_libc())


def program_size() -> "int":
    return int(lib.native_program_size())


def build_id() -> "bytes":
    """16 bytes that the program, this extension and every plan and record of this build share."""
    return bytes(ffi.buffer(lib.wherry_build_id, lib.WHERRY_BUILD_ID_SIZE))


def sha256(data: "bytes") -> "bytes":
    out = ffi.new("uint8_t[32]")
    lib.sha256(ffi.from_buffer(data), len(data), out)
    return bytes(ffi.buffer(out))


def start_time(pid: "int") -> "int":
    """Field 22 of /proc/PID/stat. ProcessLookupError when there is no such process, or only a zombie."""
    out = ffi.new("uint64_t *")
    _check(lib.host_start_time(pid, out))
    return int(out[0])


def cgroup_kill(path: "str", v2: "bool") -> "None":
    """Every process below, recursively."""
    _check(lib.cgroup_kill(_bytes(path), v2), path)


def sizeof(struct: "str") -> "int":
    """Of a struct of plan.h, by name: sizeof("wherry_op_claim"). For the encoder's tests."""
    return int(ffi.sizeof("struct " + struct))


def offsetof(struct: "str", *field: "str") -> "int":
    return int(ffi.offsetof("struct " + struct, *field))
