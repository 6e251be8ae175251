# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies: configurations that are valid by construction, and together use every section; and ways to break one value."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from wherry.oci.checks import CAPABILITIES, CONFIG, RLIMITS
from wherry.oci.checks_rare import HOOK_KINDS, IO_CLASSES, SCHEDULER_FLAGS
from wherry.oci.checks_seccomp import ARCHITECTURES, FLAGS, OPERATORS
from wherry.oci.shape import Late, Map, Object

Config = dict[str, Any]
I64 = st.integers(-(2**63), 2**63 - 1)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
WORD = st.text("abcXYZ0189_-é", min_size=1, max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x01\n\r"), max_size=12)  # U+0001 cannot be in the slots of a plan
PATH = st.lists(WORD, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
LIST = st.sampled_from(["0", "0-3", "0,2-3", " 1 ", "0-1,7"])
NUMBER = st.integers(0, 2**31)


def few(strategy: st.SearchStrategy[Any], most: int = 3, **more: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, max_size=most, **more)


def maybe(required: dict[str, Any] | None = None, **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Config]:
    return st.fixed_dictionaries(required or {}, optional=optional)


def names(choices: Any, most: int = 4) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(choices)), max_size=most, unique=True) if choices else st.just([])


# ---- process

ENV = few(st.tuples(WORD, TEXT).map("=".join))
USER = maybe({"uid": U32.filter(lambda n: n != 2**32 - 1), "gid": U32.filter(lambda n: n != 2**32 - 1)}, umask=st.integers(0, 0o777), additionalGids=few(st.integers(0, 2**31)))
RLIMIT_LIST = st.lists(st.sampled_from(sorted(RLIMITS)), max_size=4, unique=True).flatmap(
    lambda kinds: st.tuples(*(st.tuples(U64, U64).map(lambda pair, kind=kind: {"type": kind, "soft": min(pair), "hard": max(pair)}) for kind in kinds)).map(list)
)


@st.composite
def capability_sets(draw: st.DrawFn) -> dict[str, list[str]]:
    permitted = draw(names(CAPABILITIES, 6))
    within = st.lists(st.sampled_from(permitted), unique=True) if permitted else st.just([])
    inheritable = draw(within)
    ambient = draw(st.lists(st.sampled_from(inheritable), unique=True)) if inheritable else []
    found = {"permitted": permitted, "effective": draw(within), "inheritable": inheritable, "ambient": ambient, "bounding": draw(names(CAPABILITIES, 6))}
    return {kind: listed for kind, listed in found.items() if listed or draw(st.booleans())}


SCHEDULER = st.one_of(
    maybe({"policy": st.sampled_from(["SCHED_OTHER", "SCHED_BATCH"])}, nice=st.integers(-20, 19), flags=names(SCHEDULER_FLAGS)),
    st.fixed_dictionaries({"policy": st.sampled_from(["SCHED_FIFO", "SCHED_RR"]), "priority": st.integers(1, 99)}),
    maybe({"policy": st.sampled_from(["SCHED_IDLE", "SCHED_ISO"])}),
    st.lists(st.integers(1024, 2**40), min_size=3, max_size=3).map(sorted).map(lambda n: {"policy": "SCHED_DEADLINE", "runtime": n[0], "deadline": n[1], "period": n[2]}),
)
IO_PRIORITY = st.one_of(maybe({"class": st.sampled_from(IO_CLASSES[:2])}, priority=st.integers(0, 7)), st.just({"class": "IOPRIO_CLASS_IDLE"}))
PROCESS = maybe(
    {"cwd": PATH, "user": USER, "args": st.lists(TEXT, max_size=3).map(lambda more: ["program", *more])},
    terminal=st.booleans(), consoleSize=st.fixed_dictionaries({"height": st.integers(0, 65535), "width": st.integers(0, 65535)}), env=ENV, rlimits=RLIMIT_LIST, capabilities=capability_sets(),
    noNewPrivileges=st.booleans(), oomScoreAdj=st.integers(-1000, 1000), scheduler=SCHEDULER, ioPriority=IO_PRIORITY,
    execCPUAffinity=maybe(initial=LIST, final=LIST), apparmorProfile=WORD, selinuxLabel=WORD,
)  # fmt: skip

# ---- mounts

SIMPLE = "ro rw nosuid suid nodev dev noexec exec noatime nodiratime relatime strictatime nosymfollow".split()
OPTIONS = few(st.sampled_from([*SIMPLE, *(f"r{name}" for name in SIMPLE), "defaults"]), 4)
PROPAGATION = few(st.sampled_from("private rprivate slave rslave shared rshared unbindable".split()), 1)
SUPERBLOCK = few(st.sampled_from("sync dirsync lazytime mand silent loud size=1m mode=755 uid=5".split()), 3)
TARGET = PATH.map(lambda path: f"/at{path}")


def bind(mapped: bool) -> st.SearchStrategy[Config]:
    return st.builds(
        lambda target, source, how, options, more, idmap: {"destination": target, "source": source, "options": [how, *options, *more], **idmap},
        TARGET, st.one_of(PATH, WORD), st.sampled_from(["bind", "rbind"]), OPTIONS, PROPAGATION, IDMAP if mapped else st.just({}),
    )  # fmt: skip


ONE_MAPPING = [{"containerID": 0, "hostID": 1000, "size": 10}]
IDMAP = st.one_of(st.just({}), st.just({"uidMappings": ONE_MAPPING, "gidMappings": ONE_MAPPING}))
FILESYSTEM = st.builds(
    lambda target, kind, options, data, more: {"destination": target, "type": kind, "source": kind, "options": [*options, *data, *more]},
    TARGET, st.sampled_from(["tmpfs", "tmpfs", "proc", "sysfs", "mqueue", "devpts", "ext4", "overlay", "cgroup"]), OPTIONS, SUPERBLOCK, PROPAGATION,
)  # fmt: skip
COPY_UP = st.builds(lambda target, options: {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", *options]}, TARGET, OPTIONS)
LXCFS = st.just({"destination": "/proc/meminfo", "source": "/lxcfs/meminfo", "options": ["bind"]})
MOUNTS = few(st.one_of(bind(True), FILESYSTEM, COPY_UP, LXCFS), 5)

# ---- linux

NUMBERS = {"major": st.integers(0, 4095), "minor": st.integers(0, 2**20 - 1)}
FILE = {"fileMode": st.integers(0, 0o7777), "uid": NUMBER, "gid": NUMBER}
DEVICE = st.one_of(
    maybe({"type": st.sampled_from("cbu"), "path": PATH.map(lambda path: f"/dev{path}"), **NUMBERS}, **FILE),
    maybe({"type": st.just("p"), "path": PATH.map(lambda path: f"/dev{path}")}, **FILE),
)
RULE = maybe({"allow": st.booleans()}, type=st.sampled_from("abc"), major=st.integers(-1, 4095), minor=st.integers(-1, 2**20 - 1), access=st.sampled_from(["r", "w", "rwm", "rm"]))
WEIGHT = st.one_of(st.just(0), st.integers(10, 1000))
RATES = few(st.fixed_dictionaries({**NUMBERS, "rate": U64}), 2)
MEMORY = st.builds(
    lambda limit, swap, more: {"limit": limit, "swap": limit + swap, **more},
    st.integers(1, 2**40), st.integers(0, 2**40),
    maybe(reservation=st.integers(-1, 2**40), swappiness=st.integers(0, 100), disableOOMKiller=st.booleans(), useHierarchy=st.booleans(), checkBeforeUpdate=st.booleans()),
)  # fmt: skip
CPU = maybe(shares=st.integers(0, 300000), quota=st.integers(1000, 2**40), period=st.integers(1000, 10**6), burst=st.integers(0, 1000), realtimeRuntime=st.integers(0, 10**6),
            realtimePeriod=st.integers(0, 10**6), cpus=LIST, mems=LIST, idle=st.integers(0, 1))  # fmt: skip
BLOCK = maybe(weight=WEIGHT, leafWeight=WEIGHT, weightDevice=few(maybe(NUMBERS, weight=WEIGHT, leafWeight=WEIGHT), 2), throttleReadBpsDevice=RATES, throttleWriteBpsDevice=RATES,
              throttleReadIOPSDevice=RATES, throttleWriteIOPSDevice=RATES)  # fmt: skip
NAME = st.text("abcdef0123", min_size=1, max_size=10)
RESOURCES = maybe(
    devices=few(RULE), memory=MEMORY, cpu=CPU, pids=maybe(limit=st.integers(-1, 2**40)), blockIO=BLOCK,
    hugepageLimits=few(st.fixed_dictionaries({"pageSize": st.sampled_from(["2MB", "1GB", "64KB"]), "limit": U64})),
    network=maybe(classID=U32, priorities=few(st.fixed_dictionaries({"name": NAME, "priority": U32}))),
    rdma=st.dictionaries(NAME, maybe({"hcaHandles": U32}, hcaObjects=U32), max_size=2), unified=st.dictionaries(st.tuples(NAME, NAME).map("own-{0[0]}.{0[1]}".format), TEXT, max_size=2),
)  # fmt: skip
CALLS = st.lists(st.sampled_from("mkdir chmod chown swapon acct ptrace unlink link personality clone".split()), min_size=1, max_size=3, unique=True)
ARGUMENT = st.one_of(
    st.fixed_dictionaries({"index": st.integers(0, 5), "value": U64, "op": st.sampled_from(sorted(OPERATORS - {"SCMP_CMP_MASKED_EQ"}))}),
    st.fixed_dictionaries({"index": st.integers(0, 5), "value": U64, "valueTwo": U64, "op": st.just("SCMP_CMP_MASKED_EQ")}),
)
RULES = few(
    st.one_of(
        maybe({"names": CALLS, "action": st.sampled_from(["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"])}, errnoRet=st.integers(0, 4095), args=few(ARGUMENT, 2)),
        maybe({"names": CALLS, "action": st.sampled_from("SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_TRAP SCMP_ACT_LOG SCMP_ACT_ALLOW".split())}, args=few(ARGUMENT, 2)),
    ),
    5,
)
SECCOMP = st.one_of(
    maybe({"defaultAction": st.just("SCMP_ACT_ERRNO")}, defaultErrnoRet=st.integers(0, 4095), architectures=names(ARCHITECTURES, 2), syscalls=RULES),
    maybe({"defaultAction": st.just("SCMP_ACT_ALLOW")}, flags=names(FLAGS - {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}), syscalls=RULES),
    st.just({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent", "listenerMetadata": "x", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
)
HOOK = maybe({"path": PATH}, args=few(TEXT), env=ENV, timeout=st.integers(1, 100))
MODES = ["MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE", "MPOL_PREFERRED_MANY"]
MEMORY_POLICY = st.one_of(
    st.fixed_dictionaries({"mode": st.sampled_from(MODES), "nodes": LIST, "flags": names(["MPOL_F_STATIC_NODES"], 1)}), st.just({"mode": "MPOL_LOCAL"}), st.just({"mode": "MPOL_DEFAULT"})
)
OFFSETS = st.dictionaries(st.sampled_from(["monotonic", "boottime"]), maybe(secs=st.integers(-(2**40), 2**40), nanosecs=st.integers(0, 999_999_999)), max_size=2)
RDT = maybe(closID=NAME, l3CacheSchema=st.just("L3:0=f"), memBwSchema=st.just("MB:0=50"), schemata=few(st.just("L2:0=f"), 1), enableMonitoring=st.booleans())
SYSCTLS = {"network": ["net.ipv4.ip_forward", "net/core/somaxconn"], "ipc": ["kernel.msgmax", "fs.mqueue.msg_max"], "uts": ["kernel.domainname"], "user": ["user.max_uts_namespaces"]}
MAPPINGS = st.sampled_from([[(0, 100000, 65536)], [(0, 1000, 1), (1, 100000, 65535)], [(0, 0, 1)]]).map(
    lambda ranges: [{"containerID": inner, "hostID": outer, "size": size} for inner, outer, size in ranges]
)
LINUX = maybe(
    cgroupsPath=st.one_of(PATH, WORD), devices=few(DEVICE), resources=RESOURCES, seccomp=SECCOMP, mountLabel=WORD, personality=st.fixed_dictionaries({"domain": st.sampled_from(["LINUX", "LINUX32"])}),
    rootfsPropagation=st.sampled_from("shared slave private unbindable rshared rslave rprivate".split()), maskedPaths=few(PATH), readonlyPaths=few(PATH), intelRdt=RDT, memoryPolicy=MEMORY_POLICY,
)  # fmt: skip


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """A valid configuration: sections that need a namespace are there only with it."""
    kinds = {"mount", *draw(names("pid network ipc uts user cgroup time".split(), 7))}
    linux = draw(LINUX)
    joined = draw(names(kinds - {"mount", "time", "user", "pid"}, 2))
    linux["namespaces"] = [{"type": kind, "path": f"/ns/{kind}"} if kind in joined else {"type": kind} for kind in draw(st.permutations(sorted(kinds)))]
    config: Config = {"ociVersion": draw(st.sampled_from(["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0"])), "root": {"path": draw(st.one_of(PATH, WORD)), "readonly": draw(st.booleans())}, "linux": linux}
    if "user" in kinds:
        linux["uidMappings"], linux["gidMappings"] = draw(MAPPINGS), draw(MAPPINGS)
    if "time" in kinds:
        linux["timeOffsets"] = draw(OFFSETS)
    if "network" in kinds and draw(st.booleans()):
        linux["netDevices"] = draw(st.dictionaries(NAME, st.one_of(st.just({}), st.just({"name": "net%d"})), max_size=2))
    if "uts" in kinds:
        config |= draw(maybe(hostname=NAME, domainname=NAME))
    settings = [key for kind, keys in SYSCTLS.items() if kind in kinds for key in keys]
    linux["sysctl"] = draw(st.dictionaries(st.sampled_from(settings), TEXT, max_size=3)) if settings else {}
    return config | draw(maybe({"process": PROCESS, "mounts": MOUNTS}, annotations=st.dictionaries(WORD, TEXT, max_size=3), hooks=maybe(**{kind: few(HOOK, 2) for kind in HOOK_KINDS})))


# ---- broken values


def places(value: Any, want: Any, pointer: str = "") -> list[tuple[str, Any]]:
    """(pointer, shape) of every value of a configuration that has a shape."""
    if isinstance(want, Late):
        want = want.load()
    found = [(pointer, want)] if pointer else []
    if isinstance(want, Object):
        for key, item in value.items():
            if key in want.properties:
                found += places(item, want.properties[key], f"{pointer}/{key}")
    elif isinstance(want, Map):
        for key, item in value.items():
            found += places(item, want.values, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(want, list):
        for index, item in enumerate(value):
            found += places(item, want[0], f"{pointer}/{index}")
    return found


def wrong(want: Any) -> st.SearchStrategy[Any]:
    """Values that a shape does not allow."""
    options: dict[str, Any] = {"text": "wrong", "true": True, "number": 3, "fraction": 1.5, "list": [1.5], "object": {"a": 1}}
    if isinstance(want, tuple):
        return st.sampled_from([want[0] - 1, want[1] + 1, *(options[kind] for kind in ("text", "true", "fraction", "list", "object"))])
    if isinstance(want, Object | Map):
        return st.sampled_from([options[kind] for kind in ("text", "true", "number", "list")])
    if isinstance(want, list):
        return st.sampled_from([options[kind] for kind in ("text", "true", "number", "object")])
    if isinstance(want, frozenset):
        return st.sampled_from(["", "wrong", *(options[kind] for kind in ("true", "number", "list", "object"))])
    kinds = [kind for kind in options if kind not in ("text" if want is str else "true",)]
    return st.sampled_from([options[kind] for kind in kinds])


@st.composite
def broken(draw: st.DrawFn) -> tuple[Config, str, Any]:
    """(a configuration with one value that its shape does not allow, the pointer of that value, the value)"""
    config = json.loads(json.dumps(draw(configs())))  # nothing is there twice
    pointer, want = draw(st.sampled_from(places(config, CONFIG)))
    value = draw(wrong(want))
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    at: Any = config
    for part in parts[:-1]:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[int(parts[-1]) if isinstance(at, list) else parts[-1]] = value
    return config, pointer, value
