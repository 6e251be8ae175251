# SPDX-License-Identifier: Apache-2.0
"""The runtime specification's documents as types (1.3, Linux). For type checkers only: nothing imports this at run time.

`config.load` promises that the top is an object, `checks.check` that everything in it has the type written here.
"""

from typing import Any, Literal, Required, TypedDict


class Box(TypedDict, total=False):
    height: Required[int]
    width: Required[int]


class User(TypedDict, total=False):
    uid: Required[int]
    gid: Required[int]
    umask: int
    additionalGids: list[int]
    username: str


class Rlimit(TypedDict):
    type: str
    soft: int
    hard: int


class Capabilities(TypedDict, total=False):
    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class Scheduler(TypedDict, total=False):
    policy: Required[str]
    nice: int
    priority: int
    flags: list[str]
    runtime: int
    deadline: int
    period: int


IoPriority = TypedDict("IoPriority", {"class": str, "priority": int}, total=False)


class CpuAffinity(TypedDict, total=False):
    initial: str
    final: str


class Process(TypedDict, total=False):
    terminal: bool
    consoleSize: Box
    cwd: Required[str]
    env: list[str]
    args: list[str]
    commandLine: str
    user: Required[User]
    rlimits: list[Rlimit]
    capabilities: Capabilities
    noNewPrivileges: bool
    oomScoreAdj: int
    apparmorProfile: str
    selinuxLabel: str
    scheduler: Scheduler
    ioPriority: IoPriority
    execCPUAffinity: CpuAffinity


class Root(TypedDict, total=False):
    path: Required[str]
    readonly: bool


class IdMapping(TypedDict):
    containerID: int
    hostID: int
    size: int


class Mount(TypedDict, total=False):
    destination: Required[str]
    type: str
    source: str
    options: list[str]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]


class Hook(TypedDict, total=False):
    path: Required[str]
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


NamespaceType = Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]


class Namespace(TypedDict, total=False):
    type: Required[NamespaceType]
    path: str


class TimeOffset(TypedDict, total=False):
    secs: int
    nanosecs: int


class Device(TypedDict, total=False):
    type: Required[Literal["c", "b", "u", "p"]]
    path: Required[str]
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class NetDevice(TypedDict, total=False):
    name: str


class DeviceRule(TypedDict, total=False):
    allow: Required[bool]
    type: Literal["a", "b", "c"]
    major: int
    minor: int
    access: str


class Memory(TypedDict, total=False):
    limit: int
    reservation: int
    swap: int
    kernel: int
    kernelTCP: int
    swappiness: int
    disableOOMKiller: bool
    useHierarchy: bool
    checkBeforeUpdate: bool


class Cpu(TypedDict, total=False):
    shares: int
    quota: int
    burst: int
    period: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class Pids(TypedDict, total=False):
    limit: int


class WeightDevice(TypedDict, total=False):
    major: Required[int]
    minor: Required[int]
    weight: int
    leafWeight: int


class ThrottleDevice(TypedDict):
    major: int
    minor: int
    rate: int


class BlockIO(TypedDict, total=False):
    weight: int
    leafWeight: int
    weightDevice: list[WeightDevice]
    throttleReadBpsDevice: list[ThrottleDevice]
    throttleWriteBpsDevice: list[ThrottleDevice]
    throttleReadIOPSDevice: list[ThrottleDevice]
    throttleWriteIOPSDevice: list[ThrottleDevice]


class HugepageLimit(TypedDict):
    pageSize: str
    limit: int


class InterfacePriority(TypedDict):
    name: str
    priority: int


class Network(TypedDict, total=False):
    classID: int
    priorities: list[InterfacePriority]


class Rdma(TypedDict, total=False):
    hcaHandles: int
    hcaObjects: int


class Resources(TypedDict, total=False):
    devices: list[DeviceRule]
    memory: Memory
    cpu: Cpu
    pids: Pids
    blockIO: BlockIO
    hugepageLimits: list[HugepageLimit]
    network: Network
    rdma: dict[str, Rdma]
    unified: dict[str, str]


class SeccompArg(TypedDict, total=False):
    index: Required[int]
    value: Required[int]
    valueTwo: int
    op: Required[str]


class SeccompRule(TypedDict, total=False):
    names: Required[list[str]]
    action: Required[str]
    errnoRet: int
    args: list[SeccompArg]


class Seccomp(TypedDict, total=False):
    defaultAction: Required[str]
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[SeccompRule]


class Personality(TypedDict, total=False):
    domain: Required[str]
    flags: list[str]


class IntelRdt(TypedDict, total=False):
    closID: str
    l3CacheSchema: str
    memBwSchema: str
    schemata: list[str]
    enableMonitoring: bool


class MemoryPolicy(TypedDict, total=False):
    mode: Required[str]
    nodes: str
    flags: list[str]


class Linux(TypedDict, total=False):
    namespaces: list[Namespace]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    timeOffsets: dict[str, TimeOffset]
    devices: list[Device]
    netDevices: dict[str, NetDevice]
    cgroupsPath: str
    resources: Resources
    sysctl: dict[str, str]
    seccomp: Seccomp
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    personality: Personality
    intelRdt: IntelRdt
    memoryPolicy: MemoryPolicy


class Config(TypedDict, total=False):
    ociVersion: Required[str]
    root: Root
    hostname: str
    domainname: str
    process: Process
    mounts: list[Mount]
    hooks: Hooks
    annotations: dict[str, str]
    linux: Linux
    vm: dict[str, Any]


class State(TypedDict, total=False):
    """What `wherry state` prints."""

    ociVersion: Required[str]
    id: Required[str]
    pid: Required[int]
    status: Required[str]
    bundle: Required[str]
    rootfs: str
    created: str
    annotations: dict[str, str]
    owner: str
