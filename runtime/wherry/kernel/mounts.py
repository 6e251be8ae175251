# SPDX-License-Identifier: Apache-2.0
"""Mounts on the host, for those that prepare a root filesystem: the shim, and restore. create has its own, in C. OSError names the place."""

import posix

from wherry._native import ffi, lib
from wherry.kernel.native import _bytes, _check

_O_PATH = 0o10000000


def own_mounts() -> "int":
    """Into a mount namespace of our own, private. The process must have one thread. A descriptor for leave_mounts()."""
    return _check(lib.native_own_mounts())


def leave_mounts(before: "int") -> "None":
    _check(lib.native_leave_mounts(before))


def mount(source: "str", target: "str", type: "str", flags: "int", data: "str") -> "None":
    _check(lib.native_mount(_bytes(source), _bytes(target), _bytes(type), flags, _bytes(data)), target)


def unmount(target: "str", flags: "int") -> "None":
    _check(lib.native_unmount(_bytes(target), flags), target)


def fs_open(type: "str") -> "int":
    """A filesystem to be configured, and mounted by fs_mount; the descriptor is the caller's to close."""
    fd: int = lib.sys_fsopen(_bytes(type), 1)
    return _check(fd if fd >= 0 else -ffi.errno, type)


def fs_option(fs: "int", key: "str", value: "str | None" = None) -> "None":
    """A flag, or a key with its value."""
    _check(lib.native_fs_option(fs, 0 if value is None else 1, _bytes(key), ffi.NULL if value is None else _bytes(value)), key)


def fs_mount(fs: "int", attributes: "int", target: "str") -> "None":
    """MOUNT_ATTR_* and the place."""
    _check(lib.native_fs_mount(fs, attributes, _bytes(target)), target)


def make_inside(root: "int", path: "str", directory: "bool") -> "int":
    """An empty file or a directory, with what leads to it, below the directory that `root` is open for; no link leads out of it.

    What is there already is left as it is. An O_PATH descriptor of it, which is the caller's to close."""
    make = lib.securepath_make_directories if directory else lib.securepath_make_file
    return _check(make(root, _bytes(path), 0o755 if directory else 0o644), path)


def open_inside(root: "int", path: "str") -> "int":
    """An O_PATH descriptor of what is there; no link leads out of the directory that `root` is open for."""
    return _check(lib.securepath_open(root, _bytes(path), posix.O_CLOEXEC | _O_PATH, 0), path)
