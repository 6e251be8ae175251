# SPDX-License-Identifier: Apache-2.0
"""wherry validate [BUNDLE or config.json, - for stdin]"""

import json
import sys
from pathlib import Path

from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.container.options import absolute, read_file
from wherry.errors import UsageError
from wherry.oci.validate import Result, validate

FLAGS: dict[str, int | str] = {"bundle": TEXT, "b": "bundle", "format": TEXT, "f": "format", "json": BOOL, "strict": BOOL}


def run(call: Call) -> int:
    words = call.positional(0, 1)
    kind = "json" if call.flags.on("json") else call.flags.text("format") or "text"
    if kind not in ("text", "json"):
        raise UsageError(f'invalid value "{kind}" for flag -format: text or json')
    result = _result(words[0] if words else call.flags.text("bundle") or ".")
    if kind == "json":
        print(json.dumps(result.document(), indent=2))
    else:
        for line in result.lines():
            print(line)
    return 0 if result.valid and not (call.flags.on("strict") and result.count("warning")) else 1


def _result(place: str) -> Result:
    """A directory is a bundle; a file is a configuration, whose bundle is not looked at."""
    if place == "-":
        return validate(sys.stdin.buffer.read(), "stdin")
    path = Path(absolute(place))
    bundle = path if path.is_dir() else None
    file = path / "config.json" if bundle else path
    try:
        data = read_file(str(file))
    except OSError as error:
        raise UsageError(f"{file}: {(error.strerror or '').lower()}", code="WHERRY-USAGE-BUNDLE") from error
    return validate(data, str(file), bundle)
