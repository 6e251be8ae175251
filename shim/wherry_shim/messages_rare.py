# SPDX-License-Identifier: Apache-2.0
"""Tables of the messages that few servers ever need: bootstrap parameters, runtime information, the sandbox service, metrics."""

from wherry_shim import wire

PACKAGES = {
    "boot": "containerd.runtime.bootstrap.v1",
    "types": "containerd.types",
    "sandbox": "containerd.runtime.sandbox.v1",
    "cgroups1": "io.containerd.cgroups.v1",
    "cgroups2": "io.containerd.cgroups.v2",
}

_ANY, _TIME, _SANDBOX = "any.Any", "any.Timestamp", "string sandbox_id 1"


def _numbered(kind: "str", names: "str", first: "int" = 1) -> "str":
    return ", ".join(f"{kind} {name} {number}" for number, name in enumerate(names.split(), first) if name != "-")


_NETWORK = "string name 1, " + _numbered("uint64", "rx_bytes rx_packets rx_errors rx_dropped tx_bytes tx_packets tx_errors tx_dropped", 2)
_RDMA_ENTRY = "string device 1, uint32 hca_handles 2, uint32 hca_objects 3"
_RDMA = "RdmaEntry* current 1, RdmaEntry* limit 2"

TABLE = {
    # what containerd 2.3 and later writes to the standard input of `start`
    "boot.BootstrapParams": "string instance_id 1, string namespace 2, int32 log_level 3, string containerd_version 4, string containerd_ttrpc_address 5,"
    " string containerd_grpc_address 6, string containerd_binary 7, Extension* extensions 8, string socket_dir 9",
    "boot.Extension": f"{_ANY} value 1",
    "boot.BootstrapResult": "int32 version 1, string address 2, string protocol 3, int32* capabilities 4, string% metadata 5",
    "types.RuntimeInfo": f"string name 1, RuntimeVersion version 2, {_ANY} options 3, {_ANY} features 4, string% annotations 5",
    "types.RuntimeVersion": "string version 1, string revision 2",
    "types.Platform": "string os 1, string architecture 2, string variant 3, string os_version 4, string* os_features 5",
    "types.Metric": f"{_TIME} timestamp 1, string id 2, {_ANY} data 3",
    # the sandbox service
    "sandbox.CreateSandboxRequest": f"{_SANDBOX}, string bundle_path 2, types.Mount* rootfs 3, {_ANY} options 4, string netns_path 5, string% annotations 6",
    "sandbox.CreateSandboxResponse": "",
    "sandbox.StartSandboxRequest": _SANDBOX,
    "sandbox.StartSandboxResponse": f"uint32 pid 1, {_TIME} created_at 2, {_ANY} spec 3",
    "sandbox.PlatformRequest": _SANDBOX,
    "sandbox.PlatformResponse": "types.Platform platform 1",
    "sandbox.StopSandboxRequest": f"{_SANDBOX}, uint32 timeout_secs 2",
    "sandbox.StopSandboxResponse": "",
    "sandbox.WaitSandboxRequest": _SANDBOX,
    "sandbox.WaitSandboxResponse": f"uint32 exit_status 1, {_TIME} exited_at 2",
    "sandbox.SandboxStatusRequest": f"{_SANDBOX}, bool verbose 2",
    "sandbox.SandboxStatusResponse": f"{_SANDBOX}, uint32 pid 2, string state 3, string% info 4, {_TIME} created_at 5, {_TIME} exited_at 6, {_ANY} extra 7",
    "sandbox.PingRequest": _SANDBOX,
    "sandbox.PingResponse": "",
    "sandbox.ShutdownSandboxRequest": _SANDBOX,
    "sandbox.ShutdownSandboxResponse": "",
    "sandbox.SandboxMetricsRequest": _SANDBOX,
    "sandbox.SandboxMetricsResponse": "types.Metric metrics 1",
    # metrics of cgroup v1
    "cgroups1.Metrics": "HugetlbStat* hugetlb 1, PidsStat pids 2, CPUStat cpu 3, MemoryStat memory 4, BlkIOStat blkio 5, RdmaStat rdma 6, "
    "NetworkStat* network 7, CgroupStats cgroup_stats 8, MemoryOomControl memory_oom_control 9",
    "cgroups1.HugetlbStat": "uint64 usage 1, uint64 max 2, uint64 failcnt 3, string pagesize 4",
    "cgroups1.PidsStat": "uint64 current 1, uint64 limit 2",
    "cgroups1.CPUStat": "CPUUsage usage 1, Throttle throttling 2",
    "cgroups1.CPUUsage": "uint64 total 1, uint64 kernel 2, uint64 user 3, uint64* per_cpu 4",
    "cgroups1.Throttle": "uint64 periods 1, uint64 throttled_periods 2, uint64 throttled_time 3",
    "cgroups1.MemoryStat": _numbered(
        "uint64",
        "cache rss rss_huge mapped_file dirty writeback pg_pg_in pg_pg_out pg_fault pg_maj_fault inactive_anon active_anon inactive_file active_file"
        " unevictable hierarchical_memory_limit hierarchical_swap_limit total_cache total_rss total_rss_huge total_mapped_file total_dirty total_writeback"
        " total_pg_pg_in total_pg_pg_out total_pg_fault total_pg_maj_fault"
        " total_inactive_anon total_active_anon total_inactive_file total_active_file total_unevictable",
    )
    + ", "
    + _numbered("MemoryEntry", "usage swap kernel kernel_tcp", 33),
    "cgroups1.MemoryEntry": "uint64 limit 1, uint64 usage 2, uint64 max 3, uint64 failcnt 4",
    "cgroups1.MemoryOomControl": "uint64 oom_kill_disable 1, uint64 under_oom 2, uint64 oom_kill 3",
    "cgroups1.BlkIOStat": _numbered(
        "BlkIOEntry*",
        "io_service_bytes_recursive io_serviced_recursive io_queued_recursive io_service_time_recursive io_wait_time_recursive io_merged_recursive"
        " io_time_recursive sectors_recursive",
    ),
    "cgroups1.BlkIOEntry": "string op 1, string device 2, uint64 major 3, uint64 minor 4, uint64 value 5",
    "cgroups1.RdmaStat": _RDMA,
    "cgroups1.RdmaEntry": _RDMA_ENTRY,
    "cgroups1.NetworkStat": _NETWORK,
    "cgroups1.CgroupStats": _numbered("uint64", "nr_sleeping nr_running nr_stopped nr_uninterruptible nr_io_wait"),
    # metrics of cgroup v2
    "cgroups2.Metrics": "PidsStat pids 1, CPUStat cpu 2, MemoryStat memory 4, RdmaStat rdma 5, IOStat io 6, HugeTlbStat* hugetlb 7,"
    " MemoryEvents memory_events 8, NetworkStat* network 9",
    "cgroups2.PSIData": "double avg10 1, double avg60 2, double avg300 3, uint64 total 4",
    "cgroups2.PSIStats": "PSIData some 1, PSIData full 2",
    "cgroups2.PidsStat": "uint64 current 1, uint64 limit 2",
    "cgroups2.CPUStat": _numbered("uint64", "usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec")
    + ", PSIStats psi 7, uint64 nr_bursts 8, uint64 burst_usec 9",
    "cgroups2.MemoryStat": _numbered(
        "uint64",
        "anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon active_anon inactive_file active_file unevictable"
        " slab_reclaimable slab_unreclaimable pgfault pgmajfault workingset_refault workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal"
        " pgactivate pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc usage usage_limit swap_usage swap_limit max_usage swap_max_usage",
    )
    + ", PSIStats psi 38, "
    + _numbered("uint64", "workingset_refault_anon workingset_refault_file workingset_activate_anon workingset_activate_file", 39),
    "cgroups2.MemoryEvents": _numbered("uint64", "low high max oom oom_kill oom_group_kill"),
    "cgroups2.RdmaStat": _RDMA,
    "cgroups2.RdmaEntry": _RDMA_ENTRY,
    "cgroups2.IOStat": "IOEntry* usage 1, PSIStats psi 2",
    "cgroups2.IOEntry": _numbered("uint64", "major minor rbytes wbytes rios wios"),
    "cgroups2.HugeTlbStat": "uint64 current 1, uint64 max 2, string pagesize 3, uint64 failcnt 4",
    "cgroups2.NetworkStat": _NETWORK,
}

wire.add(TABLE)
