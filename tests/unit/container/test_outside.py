# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint leaves out, and a restore puts in its place."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "plan"))
from support import MAPPINGS, bind, host, make, small

from wherry.container.criu.outside import bound
from wherry.plan.describe import Plan

MAPPED = {"uidMappings": MAPPINGS["linux__uidMappings"], "gidMappings": MAPPINGS["linux__gidMappings"]}


def test_trees_of_the_host_are_outside() -> None:
    mounts = [bind("bind", destination="/a", source="/srv/a"), bind("rbind", destination="/b", source="below")]
    plan = Plan(make(small(mounts=mounts), host("v2")))
    assert bound(plan, "/bundle", "id") == {"/a": "/srv/a", "/b": "/bundle/below"}


def test_a_new_filesystem_is_the_containers_own() -> None:
    """Though it is attached as a tree where its ids are mapped, and its register had one of the host's before."""
    mapped = {"destination": "/own", "type": "tmpfs", "source": "tmpfs", "options": ["idmap"], **MAPPED}
    mounts = [bind("bind", destination="/a", source="/srv/a"), mapped, bind("bind", destination="/b", source="/srv/b")]
    plan = Plan(make(small(mounts=mounts), host("v2")))
    assert "CREATE_TREE" in {step.name for step in plan.steps}
    assert bound(plan, "/bundle", "id") == {"/a": "/srv/a", "/b": "/srv/b"}
