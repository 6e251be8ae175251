# SPDX-License-Identifier: Apache-2.0
"""wherry update ID"""

import sys
from typing import Any

from wherry.cli import Call
from wherry.cli.arguments import NUMBER, TEXT
from wherry.container.update import update, update_resctrl
from wherry.errors import UsageError
from wherry.oci.config import load

# flag -> where its value belongs in linux.resources
NUMBERS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "pids-limit": ("pids", "limit"),
}
TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
SIZES = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
}

FLAGS: dict[str, int | str] = {
    "resources": TEXT,
    "r": "resources",
    **dict.fromkeys(NUMBERS, NUMBER),
    **dict.fromkeys(TEXTS, TEXT),
    **dict.fromkeys(SIZES, TEXT),
    "l3-cache-schema": TEXT,
    "mem-bw-schema": TEXT,
}

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def run(call: Call) -> int:
    (id,) = call.positional(1, 1)
    flags = call.flags
    source = flags.text("resources")
    resources = _given(source) if source is not None else resources_of(call)
    if resources or source is not None or not _schemata(call):
        call.warn(update(call.root(), id, resources))
    if _schemata(call):
        update_resctrl(call.root(), id, _schemata(call))
    return 0


def resources_of(call: Call) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for table, value in ((NUMBERS, call.flags.number), (TEXTS, call.flags.text), (SIZES, _size(call))):
        for flag, (section, key) in table.items():
            if call.flags.given(flag):
                resources.setdefault(section, {})[key] = value(flag)
    return resources


def _size(call: Call) -> Any:
    return lambda flag: size_of(call.flags.text(flag) or "", flag)


def size_of(text: str, flag: str) -> int:
    """Bytes of "64M", "1.5g", "-1" (none)."""
    if text == "-1":
        return -1
    number = text.lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:].isalpha() else ""
    digits = number.removesuffix(unit).strip()
    if unit not in _UNITS or not digits.isascii() or digits.count(".") > 1 or not digits.replace(".", "").isdecimal():
        raise UsageError(f'invalid value "{text}" for flag -{flag}: a size such as 64M')
    return int(float(digits) * (1 << _UNITS[unit])) if "." in digits else int(digits) << _UNITS[unit]


def _given(source: str) -> dict[str, Any]:
    """--resources FILE, or - for stdin."""
    if source == "-":
        data = sys.stdin.buffer.read()
    else:
        with open(source, "rb") as file:
            data = file.read()
    resources: dict[str, Any] = load(data, "stdin" if source == "-" else source)  # type: ignore[assignment]
    return resources


def _schemata(call: Call) -> list[str]:
    return [text for flag in ("l3-cache-schema", "mem-bw-schema") if (text := call.flags.text(flag))]
