# SPDX-License-Identifier: Apache-2.0
"""Whether a person looks at the output. Where rich is not installed, nobody does: the plain form is printed."""

import os
from importlib.util import find_spec
from typing import TextIO


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and find_spec("rich") is not None


def columns(stream: TextIO) -> int:
    """Of the terminal; a pty that nobody has sized says 0."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
