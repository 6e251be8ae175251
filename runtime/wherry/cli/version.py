# SPDX-License-Identifier: Apache-2.0
"""wherry version, wherry --version: lines that engines pick apart ("NAME version X", "commit: C", "spec: S")."""

import ctypes
import sys
from importlib import metadata

from wherry.cli import Call
from wherry.kernel import native
from wherry.oci.default import VERSION

FLAGS: dict[str, int | str] = {}


def run(call: Call) -> int:
    if call.flags is not call.globals:
        call.positional(0, 0)
    as_runc = call.name() == "runc"
    if as_runc:  # what asks runc for its version asks what it can do; the rest of the line says who does it
        from wherry.cli.runc import COMPATIBLE

        print(f"runc version {COMPATIBLE}+wherry.{release()}")
    else:
        print(f"wherry version {release()}")
    print(f"commit: {native.build_id().hex()}")
    print(f"spec: {VERSION}")
    if as_runc:
        print(f"wherry: {release()}")
    print(f"python: {sys.version.split()[0]}")
    print(f"program: {native.program_libc()}, {native.program_size()} bytes")
    library = libseccomp()
    if library:
        print(f"libseccomp: {library}")
    return 0


def release() -> str:
    try:
        return metadata.version("wherry")
    except metadata.PackageNotFoundError:
        return "unknown"


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


def libseccomp() -> str:
    """Its version; "" where there is no library."""
    try:
        function = ctypes.CDLL("libseccomp.so.2").seccomp_version
    except (OSError, AttributeError):
        return ""
    function.restype = ctypes.POINTER(_Version)
    found = function().contents
    return f"{found.major}.{found.minor}.{found.micro}"
