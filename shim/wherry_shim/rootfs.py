# SPDX-License-Identifier: Apache-2.0
"""The mounts that a Create brings for its root filesystem, in the notation of containerd: type, source, target, options.

All of this blocks as long as the file systems do: it is called in a thread.
"""

import posix

from wherry.kernel import mounts
from wherry_shim.errors import INVALID_ARGUMENT, UNKNOWN, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _SYNC, _REMOUNT, _DIRSYNC = 1, 2, 4, 8, 16, 32, 128
_NOSYMFOLLOW, _NOATIME, _NODIRATIME, _BIND, _REC, _SILENT = 256, 1024, 2048, 4096, 16384, 32768
_UNBINDABLE, _PRIVATE, _SLAVE, _SHARED, _RELATIME, _STRICTATIME = 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 24

_FLAGS = {
    "ro": (_RDONLY, 0), "rw": (0, _RDONLY), "nosuid": (_NOSUID, 0), "suid": (0, _NOSUID), "nodev": (_NODEV, 0), "dev": (0, _NODEV),
    "noexec": (_NOEXEC, 0), "exec": (0, _NOEXEC), "sync": (_SYNC, 0), "async": (0, _SYNC), "dirsync": (_DIRSYNC, 0),
    "noatime": (_NOATIME, 0), "atime": (0, _NOATIME), "nodiratime": (_NODIRATIME, 0), "diratime": (0, _NODIRATIME),
    "relatime": (_RELATIME, 0), "norelatime": (0, _RELATIME), "strictatime": (_STRICTATIME, 0), "nostrictatime": (0, _STRICTATIME),
    "bind": (_BIND, 0), "rbind": (_BIND | _REC, 0), "remount": (_REMOUNT, 0), "nosymfollow": (_NOSYMFOLLOW, 0), "defaults": (0, 0),
    "silent": (_SILENT, 0), "loud": (0, _SILENT),
}
_PROPAGATION = {
    "private": _PRIVATE, "rprivate": _PRIVATE | _REC, "slave": _SLAVE, "rslave": _SLAVE | _REC,
    "shared": _SHARED, "rshared": _SHARED | _REC, "unbindable": _UNBINDABLE, "runbindable": _UNBINDABLE | _REC,
}
_PAGE = 4096  # what mount(2) takes of data, NUL included
_DETACH, _NO_FOLLOW = 2, 8
_MAX_LAYERS = 1024


def mount_all(mounts: "Sequence[Message]", target: str) -> None:
    """All of them onto `target`, in order. Where one fails nothing is left mounted."""
    for index, mount in enumerate(mounts):
        try:
            _mount(mount, _place(target, mount.get("target") or ""))
        except OSError as error:
            unmount_all(target)
            text = f"mount rootfs component {index} ({mount.get('type') or 'bind'}, from {mount.get('source') or 'none'}): {error.strerror}"
            raise ShimError(UNKNOWN, f"failed to {text.lower()}") from error
        except ShimError:
            unmount_all(target)
            raise


def unmount_all(target: str) -> None:
    """Whatever is mounted there, with all below it; that nothing is, or no such place, is no error."""
    for _ in range(_MAX_LAYERS):
        try:
            mounts.unmount(target, _DETACH | _NO_FOLLOW)
        except OSError as error:
            if error.errno in (2, 20, 22):  # no such place, no directory, no mount
                return
            raise


def _place(target: str, below: str) -> str:
    parts = [part for part in below.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ShimError(INVALID_ARGUMENT, f"mount target {below!r} is not below the root filesystem")
    return "/".join((target, *parts))


def _mount(mount: "Message", target: str) -> None:
    flags, propagation, data = _read(mount.get("options") or ())
    kind, source = mount.get("type") or "", mount.get("source") or ""
    if kind in ("bind", "rbind"):
        flags |= _BIND | (_REC if kind == "rbind" else 0)
    if not flags & _BIND and sum(len(option) + 1 for option in data) >= _PAGE:
        _mount_long(kind, source, flags, data, target)
    else:
        mounts.mount(source, target, kind, flags, ",".join(data))
    if flags & _BIND and flags & ~(_BIND | _REC | _SILENT):  # a bind takes its flags only when it is mounted once more
        mounts.mount("", target, "", flags | _REMOUNT, "")
    if propagation:
        mounts.mount("", target, "", propagation, "")


def _read(options: "Sequence[str]") -> "tuple[int, int, list[str]]":
    flags = propagation = 0
    data = []
    for option in options:
        if option in _FLAGS:
            add, remove = _FLAGS[option]
            flags = (flags | add) & ~remove
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option != "loop":
            data.append(option)
    return flags, propagation, data


_ATTRIBUTES = {_RDONLY: 1, _NOSUID: 2, _NODEV: 4, _NOEXEC: 8, _NOATIME: 0x10, _STRICTATIME: 0x20, _NODIRATIME: 0x80, _NOSYMFOLLOW: 0x200000}


def _mount_long(kind: str, source: str, flags: int, data: "list[str]", target: str) -> None:
    """An overlay of many layers: each by a call of its own (`lowerdir+`, Linux 6.5), or by short names for them."""
    try:
        fs = mounts.fs_open(kind)
    except OSError:
        return _mount_short(kind, source, flags, data, target)
    try:
        if source:
            mounts.fs_option(fs, "source", source)
        for option in data:
            key, equal, value = option.partition("=")
            if key == "lowerdir" and equal:
                for layer in _layers(value):
                    mounts.fs_option(fs, "lowerdir+", layer)
            else:
                mounts.fs_option(fs, key, value if equal else None)
        if flags & _RDONLY:
            mounts.fs_option(fs, "ro")
        mounts.fs_mount(fs, sum(bit for flag, bit in _ATTRIBUTES.items() if flags & flag), target)
    except OSError as error:
        if error.errno != 22:
            raise
        _mount_short(kind, source, flags, data, target)
    finally:
        posix.close(fs)


def _layers(text: str) -> "list[str]":
    r"""Of lowerdir=A:B: what "\:" stands in is one name."""
    layers = [""]
    escaped = False
    for letter in text:
        if escaped or letter not in "\\:":
            layers[-1] += letter
            escaped = False
        elif letter == "\\":
            escaped = True
        else:
            layers.append("")
    return layers


def _mount_short(kind: str, source: str, flags: int, data: "list[str]", target: str) -> None:
    """Older kernels: a descriptor of a layer has a name of twenty letters."""
    descriptors: "list[int]" = []
    short = []
    try:
        for option in data:
            if option.startswith("lowerdir="):
                names = []
                for layer in _layers(option[9:]):
                    descriptors.append(posix.open(layer, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC))
                    names.append(f"/proc/self/fd/{descriptors[-1]}")
                option = "lowerdir=" + ":".join(names)
            short.append(option)
        mounts.mount(source, target, kind, flags, ",".join(short))
    finally:
        for descriptor in descriptors:
            posix.close(descriptor)
