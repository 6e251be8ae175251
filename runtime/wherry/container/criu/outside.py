# SPDX-License-Identifier: Apache-2.0
"""What of a container is not its own: bound files and directories, joined namespaces, and the ends of pipes. By its plan, not by its
configuration: the plan has made it."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wherry.kernel.mounts import open_inside
from wherry.plan.describe import Plan

DESCRIPTION = "wherry.json"
"""Beside CRIU's images: what restore has to know that CRIU does not keep."""

MASK = "/dev/null"
_NAMESPACES = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
"""Namespaces that CRIU can leave out; their name in /proc/PID/ns, and ours for the external one."""


@dataclass
class Outside:
    """places: destination of a bound tree -> where it really is, when a link stood in the way. masked: files that /dev/null covers.
    descriptors: CRIU's names for 0, 1 and 2 of init, "" where they are the container's own. external: all that CRIU is to leave out."""

    places: dict[str, str] = field(default_factory=dict)
    masked: list[str] = field(default_factory=list)
    descriptors: list[str] = field(default_factory=list)
    external: list[str] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        (directory / DESCRIPTION).write_text(json.dumps({"version": 1, **asdict(self)}))

    @staticmethod
    def read(directory: Path) -> "Outside":
        try:
            document = json.loads((directory / DESCRIPTION).read_text())
        except FileNotFoundError:
            return Outside()
        return Outside(document["places"], document["masked"], document["descriptors"], document["external"])


def bound(plan: Plan, bundle: str, id: str) -> dict[str, str]:
    """Destination in the container -> source on the host, of each tree that was attached as it is. A new filesystem has none."""
    sources: dict[int, str] = {}
    found = {}
    for step in plan.steps:
        if step.name == "OPEN_TREE":
            sources[step.fields["out"]] = step.fields["source"].replace("<bundle>", bundle).replace("<id>", id)
        elif step.name == "CREATE_TREE":
            sources.pop(step.fields["out"], None)
        elif step.name == "MOUNT_BIND" and step.fields["tree"] in sources:
            found[step.fields["destination"]] = sources[step.fields["tree"]]
    return found


def look(pid: int, config: dict[str, Any], plan: Plan) -> Outside:
    """At the living container."""
    paths = {os.path.normpath(path) for path in (config.get("linux") or {}).get("maskedPaths") or ()}
    masked, mounts = [], set()
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        number, _, _, root, place, *_ = line.split()
        mounts.add(int(number))
        if place in paths and root.endswith("/null"):
            masked.append(place)
    descriptors = [_descriptor(pid, number, mounts) for number in range(3)]
    external = list(dict.fromkeys(name for name in descriptors if name.startswith("file[")))
    for entry in (config.get("linux") or {}).get("namespaces") or ():
        if entry.get("path") and entry["type"] in _NAMESPACES:
            name, label = _NAMESPACES[entry["type"]]
            external.append(f"{name}[{os.stat(f'/proc/{pid}/ns/{name}').st_ino}]:{label}")
    return Outside(_places(pid, plan), masked, descriptors, external)


def _places(pid: int, plan: Plan) -> dict[str, str]:
    """Seen from the container's root, whose links are the container's own: nothing outside of it is looked at."""
    found = {}
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
    try:
        for step in plan.steps:
            if step.name != "MOUNT_BIND":
                continue
            destination = step.fields["destination"]
            descriptor = open_inside(root, destination)
            found[destination] = os.readlink(f"/proc/self/fd/{descriptor}")
            os.close(descriptor)
    finally:
        os.close(root)
    return {destination: place for destination, place in found.items() if place != destination}


def _descriptor(pid: int, number: int, mounts: set[int]) -> str:
    """CRIU's name for what 0, 1 or 2 is, where that is not in the container: a pipe, or a file on a mount of the host. Else ""."""
    try:
        link = os.readlink(f"/proc/{pid}/fd/{number}")
        info = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines() if ":\t" in line)
    except OSError:
        return ""
    if link.startswith("pipe:"):
        return link
    mount = int(info["mnt_id"])
    return f"file[{mount:x}:{int(info['ino']):x}]" if link[:1] == "/" and mount not in mounts else ""


def external_namespaces(config: dict[str, Any]) -> list[tuple[str, str]]:
    """(CRIU's name, path on this host) of the joined namespaces that it is to take as they are."""
    entries = (config.get("linux") or {}).get("namespaces") or ()
    return [(_NAMESPACES[entry["type"]][1], entry["path"]) for entry in entries if entry.get("path") and entry["type"] in _NAMESPACES]
