# SPDX-License-Identifier: Apache-2.0
"""Mounts whose ids are mapped. Loaded where a mount asks for it."""

from wherry.plan.isolation import map_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wherry.plan.compile import Job


def add(job: "Job", mount: "dict[str, Any]", words: "Sequence[str]", place: str) -> None:
    """The tree in the register gets the mapping of the mount, else that of the container. `ridmap`: the mounts below it, too."""
    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    uid_map = map_text(uids) if uids else None
    gid_map = map_text(gids) if gids else None
    job.b.idmap_tree(job.tree, uid_map, gid_map, "ridmap" in words, f"{place}/uidMappings" if uids else f"{place}/options")
