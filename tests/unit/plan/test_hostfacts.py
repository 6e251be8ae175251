# SPDX-License-Identifier: Apache-2.0
"""Host facts: the parsing of /proc, JSON and back, and a look at this very host."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support import HERE, host, joined

from wherry.kernel import hostfacts, native
from wherry.kernel.hostfacts import HostFacts, cgroup_layout, gather

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "34 31 0:31 / /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory\n"
)
UNIFIED = "35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def layout(cgroup: str, mountinfo: str) -> HostFacts:
    facts = HostFacts()
    cgroup_layout(facts, cgroup, mountinfo)
    return facts


def test_v2() -> None:
    facts = layout("0::/user.slice/a\n", V2)
    assert (facts.cgroup_mode, facts.v2_mount, facts.v2_own, facts.hierarchies) == ("v2", "/sys/fs/cgroup", "/user.slice/a", [])


def test_v1() -> None:
    facts = layout("3:cpu,cpuacct:/x\n2:name=systemd:/\n1:memory:/y:z\n9:net_cls:/not/mounted\n", V1)
    assert facts.cgroup_mode == "v1"
    assert [(h.controllers, h.mount, h.own) for h in facts.hierarchies] == [
        (("cpu", "cpuacct"), "/sys/fs/cgroup/cpu,cpuacct", "/x"),
        (("name=systemd",), "/sys/fs/cgroup/systemd", "/"),
        (("memory",), "/sys/fs/cgroup/mem ory", "/y:z"),
    ]


def test_hybrid() -> None:
    facts = layout("1:memory:/y\n0::/z\n", V1 + UNIFIED)
    assert (facts.cgroup_mode, facts.v2_mount, facts.v2_own) == ("hybrid", "/sys/fs/cgroup/unified", "/z")


def test_a_stray_v1_mount_does_not_make_a_v2_host_hybrid() -> None:
    stray = "40 1 0:40 / /mnt/systemd rw - cgroup cgroup rw,name=systemd\n"
    assert layout("1:name=systemd:/\n0::/\n", V2 + stray).cgroup_mode == "v2"


def test_none() -> None:
    assert layout("0::/\n", "").cgroup_mode == "none"


@pytest.mark.parametrize(
    ("root", "own", "found"),
    [("/docker/1", "/docker/1", "/"), ("/docker/1", "/docker/1/sub", "/sub"), ("/docker/1", "/docker/12", ""), ("/..", "/", "")],
)
def test_where_the_mount_shows_a_part_of_the_hierarchy(root: str, own: str, found: str) -> None:
    facts = layout(f"1:memory:{own}\n", f"34 31 0:31 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    assert facts.hierarchies[0].own == found


def test_of_two_mounts_the_one_that_shows_us_counts() -> None:
    other = "41 1 0:31 /elsewhere /srv/memory rw - cgroup cgroup rw,memory\n"
    facts = layout("1:memory:/us\n", other + "34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    assert (facts.hierarchies[0].mount, facts.hierarchies[0].own) == ("/sys/fs/cgroup/memory", "/us")


def test_capabilities_are_those_in_force() -> None:
    assert hostfacts._capabilities("CapInh:\t0\nCapPrm:\tff\nCapEff:\t0f\nCapBnd:\tff\n") == 0xF


# ---- JSON


@pytest.mark.parametrize("path", sorted((HERE / "facts").iterdir()), ids=lambda path: path.stem)
def test_there_and_back(path: Path) -> None:
    facts = host(path.stem, namespaces={"/n": joined(1, 2, 3, True)})
    document = json.loads(json.dumps(facts.to_json()))
    assert HostFacts.from_json(document).to_json() == facts.to_json()
    assert set(json.loads(path.read_text())) == set(HostFacts.__slots__)


def test_an_unknown_fact_is_refused() -> None:
    with pytest.raises(ValueError, match="moon"):
        HostFacts.from_json({"moon": "full"})


# ---- this host


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(native.lib, "host_facts_key"):
        monkeypatch.setattr(native, "facts_key", lambda: "k")


@pytest.mark.usefixtures("here")
def test_this_host() -> None:
    facts = gather(lsms=True, delegate=True, mappers=True)
    assert (facts.uid, facts.kernel) == (os.geteuid(), os.uname().release)
    assert facts.key
    assert facts.delegate and not any(" " in name for name in facts.delegate)
    for mount in [h.mount for h in facts.hierarchies] + [facts.v2_mount] * bool(facts.v2_mount):
        assert os.path.isdir(mount)
    for program in (facts.newuidmap, facts.newgidmap):
        assert not program or os.access(program, os.X_OK)


@pytest.mark.usefixtures("here")
def test_namespaces_of_this_process() -> None:
    found = gather(namespaces=["/proc/self/ns/net", "/proc/self/ns/user", "/no/such/file", "/proc/self/status"]).namespaces
    assert set(found) == {"/proc/self/ns/net", "/proc/self/ns/user"}
    net = found["/proc/self/ns/net"]
    assert (net.kind, net.ours, net.number) == (0x40000000, True, os.stat("/proc/self/ns/net").st_ino)
    assert found["/proc/self/ns/user"].ours
