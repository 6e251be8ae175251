# SPDX-License-Identifier: Apache-2.0
"""The tests' own CRIU 4: that of the Debian which this is built for is too old for newer kernels."""

import subprocess
from functools import cache
from pathlib import Path

KIT = Path.home() / ".cache/wherry-criu"


@cache
def kit() -> str:
    """"" or why there is none."""
    script = Path(__file__).parents[1] / "hosts/criu.sh"
    done = subprocess.run([str(script), str(KIT)], capture_output=True, text=True, timeout=300)
    return "" if done.returncode == 0 else done.stderr.strip() or "it does not run"
