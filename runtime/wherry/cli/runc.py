# SPDX-License-Identifier: Apache-2.0
"""Called by the name runc (a link to wherry in runc's place), its words are those that scripts know of runc. Loaded only then.

What is different under that name: the first line of --version, the name in the help, and the beginning of an error. Nothing else is: the
same verbs, defaults and state directory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wherry.errors import WherryError

COMPATIBLE = "1.4.0"
"""The release of runc whose command line, texts and specification (1.3) these are. What asks for a version asks for that."""

_FAILS = ("create", "run", "restore")


def worded(error: WherryError, text: str, verb: str) -> str:
    """As runc begins it; what wherry knows more stands behind it."""
    facts = error.facts
    if facts.get("interpreter"):  # the program was there and could not be executed: runc's init says that alone
        return error.message.partition(" (")[0]
    if verb not in _FAILS:
        return text
    if error.code.split("-")[1] in ("LAUNCH", "HOOK"):
        if "mounted" in facts:
            text = f'error mounting "{facts["mounted"]}" to rootfs at "{facts["destination"]}": {text}'
        text = f"unable to start container process: error during container init: {text}"
    return f"runc {verb} failed: {text}"
