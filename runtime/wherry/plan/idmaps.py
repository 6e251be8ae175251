# SPDX-License-Identifier: Apache-2.0
"""Mounts whose ids are mapped. Loaded where a mount asks for it."""

from wherry.errors import ConfigError
from wherry.kernel.native import constants
from wherry.plan import mounts
from wherry.plan.isolation import map_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wherry.plan.compile import Job
    from wherry.plan.mounts import Choice


def add(job: "Job", mount: "dict[str, Any]", words: "Sequence[str]", place: str) -> None:
    """The tree in the register gets the mapping of the mount, else that of the container. `ridmap`: the mounts below it, too."""
    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    uid_map = map_text(uids) if uids else None
    gid_map = map_text(gids) if gids else None
    job.b.idmap_tree(job.tree, uid_map, gid_map, "ridmap" in words, f"{place}/uidMappings" if uids else f"{place}/options")


def filesystem(job: "Job", mount: "dict[str, Any]", destination: str, choice: "Choice", place: str) -> None:
    """A new filesystem, made by the launcher with the host's credentials, mapped while nobody can reach it, then attached. Which filesystems can
    be mapped is the kernel's to say (tmpfs from 6.3 on): the step's failure names the type."""
    kind: str = mount.get("type") or ""
    if kind in ("proc", "sysfs", "mqueue", "cgroup", "cgroup2", "devpts") or "tmpcopyup" in choice.words:
        what = "tmpcopyup" if "tmpcopyup" in choice.words else kind
        raise ConfigError(f"a mount with {what} cannot have id mappings", code="WHERRY-CONFIG-MAPPINGS", pointer=place)
    superblock, set_ = choice.superblock, choice.set
    if set_ & mounts.RDONLY:
        if kind == "tmpfs":  # when everything is in it
            set_ &= ~mounts.RDONLY
            job.late.append((destination, place))
        else:
            superblock |= mounts.MS_RDONLY
    if job.tree < 0:
        job.tree = job.register()
    data = mounts.labelled(job, kind, choice.data)
    job.b.create_tree(kind, mounts.source_of(job, mount, kind, place), data, superblock, job.tree, place)
    add(job, mount, choice.words, place)
    job.b.mount_bind(destination, job.tree, choice.attributes(set_, 0), constants.WHERRY_MOUNT_CREATE, place)
