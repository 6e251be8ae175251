# SPDX-License-Identifier: Apache-2.0
"""Compiled seccomp filters, kept by content: a profile is compiled once (16 ms for Docker's), then read (0.1 ms).

A file holds the filter of one section, named by a hash of the section, this machine's architecture and the format's version, in a
directory that only its owner may enter. A cache that cannot be read or written costs time, never correctness.
"""

import posix

try:
    from _sha256 import sha256
except ImportError:  # CPython 3.12 and newer
    from _sha2 import sha256  # type: ignore[import-not-found, no-redef, unused-ignore]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FORMAT = "wherry seccomp 1"
_LIMIT = 4096 * 8  # BPF_MAXINSNS instructions of 8 bytes

# SECCOMP_FILTER_FLAG_*, linux/seccomp.h. TSYNC is about the other threads of the process: init has none, so it is taken for said and left out,
# as in runc (the kernel wants yet another flag where it meets a listener).
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
NEW_LISTENER = 8


def flags_of(section: "dict[str, Any]") -> int:
    """Bits for seccomp(2). No `flags` at all means SPEC_ALLOW, as in runc; an empty list means none."""
    names = section.get("flags")
    if names is None:
        bits = 4
    else:
        bits = 0
        for name in names:
            bits |= _FLAGS[name]
    if uses_notify(section):
        bits |= NEW_LISTENER
    return bits


def uses_notify(section: "dict[str, Any]") -> bool:
    """Whether a rule hands its system calls to a listener."""
    return any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in section.get("syscalls") or ())


def filter_of(section: "dict[str, Any]", root: str) -> bytes:
    """struct sock_filter[] of linux.seccomp; `root` is the state root, whose directory `@seccomp` is the cache. Raises ConfigError."""
    directory = f"{root}/@seccomp"  # "@" is in no container id
    text = f"{_FORMAT}\0{posix.uname().machine}\0{section!r}"
    path = f"{directory}/{sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"
    found = _read(path)
    if found:
        return found
    from .compile import compile_section  # 26 ms of imports, and then the compiling

    program = compile_section(section)
    _write(directory, path, program)
    return program


def _read(path: str) -> bytes:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        status = posix.fstat(fd)
        if status.st_uid != posix.geteuid() or status.st_mode & 0o022 or status.st_size % 8 or not 0 < status.st_size <= _LIMIT:
            return b""
        return posix.read(fd, _LIMIT)
    finally:
        posix.close(fd)


def _write(directory: str, path: str, program: bytes) -> None:
    temporary = f"{path}.{posix.getpid()}"
    try:
        for name in (directory.rpartition("/")[0], directory):
            try:
                posix.mkdir(name, 0o700)
            except FileExistsError:
                pass
        fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC | posix.O_NOFOLLOW, 0o600)
        try:
            posix.write(fd, program)
        finally:
            posix.close(fd)
        posix.rename(temporary, path)
    except OSError:
        pass  # compiled again next time
