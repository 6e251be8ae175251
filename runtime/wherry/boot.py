# SPDX-License-Identifier: Apache-2.0
"""Where every interpreter that is wherry begins: the script `wherry-python` (the front's Python) and `python -m wherry`."""

import posix
import sys


def main() -> "int":
    """Runs the command line and ends the process at once: what the interpreter would tidy up is nothing of ours, and takes a millisecond."""
    from wherry.cli import main as run

    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    posix._exit(code)
    return code
