# SPDX-License-Identifier: Apache-2.0
"""What this host can do, found out by doing it. Each trial runs in a child of its own, in namespaces of its own, and ends with it.

    results = attempt(["mount namespace", "seccomp"])     # {"mount namespace": {"value": None}, "seccomp": {"errno": 38, "call": "seccomp"}}

`attempt` starts a fresh interpreter that forks for each trial: the caller may have threads. Nothing of a trial outlives it but a
cgroup directory, which is removed by the trial, or by its parent where the trial was killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Trial = Callable[[], Any]
TRIALS: dict[str, Trial] = {}

TIMEOUT_S = 5.0
CGROUP_NAME = "wherry-doctor-"
"""And the pid of the interpreter that serves the trials."""

NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
NAMESPACES = {
    "mount": NEWNS, "pid": NEWPID, "network": NEWNET, "ipc": NEWIPC, "uts": NEWUTS, "cgroup": NEWCGROUP, "time": NEWTIME,
}  # fmt: skip

_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_CLOEXEC = os.O_CLOEXEC
_CAP_SYS_ADMIN = 21

# The same number on every architecture, since Linux 5.1.
_COMMON = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "clone3": 435, "openat2": 437,
    "mount_setattr": 442, "landlock_create_ruleset": 444,
}  # fmt: skip
_ASM_GENERIC = {"bpf": 280, "seccomp": 277, "keyctl": 219}
_OWN_NUMBERS = {
    "x86_64": {"bpf": 321, "seccomp": 317, "keyctl": 250},
    "ppc64le": {"bpf": 361, "seccomp": 358, "keyctl": 271},
    "s390x": {"bpf": 351, "seccomp": 348, "keyctl": 280},
    **dict.fromkeys(("aarch64", "riscv64", "loongarch64"), _ASM_GENERIC),
}
_libc = ctypes.CDLL(None, use_errno=True)


class Refused(OSError):
    """A system call's refusal; `strerror` is the call's name."""


def call(name: str, *arguments: Any) -> int:
    """One system call by its number. OSError carries errno and the call's name."""
    number = _COMMON.get(name) or _OWN_NUMBERS.get(os.uname().machine, {}).get(name)
    if number is None:
        raise Refused(38, name)
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise Refused(ctypes.get_errno(), name)
    return int(result)


def _function(name: str, *arguments: Any) -> int:
    result = getattr(_libc, name)(*arguments)
    if result < 0:
        raise Refused(ctypes.get_errno(), name)
    return int(result)


def trial(name: str) -> Callable[[Trial], Trial]:
    def add(function: Trial) -> Trial:
        TRIALS[name] = function
        return function

    return add


# ---- the two sides of an attempt


def attempt(names: list[str]) -> dict[str, dict[str, Any]]:
    """Result by name: {"value": ...}, or {"errno": number, "call": name}; errno 110 where a trial did not end in time."""
    script = f"import sys; sys.path[:] = {sys.path!r}; from wherry.kernel.trials import serve; serve()"
    limit = TIMEOUT_S * (len(names) + 1)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], input=json.dumps(names), capture_output=True, text=True, timeout=limit, env={}
    )
    if done.returncode:
        raise ChildProcessError(10, f"the trials ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    results: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return results


def serve() -> None:
    """The fresh interpreter: names from stdin, results to stdout."""
    results = {name: _in_child(TRIALS[name]) for name in json.load(sys.stdin)}
    remove_cgroups()
    json.dump(results, sys.stdout)


def _in_child(function: Trial) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()  # noqa: TID251 - this interpreter has one thread, and makes no container
    if pid == 0:
        os.close(reader)
        os._exit(_report(function, writer))
    os.close(writer)
    try:
        return _answer(reader, pid)
    finally:
        os.close(reader)


def _report(function: Trial, writer: int) -> int:
    os.setpgid(0, 0)  # what the trial starts ends with it
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        result = {"value": function()}
    except OSError as error:
        result = {"errno": error.errno or 5, "call": error.strerror if isinstance(error, Refused) else error.filename or ""}
    except Exception as error:
        result = {"errno": 5, "call": f"{type(error).__name__}: {error}"}
    os.write(writer, json.dumps(result).encode())
    return 0


def _answer(reader: int, pid: int) -> dict[str, Any]:
    data, deadline = b"", time.monotonic() + TIMEOUT_S
    while (left := deadline - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            break
        data += chunk
    for kill, target in ((os.killpg, pid), (os.kill, pid)):
        try:
            kill(target, signal.SIGKILL)
        except ProcessLookupError:
            pass
    os.waitpid(pid, 0)
    result: dict[str, Any] = json.loads(data) if data else {"errno": 110, "call": "the trial did not end in time"}
    return result


def _waited(pid: int) -> int:
    """The child's exit status, as the errno that it stands for."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _forked(function: Callable[[], object]) -> None:
    """In one more child: what a new PID namespace needs. Its OSError becomes ours."""
    pid = os.fork()  # noqa: TID251 - as above
    if pid == 0:
        try:
            function()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 5)
    status = _waited(pid)
    if status:
        raise Refused(abs(status), getattr(function, "__name__", "").strip("_"))


# ---- where a trial stands


def privileged() -> bool:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def enter(flags: int) -> None:
    """New namespaces: those of an ordinary user begin with a user namespace, where it is root."""
    if not privileged():
        own_user_namespace()
    if flags:
        _function("unshare", flags)
    if flags & NEWNS:
        _function("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)


def own_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _function("unshare", NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _new_filesystem(kind: str) -> int:
    """A mount of a new filesystem, attached nowhere."""
    context = call("fsopen", kind.encode(), 1)
    call("fsconfig", context, 6, None, None, 0)
    return call("fsmount", context, 1, 0)


def _host_tree(path: str = "/") -> int:
    return call("open_tree", _AT_FDCWD, os.fsencode(path), 1 | _CLOEXEC | _AT_RECURSIVE)


class _MountAttributes(ctypes.Structure):
    _fields_ = (("set", ctypes.c_uint64), ("clear", ctypes.c_uint64), ("propagation", ctypes.c_uint64), ("userns", ctypes.c_uint64))


def _set_attributes(tree: int, flags: int, set_: int, userns: int = 0) -> None:
    attributes = _MountAttributes(set_, 0, 0, userns)
    call("mount_setattr", tree, b"", flags | _AT_EMPTY_PATH, ctypes.byref(attributes), ctypes.sizeof(attributes))


# ---- namespaces


@trial("user namespace")
def _user() -> None:
    """Some kernels let it be made and refuse what it is for: then the mount namespace inside fails."""
    own_user_namespace()
    _function("unshare", NEWNS)
    _function("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)


def _namespace(kind: str, flag: int) -> None:
    def attempt_it() -> None:
        enter(flag)
        if flag in (NEWPID, NEWTIME):
            _forked(os.getpid)

    TRIALS[f"{kind} namespace"] = attempt_it


for _kind, _flag in NAMESPACES.items():
    _namespace(_kind, _flag)


# ---- mounts


@trial("fsopen")
def _fsopen() -> None:
    enter(NEWNS)
    _new_filesystem("tmpfs")


@trial("open_tree")
def _open_tree() -> None:
    enter(NEWNS)
    _host_tree()


@trial("move_mount")
def _move_mount() -> None:
    enter(NEWNS)
    call("move_mount", _new_filesystem("tmpfs"), b"", _AT_FDCWD, b"/proc", 4)


@trial("mount_setattr")
def _mount_setattr() -> None:
    enter(NEWNS)
    _set_attributes(_new_filesystem("tmpfs"), 0, 0x1 | 0x2 | 0x4 | 0x8)
    _set_attributes(_host_tree(), _AT_RECURSIVE, 0x1)


@trial("nosymfollow")
def _nosymfollow() -> None:
    enter(NEWNS)
    _set_attributes(_new_filesystem("tmpfs"), 0, 0x200000)


def _fresh(kind: str, flags: int) -> None:
    def attempt_it() -> None:
        enter(NEWNS | flags)
        _forked(lambda: _new_filesystem(kind))

    TRIALS[f"fresh {kind}"] = attempt_it


for _kind, _flag in (("proc", NEWPID), ("sysfs", NEWNET), ("mqueue", NEWIPC), ("devpts", 0)):
    _fresh(_kind, _flag)


@trial("device nodes")
def _device_nodes() -> None:
    enter(NEWNS)
    call("move_mount", _new_filesystem("tmpfs"), b"", _AT_FDCWD, b"/proc", 4)
    os.mknod("/proc/null", 0o20666, os.makedev(1, 3))
    os.close(os.open("/proc/null", os.O_RDWR))


_PSEUDO = frozenset(
    "proc sysfs cgroup cgroup2 devtmpfs devpts mqueue securityfs debugfs tracefs bpf pstore configfs fusectl hugetlbfs binfmt_misc "
    "autofs rpc_pipefs nsfs efivarfs selinuxfs".split()
)
_REMOTE = frozenset("nfs nfs4 cifs smb3 ceph glusterfs lustre afs 9p".split())


@trial("idmapped mounts")
def _idmapped() -> dict[str, int]:
    """errno by file system type: of a new tmpfs, and of one mount of each type that is there. A server that does not answer is not asked."""
    enter(NEWNS)
    userns = _mapped_namespace()
    found = {"tmpfs": errno_of(lambda: _set_attributes(_new_filesystem("tmpfs"), 0, 0x100000, userns))}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split()
            kind, place = fields[fields.index("-") + 1], fields[4].replace("\\040", " ")
            if kind not in _PSEUDO and kind not in _REMOTE and not kind.startswith("fuse") and (kind not in found or found[kind] == 2):
                found[kind] = errno_of(lambda place=place: _set_attributes(_host_tree(place), 0, 0x100000, userns))  # type: ignore[misc]
    return found


def _mapped_namespace() -> int:
    """A user namespace with other ids than ours, as a descriptor."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()  # noqa: TID251 - as above
    if pid == 0:
        code = errno_of(lambda: _function("unshare", NEWUSER))
        os.write(ready[1], bytes([code]))
        os.read(go[0], 1)
        os._exit(0)
    try:
        code = os.read(ready[0], 1)[0]
        if code:
            raise Refused(code, "unshare")
        for name, text in (("setgroups", "deny"), ("uid_map", "1 0 1"), ("gid_map", "1 0 1")):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(text)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | _CLOEXEC)
    finally:
        os.write(go[1], b"x")
        _waited(pid)


def errno_of(function: Callable[[], object]) -> int:
    try:
        function()
    except OSError as error:
        return error.errno or 5
    return 0


# ---- processes and files


class _CloneArguments(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in "flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup".split()
    )


def clone3(flags: int = 0, cgroup: int = 0) -> None:
    arguments = _CloneArguments(flags=flags, exit_signal=signal.SIGCHLD, cgroup=cgroup)
    pid = call("clone3", ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid == 0:
        os._exit(0)
    _waited(pid)


TRIALS["clone3"] = clone3


@trial("openat2")
def _openat2() -> None:
    how = (ctypes.c_uint64 * 3)(os.O_PATH | _CLOEXEC, 0, 0x10)  # RESOLVE_IN_ROOT
    call("openat2", _AT_FDCWD, b"/", ctypes.byref(how), ctypes.sizeof(how))


@trial("pidfd")
def _pidfd() -> None:
    pid = os.fork()  # noqa: TID251 - as above
    if pid == 0:
        signal.pause()
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.waitid(os.P_PIDFD, descriptor, os.WEXITED)


@trial("executable memfd")
def _executable_memfd() -> None:
    """As a container's first process is started: sealed, then executed. MFD_EXEC where the kernel knows it."""
    program = next(path for path in ("/bin/true", "/usr/bin/true", sys.executable) if os.access(path, os.X_OK))
    try:
        descriptor = os.memfd_create("trial", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | 0x10)
    except OSError:
        descriptor = os.memfd_create("trial", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(program, "rb") as file:
        while chunk := file.read(1 << 20):
            os.write(descriptor, chunk)
    import fcntl

    fcntl.fcntl(descriptor, 1033, 0x1 | 0x2 | 0x4 | 0x8)  # F_ADD_SEALS
    _forked(lambda: os.execve(descriptor, ["true", "-I", "-S", "-c", ""], {}))


@trial("raise hard limits")
def _raise_hard_limits() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1 if hard != resource.RLIM_INFINITY else hard))
    except ValueError:  # what Python makes of EPERM
        raise Refused(1, "setrlimit") from None


@trial("lower oom_score_adj")
def _lower_oom_score() -> None:
    with open("/proc/self/oom_score_adj", "r+") as file:
        now = int(file.read())
        file.seek(0)
        file.write(str(max(now - 1, -1000)))


@trial("keyring")
def _keyring() -> None:
    call("keyctl", 1, None)  # KEYCTL_JOIN_SESSION_KEYRING, anonymous


# ---- security


SECCOMP_ACTIONS = {
    "KILL_PROCESS": 0x80000000, "KILL_THREAD": 0, "TRAP": 0x30000, "ERRNO": 0x50000, "NOTIFY": 0x7FC00000, "TRACE": 0x7FF00000,
    "LOG": 0x7FFC0000, "ALLOW": 0x7FFF0000,
}  # fmt: skip
SECCOMP_FLAGS = {"TSYNC": 1, "LOG": 2, "SPEC_ALLOW": 4, "NEW_LISTENER": 8, "WAIT_KILLABLE_RECV": 0x20}


def seccomp_flag(name: str) -> bool:
    """Whether the kernel knows it: then it looks for the filter, which is not there (EFAULT). Loads nothing; safe anywhere."""
    bits = SECCOMP_FLAGS[name] | (SECCOMP_FLAGS["NEW_LISTENER"] if name == "WAIT_KILLABLE_RECV" else 0)
    return errno_of(lambda: call("seccomp", 1, bits, None)) == 14


@trial("seccomp")
def _seccomp() -> dict[str, list[str]]:
    number = errno_of(lambda: call("seccomp", 1, 0, None))
    if number != 14:
        raise Refused(number or 5, "seccomp")
    actions = [name for name, value in SECCOMP_ACTIONS.items() if not errno_of(lambda value=value: _action(value))]  # type: ignore[misc]
    return {"actions": actions, "flags": [name for name in SECCOMP_FLAGS if seccomp_flag(name)]}


def _action(value: int) -> None:
    call("seccomp", 2, 0, ctypes.byref(ctypes.c_uint32(value)))


@trial("landlock")
def _landlock() -> int:
    return call("landlock_create_ruleset", None, 0, 1)


# ---- newuidmap


@trial("newuidmap")
def _newuidmap() -> None:
    """A range of subordinate ids for a user namespace, as a rootless container gets it."""
    import pwd

    uid, gid = os.geteuid(), os.getegid()
    name = pwd.getpwuid(uid).pw_name
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()  # noqa: TID251 - as above
    if pid == 0:
        os.write(ready[1], bytes([errno_of(lambda: _function("unshare", NEWUSER))]))
        os.read(go[0], 1)
        os._exit(0)
    try:
        code = os.read(ready[0], 1)[0]
        if code:
            raise Refused(code, "unshare")
        for program, own, file in (("newuidmap", uid, "/etc/subuid"), ("newgidmap", gid, "/etc/subgid")):
            start, count = subordinate(file, name, uid)
            done = subprocess.run(
                [_program(program), str(pid), "0", str(own), "1", "1", str(start), str(count)], env={}, capture_output=True, timeout=3
            )
            if done.returncode:
                raise Refused(1, program)
    finally:
        os.write(go[1], b"x")
        _waited(pid)


def subordinate(file: str, name: str, uid: int) -> tuple[int, int]:
    """The first range of a user; Refused with ENOENT where there is none."""
    try:
        with open(file) as lines:
            for line in lines:
                owner, _, rest = line.strip().partition(":")
                start, _, count = rest.partition(":")
                if owner in (name, str(uid)) and start.isdecimal() and count.isdecimal() and int(count):
                    return int(start), int(count)
    except OSError:
        pass
    raise Refused(2, file)


def _program(name: str) -> str:
    from wherry.kernel.hostfacts import _program as find

    path = find(name)
    if not path:
        raise Refused(2, name)
    return path


from wherry.kernel.trials_cgroup import remove_cgroups  # noqa: E402 - it adds its trials to the table above
