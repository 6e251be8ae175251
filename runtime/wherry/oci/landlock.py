# SPDX-License-Identifier: Apache-2.0
"""The annotation by which a configuration asks for Landlock. specs/decisions/0010-landlock.md says why it is one. Loaded when it is there."""

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.oci.shape import Report

KEY = "org.wherry.landlock"
POINTER = f"/annotations/{KEY}"
KINDS = ("read", "use", "write")
"""What may be done below a path: read and execute; that, and write to the files which are there; everything."""


def check(text: str, report: "Report") -> None:
    try:
        parse(text)
    except ValueError as error:
        report.error("VALUE", POINTER, str(error), 'as {"read": ["/"], "write": ["/tmp"]}')


def parse(text: str) -> "list[tuple[str, str]]":
    """(kind, path) of each rule. ValueError says what is wrong."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}".lower()) from None
    if not isinstance(value, dict) or set(value) - set(KINDS):
        raise ValueError(f"not an object of {', '.join(KINDS)}")
    rules = []
    for kind in KINDS:
        paths = value.get(kind, [])
        if not isinstance(paths, list) or not all(isinstance(path, str) and path[:1] == "/" and "\0" not in path for path in paths):
            raise ValueError(f"{kind} is not a list of absolute paths")
        rules += [(kind, path) for path in paths]
    return rules
