# SPDX-License-Identifier: Apache-2.0
"""What systemd is told: names, slices, properties for cgroup v1 and v2, device lists, annotations."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.cgroup import units
from wherry.cgroup.units import UNLIMITED, Unit
from wherry.errors import ConfigError, UsageError, WherryError


def as_dict(properties: list[Any]) -> dict[str, Any]:
    assert len({item[0] for item in properties}) == len(properties), "each once"
    return {name: value for name, _, value in properties}


# ---- names


@pytest.mark.parametrize(
    ("path", "user", "name", "slice", "cgroup"),
    [
        ("", False, "wherry-x.scope", "system.slice", "/system.slice/wherry-x.scope"),
        ("", True, "wherry-x.scope", "user.slice", "/user.slice/wherry-x.scope"),
        ("machine.slice:libpod:0123", False, "libpod-0123.scope", "machine.slice", "/machine.slice/libpod-0123.scope"),
        (":docker:a", False, "docker-a.scope", "system.slice", "/system.slice/docker-a.scope"),
        ("-:p:a", False, "p-a.scope", "-.slice", "/p-a.scope"),
        ("a-b-c.slice:p:n", False, "p-n.scope", "a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ("a.slice::n", False, "n.scope", "a.slice", "/a.slice/n.scope"),
        ("a.slice:p:b-c.slice", False, "b-c.slice", "a.slice", "/b.slice/b-c.slice"),
    ],
)
def test_unit_of(path: str, user: bool, name: str, slice: str, cgroup: str) -> None:
    unit = units.unit_of(path, "wherry-x.scope", user)
    assert (unit.name, unit.slice, unit.cgroup, unit.is_slice) == (name, slice, cgroup, name.endswith(".slice"))


@pytest.mark.parametrize("path", ["/a/b", "a", "a:b", "a.slice:b:c:d", "a:b:c", ".slice:b:c", "a--b.slice:p:n", "-a.slice:p:n", "a/b.slice:p:n",
                                  "a.slice:p:", "a.slice:p:b c", "a.slice:p:../x", "a.slice:p:n+", f"a.slice:p:{'n' * 250}"])  # fmt: skip
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        units.unit_of(path, "", False)
    assert (caught.value.code, caught.value.pointer) == ("WHERRY-CONFIG-VALUE", "/linux/cgroupsPath")


def test_an_id_that_cannot_name_a_unit() -> None:
    units.check_name("wherry-a_b.c-1.scope")
    for id in ("a+b", "n" * 250):
        with pytest.raises(UsageError, match="cannot be") as caught:
            units.check_name(f"wherry-{id}.scope")
        assert caught.value.code == "WHERRY-USAGE-ID"


def test_what_every_unit_has() -> None:
    scope = as_dict(units.base_properties(Unit("a.scope", "b.slice"), True, 252))
    assert scope == {"Delegate": True, "MemoryAccounting": True, "CPUAccounting": True, "IOAccounting": True, "TasksAccounting": True,
                     "DefaultDependencies": False, "CollectMode": "inactive-or-failed"}  # fmt: skip
    slice = as_dict(units.base_properties(Unit("a.slice", "b.slice"), False, 230))
    assert "Delegate" not in slice and "CollectMode" not in slice and slice["BlockIOAccounting"] and "IOAccounting" not in slice


# ---- resources

V2 = [
    ({}, {}),
    ({"memory": {"limit": 33554432}}, {"MemoryMax": 33554432}),
    ({"memory": {"limit": -1}}, {"MemoryMax": UNLIMITED, "MemorySwapMax": UNLIMITED}),
    ({"memory": {"limit": 10, "swap": 30, "reservation": 5}}, {"MemoryMax": 10, "MemoryLow": 5, "MemorySwapMax": 20}),
    ({"memory": {"limit": 10, "swap": -1}}, {"MemoryMax": 10, "MemorySwapMax": UNLIMITED}),
    ({"pids": {"limit": 7}}, {"TasksMax": 7}),
    ({"pids": {"limit": -1}}, {"TasksMax": UNLIMITED}),
    ({"pids": {"limit": 0}}, {"TasksMax": UNLIMITED}),
    ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}),
    ({"cpu": {"shares": 1024, "idle": 1}}, {"CPUWeight": 0}),
    ({"cpu": {"quota": 50000, "period": 100000}}, {"CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 500000}),
    ({"cpu": {"quota": 33333, "period": 50000}}, {"CPUQuotaPeriodUSec": 50000, "CPUQuotaPerSecUSec": 670000}),
    ({"cpu": {"quota": 25000}}, {"CPUQuotaPerSecUSec": 250000}),
    ({"cpu": {"quota": 1, "period": 1000000}}, {"CPUQuotaPeriodUSec": 1000000, "CPUQuotaPerSecUSec": 10000}),
    ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": UNLIMITED}),
    ({"cpu": {"period": 20000}}, {"CPUQuotaPeriodUSec": 20000, "CPUQuotaPerSecUSec": UNLIMITED}),
    ({"cpu": {"cpus": "0-1,9", "mems": "0"}}, {"AllowedCPUs": [3, 2], "AllowedMemoryNodes": [1]}),
    ({"blockIO": {"weight": 500}}, {"IOWeight": 4950}),
    ({"hugepageLimits": [{"pageSize": "2MB", "limit": 5}], "rdma": {"a": {"hcaHandles": 1}}}, {}),
    ({"unified": {"memory.high": "5", "memory.min": "max", "memory.low": "1", "memory.swap.max": "0", "pids.max": "max"}},
     {"MemoryHigh": 5, "MemoryMin": UNLIMITED, "MemoryLow": 1, "MemorySwapMax": 0, "TasksMax": UNLIMITED}),
    ({"unified": {"cpu.max": "5000 10000", "cpu.weight": "7"}}, {"CPUQuotaPeriodUSec": 10000, "CPUQuotaPerSecUSec": 500000, "CPUWeight": 7}),
    ({"unified": {"cpu.max": "max"}}, {"CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": UNLIMITED}),
    ({"unified": {"cpuset.cpus": "1-3\n", "cpu.idle": "1"}}, {"AllowedCPUs": [14], "CPUWeight": 0}),
    ({"memory": {"limit": 5}, "unified": {"memory.max": "9", "io.max": "8:0 rbps=5", "memory.oom.group": "1"}}, {"MemoryMax": 9}),
    ({"unified": {"memory.high": "50%", "cpu.max": "a b"}}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("resources", "wanted"), V2)
def test_v2_properties(resources: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert as_dict(units.v2_properties(resources, 252)) == wanted


def test_what_newer_and_older_versions_know() -> None:
    resources = {"cpu": {"idle": 1, "quota": 5000, "period": 10000, "cpus": "0"}, "unified": {"memory.oom.group": "1", "memory.zswap.max": "5"}}
    assert as_dict(units.v2_properties(resources, 253)) == {
        "CPUWeight": 0, "CPUQuotaPeriodUSec": 10000, "CPUQuotaPerSecUSec": 500000, "AllowedCPUs": [1], "OOMPolicy": "kill", "MemoryZSwapMax": 5,
    }  # fmt: skip
    assert as_dict(units.v2_properties(resources, 241)) == {"CPUQuotaPerSecUSec": 500000}


V1 = [
    ({"memory": {"limit": 33554432, "swap": 67108864, "reservation": 5}}, {"MemoryLimit": 33554432}),
    ({"memory": {"limit": -1}}, {"MemoryLimit": UNLIMITED}),
    ({"cpu": {"shares": 1024, "quota": 50000, "period": 100000}}, {"CPUShares": 1024, "CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 500000}),
    ({"pids": {"limit": 7}}, {"TasksMax": 7}),
    ({"blockIO": {"weight": 500}}, {"BlockIOWeight": 500}),
    ({"network": {"classID": 5}, "cpu": {"cpus": "0"}}, {}),
]


@pytest.mark.parametrize(("resources", "wanted"), V1)
def test_v1_properties(resources: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert as_dict(units.v1_properties(resources, 252)) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("0", [1]), ("0-7", [255]), ("8", [0, 1]), ("0-3,15, 1", [15, 128]), ("63", [0] * 7 + [128])])
def test_bit_bytes(text: str, wanted: list[int]) -> None:
    assert units.bit_bytes(text, "/x") == wanted


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "1-2-3", "99999999999"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        units.bit_bytes(text, "/linux/resources/cpu/cpus")
    assert caught.value.pointer == "/linux/resources/cpu/cpus"


# ---- devices

ALL = {"allow": True, "access": "rwm"}
NONE = {"allow": False, "access": "rwm"}


def test_device_list() -> None:
    rules = [
        NONE,
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "m"},
        {"allow": True, "type": "b", "major": 8, "access": "r"},
        {"allow": True, "type": "b", "major": -1, "minor": 3, "access": "r"},
        {"allow": True, "major": 1, "minor": 11, "access": "r"},
        {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "w"},
    ]
    found = as_dict(units.device_properties(rules))
    assert found["DevicePolicy"] == "strict"
    names = dict(found["DeviceAllow"])
    assert names["/dev/char/10:229"] == "rwm", "the program beside it refuses the writing"
    assert names["block-8"] == "r" and names["/dev/block/1:11"] == names["/dev/char/1:11"] == "r"
    assert names["block-*"] == "rm" and names["char-*"] == "m" and names["char-136"] == "rwm" and names["/dev/char/1:3"] == "rwm"


def test_everything_allowed_is_no_list() -> None:
    for rules in ([], [ALL], [NONE, ALL], [ALL, {"allow": True, "type": "c", "access": "r"}]):
        assert as_dict(units.device_properties(rules)) == {"DevicePolicy": "auto", "DeviceAllow": []}
    assert as_dict(units.device_properties([ALL, NONE]))["DevicePolicy"] == "strict"


# ---- annotations


def test_annotations() -> None:
    found = units.annotation_properties({
        "org.systemd.property.TimeoutStopSec": "10",
        "org.systemd.property.RuntimeMaxSec": "uint64 3",
        "org.systemd.property.TimeoutStopUSec": "uint64 5",
        "org.systemd.property.Description": "'x'",
        "org.systemd.property.After": "['a.service']",
        "org.systemd.prop": "5",
    })  # fmt: skip
    assert found == [
        ("After", "as", ["a.service"]), ("Description", "s", "x"), ("RuntimeMaxUSec", "t", 3000000), ("TimeoutStopUSec", "t", 10000000), ("TimeoutStopUSec", "t", 5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [("", "1"), ("ab", "1"), ("A_b", "1"), ("Ünit", "1"), ("A\nb", "1"), ("PIDs", "[uint32 1]"), ("Slice", "'a.slice'"), ("Delegate", "false"),
     ("Documentation", "@as []"), ("Good", "bad"), ("TimeoutStopSec", "'10'"), ("TimeoutStopSec", "true"), ("TimeoutStopSec", "-1"), ("TimeoutStopSec", "inf")],
)  # fmt: skip
def test_annotations_that_are_refused(name: str, value: str) -> None:
    with pytest.raises(WherryError) as caught:
        units.annotation_properties({f"org.systemd.property.{name}": value})
    assert caught.value.pointer == f"/annotations/org.systemd.property.{name}"


@pytest.mark.parametrize("item", [("A", "b", True), ("B", "t", UNLIMITED), ("C", "a(ss)", [["a b", "="]]), ("D", "s", "é\n"), ("E", "ay", [1])])
def test_there_and_back(item: Any) -> None:
    assert units.from_text(units.to_text(item)) == item
