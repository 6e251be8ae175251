# SPDX-License-Identifier: Apache-2.0
"""wherry run --rootfs DIR [limits] [ID] -- CMD: no config.json, a safe default instead (wherry.oci.default.sandbox)."""

import json
import os
from typing import Any

from wherry.cli import Call
from wherry.cli.create import options_of
from wherry.container.options import CreateOptions, absolute
from wherry.errors import UsageError
from wherry.oci.default import sandbox

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def options_without_config(call: Call) -> CreateOptions:
    """What the flags say, as the options of a run whose configuration is made here."""
    if call.flags.given("bundle"):
        raise UsageError("--rootfs and --bundle exclude each other: with a bundle, config.json says it")
    if not call.rest:
        raise UsageError("run --rootfs needs a command after --", remedy="wherry run --rootfs DIR -- sh")
    if len(call.words) > 1:
        raise UsageError(f'one ID may stand before --, not "{" ".join(call.words)}"')
    rootfs = absolute(call.flags.text("rootfs") or "")
    if not os.path.isdir(rootfs):
        raise UsageError(f"--rootfs {rootfs}: no such directory")
    options = options_of(call, call.words[0] if call.words else f"run-{os.urandom(4).hex()}")
    options.bundle = rootfs
    options.config = json.dumps(sandbox(rootfs, call.rest, **_choices(call))).encode()
    return options


def _choices(call: Call) -> dict[str, Any]:
    flags = call.flags
    choices: dict[str, Any] = {"env": dict(_variable(text) for text in flags.many("env")), "terminal": flags.on("tty")}
    for name, key in (("workdir", "cwd"), ("hostname", "hostname")):
        if flags.given(name):
            choices[key] = flags.text(name)
    for name, key, reader in (("memory", "memory", size), ("cpus", "processors", processors), ("pids", "processes", count)):
        text = flags.text(name)
        if text is not None:
            choices[key] = None if text in ("-1", "max", "unlimited") else reader(text)
    choices["readonly"] = not flags.on("writable")
    network = flags.text("network") or "none"
    if network not in ("none", "host"):
        raise UsageError(f'invalid value "{network}" for flag -network: none or host')
    choices["network"] = network == "host"
    choices.update(_identity(flags.text("user")))
    return choices


def _identity(user: str | None) -> dict[str, Any]:
    """The ids in the container; without privileges, one id of ours becomes root in a user namespace, and cgroups stay as they are."""
    identity: dict[str, Any] = {}
    if user is not None:
        uid, _, gid = user.partition(":")
        if not uid.isdecimal() or not (gid or uid).isdecimal():
            raise UsageError(f'invalid value "{user}" for flag -user: UID or UID:GID, as numbers')
        identity.update(uid=int(uid), gid=int(gid or uid))
    if os.geteuid() != 0:
        uids = [{"containerID": identity.get("uid", 0), "hostID": os.geteuid(), "size": 1}]
        gids = [{"containerID": identity.get("gid", 0), "hostID": os.getegid(), "size": 1}]
        identity.update(mappings=(uids, gids), limits=False)
    return identity


def _variable(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not name:
        raise UsageError(f'invalid value "{text}" for flag -env: NAME=VALUE')
    return name, value if given else os.environ.get(name, "")


def size(text: str) -> int:
    """64M, 1.5G, 1048576"""
    number, unit = text.upper().removesuffix("B").removesuffix("I"), ""
    if number[-1:] in ("K", "M", "G", "T"):
        number, unit = number[:-1], number[-1]
    try:
        value = float(number) * _UNITS[unit]
    except ValueError:
        value = 0
    if not 0 < value < 1 << 63:
        raise UsageError(f'invalid value "{text}" for flag -memory: a size such as 64M or 1.5G')
    return int(value)


def processors(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1 << 20:
        raise UsageError(f'invalid value "{text}" for flag -cpus: a number such as 0.5 or 2')
    return value


def count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise UsageError(f'invalid value "{text}" for flag -pids: a number of processes')
    return int(text)
