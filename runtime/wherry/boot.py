# SPDX-License-Identifier: Apache-2.0
"""Where every interpreter that is wherry begins: the script `wherry-python` (the front's Python) and `python -m wherry`."""

import posix
import sys


def _fill_stdio() -> None:
    """Started with one of 0, 1, 2 closed: else what we open first would be written to as stdout."""
    while (descriptor := posix.open("/dev/null", posix.O_RDWR)) <= 2:
        posix.set_inheritable(descriptor, True)
    posix.close(descriptor)


def main() -> "int":
    """Runs the command line and ends the process at once: what the interpreter would tidy up is nothing of ours, and takes a millisecond."""
    from wherry.cli import main as run

    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        _fill_stdio()
    code = run(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        code = code or 1
    posix._exit(code)
    return code
