# SPDX-License-Identifier: Apache-2.0
"""wherry man DIR: the man pages, one of the program and one of each verb, from the tables that the help is printed from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wherry.cli import Call
from wherry.cli.catalogue import Flag, Verb, global_flags, verbs
from wherry.cli.version import release
from wherry.errors import UsageError

FLAGS: dict[str, int | str] = {}

_ABOUT = """\
.B wherry
is a low-level container runtime: it makes containers from bundles, as the OCI runtime specification describes them, for containerd, Docker,
Podman, Buildah and CRI-O, and for a person.
A bundle is a directory with a
.I config.json
and a root filesystem.
.PP
Flags may be written with one dash or two, and their values behind a blank or an equals sign; they may stand behind the positional arguments,
but for
.B exec
and
.BR ps ,
where what follows the container's ID belongs to another program. Two dashes end them.
"""

_FILES = {
    "/run/wherry": "where containers are kept, for root",
    "$XDG_RUNTIME_DIR/wherry": "where containers are kept, for others",
}
_EXIT = (
    "0 on success; 1 on an error, of which stderr has one line; 255 where exec could not run the process, 124 where its "
    "--timeout has ended it. An attached run or exec ends with the status of the container's process, 128 and the number of the signal where one has killed it."
)


def run(call: Call) -> int:
    (name,) = call.positional(1, 1)
    place = Path(name)
    if not place.is_dir():
        raise UsageError(f"{name}: no such directory", code="WHERRY-USAGE-FILE", remedy=f"mkdir -p {name}")
    for file, text in pages(release()).items():
        (place / file).write_text(text)
        print(place / file)
    return 0


def pages(version: str) -> dict[str, str]:
    """By file name."""
    found = {"wherry.1": _program(version)}
    for verb in verbs():
        if verb.name != "help":
            found[f"wherry-{verb.name}.1"] = _page(verb, version)
    return found


def _head(name: str, line: str, version: str) -> str:
    return f'.\\" SPDX-License-Identifier: Apache-2.0\n.TH {name.upper()} 1 "" "wherry {_text(version)}" "wherry"\n.SH NAME\n{name} \\- {_text(line)}\n'


def _program(version: str) -> str:
    rows = [f".TP\n.BR wherry\\-{verb.name} (1)\n{_text(verb.line)}\n" for verb in verbs() if verb.name != "help"]
    files = "".join(f".TP\n.I {_text(path)}\n{_text(text)}\n" for path, text in _FILES.items())
    return "".join(
        (
            _head("wherry", "run OCI containers", version),
            ".SH SYNOPSIS\n.B wherry\n[\\fIFLAGS\\fR] \\fIVERB\\fR [\\fIARGUMENTS\\fR]\n",
            ".SH DESCRIPTION\n",
            _ABOUT,
            ".SH VERBS\n",
            *rows,
            ".SH FLAGS\nBefore the verb:\n",
            *_flags(global_flags()),
            f".SH EXIT STATUS\n{_text(_EXIT)}\n.SH FILES\n{files}",
            ".SH SEE ALSO\n.BR runc (8),\n.BR crun (1),\n.BR podman (1),\n.BR namespaces (7),\n.BR cgroups (7)\n",
        )
    )


def _page(verb: Verb, version: str) -> str:
    flags = "[\\fIFLAGS\\fR] " if verb.flags else ""
    more = f"{_text(verb.more)}\n" if verb.more else ""
    return "".join(
        (
            _head(f"wherry-{verb.name}", verb.line, version),
            f".SH SYNOPSIS\n.B wherry {verb.name}\n{flags}{_text(verb.usage)}\n",
            f".SH DESCRIPTION\n{_text(verb.line[0].upper() + verb.line[1:])}.\n{more}",
            *([".SH FLAGS\n", *_flags(verb.flags)] if verb.flags else ()),
            ".SH SEE ALSO\n.BR wherry (1)\n",
        )
    )


def _flags(flags: Iterable[Flag]) -> Iterable[str]:
    for flag in flags:
        names = [f"\\fB\\-\\-{_text(flag.name)}\\fR", *([f"\\fB\\-{flag.short}\\fR"] if flag.short else ())]
        value = f" \\fI{_text(flag.value)}\\fR" if flag.value else ""
        yield f".TP\n{', '.join(names)}{value}\n{_text(flag.text)}\n"


def _text(text: str) -> str:
    """For roff: backslashes and dashes as they are, and no line that begins like a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
