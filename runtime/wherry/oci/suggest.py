# SPDX-License-Identifier: Apache-2.0
"""What a misspelt name may have meant. Loaded only to word a finding."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A remedy, or None."""
    names = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), names, n=1, cutoff=0.75)
    return f"did you mean {names[close[0]]}?" if close else None
