# SPDX-License-Identifier: Apache-2.0
"""wherry version, wherry --version: lines that engines pick apart ("NAME version X", "commit: C", "spec: S")."""

from importlib.metadata import PackageNotFoundError, version

from wherry.cli import Call
from wherry.kernel import native

FLAGS: dict[str, int | str] = {}

SPECIFICATION = "1.3.0"


def run(call: Call) -> int:
    if call.flags is not call.globals:
        call.positional(0, 0)
    for line in lines():
        print(line)
    return 0


def lines() -> list[str]:
    import sys

    try:
        release = version("wherry")
    except PackageNotFoundError:
        release = "unknown"
    return [
        f"wherry version {release}",
        f"commit: {native.build_id().hex()}",
        f"spec: {SPECIFICATION}",
        f"python: {sys.version.split()[0]}",
        f"program: {native.program_libc()}, {native.program_size()} bytes",
        *_libseccomp(),
    ]


def _libseccomp() -> list[str]:
    """Its version, as engines look for it; no line where there is no library."""
    import ctypes

    class Version(ctypes.Structure):
        _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))

    try:
        function = ctypes.CDLL("libseccomp.so.2").seccomp_version
    except (OSError, AttributeError):
        return []
    function.restype = ctypes.POINTER(Version)
    found = function().contents
    return [f"libseccomp: {found.major}.{found.minor}.{found.micro}"]
