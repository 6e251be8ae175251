# SPDX-License-Identifier: Apache-2.0
"""linux.resources to files: the published conversion vectors, the order, and what each version refuses."""

import pytest

from wherry.cgroup import resources
from wherry.errors import ConfigError

SHARES = {
    0: 0, 2: 1, 3: 2, 10: 4, 50: 10, 100: 17, 128: 21, 256: 35, 512: 59, 1000: 99, 1024: 100, 2000: 170, 2048: 174, 4096: 303,
    8192: 532, 10240: 639, 65536: 3023, 100000: 4340, 200000: 7899, 262144: 10000, 300000: 10000,
}  # fmt: skip
IO = {10: 1, 11: 11, 100: 910, 250: 2425, 500: 4950, 750: 7475, 1000: 10000}
MIB = 1 << 20


def files(writes: list) -> list[tuple[str, str]]:
    return [(file, value) for _, file, value, _, _ in writes]


@pytest.mark.parametrize(("shares", "weight"), SHARES.items())
def test_cpu_shares_become_a_weight(shares: int, weight: int) -> None:
    assert resources.weight_of_shares(shares) == weight


@pytest.mark.parametrize(("weight", "converted"), IO.items())
def test_block_weight_becomes_an_io_weight(weight: int, converted: int) -> None:
    assert resources.io_weight_of(weight) == converted


@pytest.mark.parametrize(
    ("limit", "swap", "expected"),
    [(64, None, None), (-1, None, "max"), (64, -1, "max"), (64, 0, None), (-1, 5, "5"), (64, 64, "0"), (64, 100, "36"), (None, None, None)],
)
def test_swap_of_both_becomes_swap_alone(limit: int | None, swap: int | None, expected: str | None) -> None:
    assert resources.swap_of(limit, swap) == expected


@pytest.mark.parametrize(("limit", "swap"), [(64, 32), (None, 32), (0, 32)])
def test_swap_that_makes_no_sense_is_refused_with_its_place(limit: int | None, swap: int) -> None:
    with pytest.raises(ConfigError) as caught:
        resources.swap_of(limit, swap)
    assert caught.value.pointer == "/linux/resources/memory/swap"


def test_everything_of_memory_on_v1() -> None:
    memory = {"limit": 64 * MIB, "reservation": MIB, "swap": 128 * MIB, "swappiness": 0, "disableOOMKiller": True, "kernel": 5}
    assert files(resources.v1_writes({"memory": memory})) == [
        ("memory.limit_in_bytes", str(64 * MIB)),
        ("memory.soft_limit_in_bytes", str(MIB)),
        ("memory.memsw.limit_in_bytes", str(128 * MIB)),
        ("memory.swappiness", "0"),
        ("memory.oom_control", "1"),
    ]


def test_everything_of_memory_on_v2() -> None:
    memory = {"limit": 64 * MIB, "reservation": MIB, "swap": 128 * MIB, "swappiness": 0, "disableOOMKiller": True}
    assert files(resources.v2_writes({"memory": memory})) == [
        ("memory.max", str(64 * MIB)),
        ("memory.swap.max", str(64 * MIB)),
        ("memory.low", str(MIB)),
    ]


def test_processor_limits() -> None:
    cpu = {"shares": 1024, "quota": 50000, "period": 100000, "burst": 100, "cpus": "0-1", "mems": "0"}
    assert files(resources.v1_writes({"cpu": cpu})) == [
        ("cpu.shares", "1024"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.cfs_burst_us", "100"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
    ]
    assert files(resources.v2_writes({"cpu": cpu})) == [
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("cpu.max.burst", "100"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
    ]


@pytest.mark.parametrize(
    ("cpu", "line"), [({"quota": -1}, "max 100000"), ({"period": 5000}, "max 5000"), ({"quota": 7, "period": 0}, "7 100000")]
)
def test_quota_and_period_share_one_file_on_v2(cpu: dict, line: str) -> None:
    assert files(resources.v2_writes({"cpu": cpu})) == [("cpu.max", line)]


@pytest.mark.parametrize(("limit", "value"), [(7, "7"), (-1, "max"), (0, "max")])
def test_pids(limit: int, value: str) -> None:
    for writes in (resources.v1_writes, resources.v2_writes):
        assert files(writes({"pids": {"limit": limit}})) == [("pids.max", value)]


def test_an_idle_cgroup_has_no_weight() -> None:
    """v1 takes shares and then the idling; v2 refuses a weight where it idles. Files that only newer kernels have may miss where nothing is asked."""
    assert files(resources.v1_writes({"cpu": {"shares": 512, "idle": 1}})) == [("cpu.shares", "512"), ("cpu.idle", "1")]
    assert files(resources.v2_writes({"cpu": {"shares": 512, "idle": 1}})) == [("cpu.idle", "1")]
    assert files(resources.v2_writes({"cpu": {"shares": 512, "idle": 0}})) == [("cpu.idle", "0"), ("cpu.weight", "59")]
    for writes in (resources.v1_writes, resources.v2_writes):
        assert [write[3] for idle in (0, 1) for write in writes({"cpu": {"idle": idle}})] == [resources.MISSING_OK, 0]
        assert writes({"cpu": {"cpus": "1"}}) == [("cpuset", "cpuset.cpus", "1", 0, "/linux/resources/cpu/cpus")]


@pytest.mark.parametrize(
    ("memory", "swap", "may_miss"),
    [
        ({"limit": -1}, "-1", True),
        ({"limit": -1, "swap": 7}, "7", False),
        ({"limit": 5}, None, False),
        ({"limit": 5, "swap": 0}, None, False),
        ({"limit": 5, "swap": -1}, "-1", True),
        ({"limit": 5, "swap": 9}, "9", False),
    ],
)
def test_swap_on_v1_counts_memory_too(memory: dict, swap: str | None, may_miss: bool) -> None:
    found = [(value, flags) for _, file, value, flags, _ in resources.v1_writes({"memory": memory}) if "memsw" in file]
    assert found == ([] if swap is None else [(swap, resources.MISSING_OK if may_miss else 0)])


def test_block_devices() -> None:
    block = {
        "weight": 500,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 100}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}],
    }
    assert files(resources.v2_writes({"blockIO": block})) == [
        ("io.bfq.weight", "500"),
        ("io.weight", "default 4950"),
        ("io.bfq.weight", "8:0 100"),
        ("io.weight", "8:0 910"),
        ("io.max", "8:0 rbps=1000"),
        ("io.max", "8:16 wiops=max"),
    ]
    assert ("blkio.throttle.read_bps_device", "8:0 1000") in files(resources.v1_writes({"blockIO": block}))


@pytest.mark.parametrize(
    ("key", "v1", "v2"),
    [
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
    ],
)
def test_throttled_devices(key: str, v1: str, v2: str) -> None:
    given = {"blockIO": {key: [{"major": 8, "minor": 3, "rate": 77}, {"major": 259, "minor": 1, "rate": 5}]}}
    assert files(resources.v1_writes(given)) == [(v1, "8:3 77"), (v1, "259:1 5")]
    assert files(resources.v2_writes(given)) == [("io.max", f"8:3 {v2}=77"), ("io.max", f"259:1 {v2}=5")]


def test_what_only_version_1_has() -> None:
    given = {
        "memory": {"useHierarchy": True},
        "cpu": {"realtimeRuntime": 950000, "realtimePeriod": 1000000},
        "blockIO": {"leafWeight": 20, "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 30}]},
    }
    written = dict(files(resources.v1_writes(given)))
    assert written.items() >= {
        ("memory.use_hierarchy", "1"),
        ("cpu.rt_runtime_us", "950000"),
        ("cpu.rt_period_us", "1000000"),
        ("blkio.leaf_weight", "20"),
        ("blkio.leaf_weight_device", "8:0 30"),
    }


def test_an_alternative_follows_the_file_it_stands_in_for() -> None:
    writes = resources.v1_writes({"blockIO": {"weight": 10}})
    assert [(file, flags) for _, file, _, flags, _ in writes] == [
        ("blkio.weight", resources.MISSING_OK),
        ("blkio.bfq.weight", resources.ALTERNATIVE),
    ]


def test_the_rest_of_the_table() -> None:
    given = {
        "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
        "network": {"classID": 5, "priorities": [{"name": "lo", "priority": 3}]},
        "rdma": {"mlx": {"hcaHandles": 2, "hcaObjects": 3}},
    }
    assert files(resources.v1_writes(given)) == [
        ("hugetlb.2MB.limit_in_bytes", "9"),
        ("hugetlb.2MB.rsvd.limit_in_bytes", "9"),
        ("net_cls.classid", "5"),
        ("net_prio.ifpriomap", "lo 3"),
        ("rdma.max", "mlx hca_handle=2 hca_object=3"),
    ]
    assert files(resources.v2_writes(given)) == [
        ("hugetlb.2MB.max", "9"),
        ("hugetlb.2MB.rsvd.max", "9"),
        ("rdma.max", "mlx hca_handle=2 hca_object=3"),
    ]


def test_unified_comes_last_and_line_by_line() -> None:
    writes = resources.v2_writes({"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2"}, "memory": {"limit": 5}})
    assert files(writes) == [("memory.max", "5"), ("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2")]
    assert writes[-1][4] == "/linux/resources/unified/io.max"
    assert resources.controllers_of(writes) == ["memory", "io"]


@pytest.mark.parametrize(
    ("version", "given", "pointer"),
    [
        (1, {"unified": {"memory.max": "1"}}, "/linux/resources/unified"),
        (2, {"cpu": {"realtimeRuntime": 5}}, "/linux/resources/cpu/realtimeRuntime"),
        (2, {"cpu": {"realtimePeriod": 5}}, "/linux/resources/cpu/realtimePeriod"),
        (2, {"blockIO": {"leafWeight": 10}}, "/linux/resources/blockIO/leafWeight"),
        (2, {"blockIO": {"weightDevice": [{"major": 1, "minor": 1, "leafWeight": 10}]}}, "/linux/resources/blockIO/weightDevice/0/leafWeight"),
    ],
)
def test_what_a_version_cannot_do_is_refused(version: int, given: dict, pointer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        (resources.v1_writes if version == 1 else resources.v2_writes)(given)
    assert caught.value.pointer == pointer
    assert caught.value.code == "WHERRY-HOST-CGROUP"
