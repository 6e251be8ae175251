# SPDX-License-Identifier: Apache-2.0
"""wherry features"""

import json
import sys
from pathlib import Path
from typing import Any

from wherry.cli import Call
from wherry.cli.version import libseccomp, release
from wherry.kernel import native
from wherry.kernel.trials import SECCOMP_FLAGS, seccomp_flag
from wherry.oci.features import Host, document

FLAGS: dict[str, int | str] = {}


def run(call: Call) -> int:
    call.positional(0, 0)
    print(json.dumps(features(), indent=2))
    return 0


def features() -> dict[str, Any]:
    """The document, of this host."""
    library = libseccomp()
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in SECCOMP_FLAGS if seccomp_flag(name)]
    host = Host(int(Path("/proc/sys/kernel/cap_last_cap").read_text()), flags, bool(library))
    facts = {"commit": native.build_id().hex(), "libseccomp": library, "python": sys.version.split()[0], "libc": native.program_libc()}
    return document(release(), host, **facts)
