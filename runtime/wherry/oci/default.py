# SPDX-License-Identifier: Apache-2.0
"""Configurations to start from: `spec` is what `wherry spec` writes, `sandbox` what `wherry run --rootfs DIR -- CMD` runs.

`spec` is the starting point that every runtime prints, for a person who edits it. `sandbox` is for a program that nobody has read: no
network, no capabilities, no new privileges, limits, and a system call filter that lists what ordinary programs need.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wherry.oci.model import Config, IdMapping, Linux, Mount, Namespace, Process, Resources, Seccomp, SeccompRule

VERSION = "1.3.0"  # of the runtime specification
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What tells of the host or changes it, seen from a container that is root.
MASKED = (
    "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list "
    "/proc/timer_stats /sys/devices/virtual/powercap /sys/firmware"
).split()
READONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()


def _mount(destination: str, kind: str, source: str, options: str = "") -> "Mount":
    mount: "Mount" = {"destination": destination, "type": kind, "source": source}
    if options:
        mount["options"] = options.split()
    return mount


def _mounts(tty_group: bool = True) -> "list[Mount]":
    return [
        _mount("/proc", "proc", "proc"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid strictatime mode=755 size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620" + (" gid=5" if tty_group else "")),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid noexec nodev mode=1777 size=65536k"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid noexec nodev relatime ro"),
    ]


def _namespaces(names: str) -> "list[Namespace]":
    return [{"type": name} for name in names.split()]  # type: ignore[typeddict-item]


def spec(rootless: bool = False, uid: int = 0, gid: int = 0, cgroup_namespace: bool = True) -> "Config":
    """A shell in ./rootfs. Rootless: `uid` and `gid` on the host become root in the container, which shares the host's network."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    process: "Process" = {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": [PATH, "TERM=xterm"],
        "cwd": "/",
        "capabilities": {"bounding": capabilities, "effective": list(capabilities), "permitted": list(capabilities)},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }
    linux: "Linux" = {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": _namespaces("pid network ipc uts mount" + (" cgroup" if cgroup_namespace else "")),
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READONLY),
    }
    config: "Config" = {
        "ociVersion": VERSION,
        "process": process,
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "wherry",
        "mounts": _mounts(tty_group=not rootless),
        "linux": linux,
    }
    if rootless:
        del linux["resources"]
        linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
        linux["namespaces"] = _namespaces("pid ipc uts mount user" + (" cgroup" if cgroup_namespace else ""))
        config["mounts"][5] = _mount("/sys", "none", "/sys", "rbind nosuid noexec nodev ro")
    return config


# ---- the sandbox

MEMORY = 1 << 30
PROCESSES = 512


def sandbox(
    rootfs: str,
    args: "Sequence[str]",
    *,
    env: "Mapping[str, str] | None" = None,
    cwd: str = "/",
    uid: int = 0,
    gid: int = 0,
    hostname: str = "sandbox",
    terminal: bool = False,
    readonly: bool = True,
    network: bool = False,
    memory: "int | None" = MEMORY,
    processors: "float | None" = None,
    processes: "int | None" = PROCESSES,
    mappings: "tuple[list[IdMapping], list[IdMapping]] | None" = None,
    limits: bool = True,
    seccomp: bool = True,
) -> "Config":
    """A configuration for a program that is not trusted. `mappings` (uids, gids) put it into a user namespace of its own;
    `network` shares the host's; `limits` false leaves the cgroup as it is (rootless without delegation)."""
    spaces = "pid ipc uts mount cgroup" + ("" if network else " network") + (" user" if mappings else "")
    linux: "Linux" = {
        "namespaces": _namespaces(spaces),
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READONLY),
    }
    if mappings:
        linux["uidMappings"], linux["gidMappings"] = mappings
    if limits:
        linux["resources"] = _resources(memory, processors, processes)
    if seccomp:
        linux["seccomp"] = profile()
    return {
        "ociVersion": VERSION,
        "process": _sandbox_process(args, env or {}, cwd, uid, gid, terminal),
        "root": {"path": rootfs, "readonly": readonly},
        "hostname": hostname,
        "mounts": _sandbox_mounts(mappings, network, readonly),
        "linux": linux,
    }


def _sandbox_process(args: "Sequence[str]", env: "Mapping[str, str]", cwd: str, uid: int, gid: int, terminal: bool) -> "Process":
    environment = {"PATH": PATH.partition("=")[2], **({"TERM": "xterm"} if terminal else {}), **env}
    return {
        "terminal": terminal,
        "user": {"uid": uid, "gid": gid},
        "args": list(args),
        "env": [f"{name}={value}" for name, value in environment.items()],
        "cwd": cwd,
        "capabilities": {},
        "rlimits": [
            {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
            {"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024},  # no more than any caller may give without privilege
        ],
        "noNewPrivileges": True,
    }


def _sandbox_mounts(mappings: "tuple[list[IdMapping], list[IdMapping]] | None", network: bool, readonly: bool) -> "list[Mount]":
    """As for `spec`, without the host's cgroups, and with places to write where the root filesystem is none."""
    tty_group = not mappings or any(entry["containerID"] <= 5 < entry["containerID"] + entry["size"] for entry in mappings[1])
    mounts = _mounts(tty_group)[:-1]
    if mappings and network:  # a fresh sysfs needs the network namespace to be the container's
        mounts[5] = _mount("/sys", "none", "/sys", "rbind nosuid noexec nodev ro")
    if readonly:
        mounts += (_mount(path, "tmpfs", "tmpfs", "nosuid nodev mode=1777") for path in ("/tmp", "/var/tmp"))
        mounts.append(_mount("/run", "tmpfs", "tmpfs", "nosuid nodev mode=755"))
    return mounts


def _resources(memory: "int | None", processors: "float | None", processes: "int | None") -> "Resources":
    resources: "Resources" = {"devices": [{"allow": False, "access": "rwm"}]}
    if memory is not None:
        resources["memory"] = {"limit": memory, "swap": memory}  # swap counts both: no swap
    if processors is not None:
        resources["cpu"] = {"quota": max(1000, round(processors * 100_000)), "period": 100_000}
    if processes is not None:
        resources["pids"] = {"limit": processes}
    return resources


# ---- the system call filter of a sandbox: what is listed is allowed. The kernel's attack surface is what is not.
# Left out on purpose: everything that needs a capability; namespaces (clone, unshare, setns, and clone3, whose flags no filter can
# see); other processes (ptrace, process_vm_*, kcmp, pidfd_getfd); the keyrings; bpf, perf_event_open, io_uring_*, userfaultfd,
# which is where kernel bugs have been; file handles, which lead around paths.

_CALLS = {
    "files": """
        access cachestat chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
        fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr
        fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init
        inotify_init1 inotify_rm_watch ioctl lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr
        lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2
        read readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile setxattr
        setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime
        utimensat utimes vmsplice write writev
    """,
    "memory": """
        brk madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync munlock
        munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
    """,
    "processes": """
        arch_prctl capget capset execve execveat exit exit_group fork get_robust_list getcpu getegid geteuid getgid getgroups getpgid
        getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill
        landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall
        riscv_flush_icache riscv_hwprobe rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
        sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler
        sched_yield seccomp set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid setresgid
        setresuid setreuid setrlimit setsid setuid sysinfo tgkill times tkill uname vfork wait4 waitid
    """,
    "signals": """
        pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
        sigaltstack signalfd signalfd4
    """,
    "time": """
        alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
        timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime
    """,
    "waiting": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 futex futex_requeue futex_wait
        futex_waitv futex_wake io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit poll ppoll pselect6 select
    """,
    "messages": """
        accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify mq_open mq_timedreceive
        mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg semctl semget semop semtimedop sendmmsg sendmsg
        sendto setsockopt shmat shmctl shmdt shmget shutdown socketpair
    """,
    "randomness": "getrandom",
}

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX AF_INET AF_INET6 AF_NETLINK
_PERSONALITIES = (0, 8, 0xFFFFFFFF)  # PER_LINUX, PER_LINUX32, "which one is it?"
_ENOSYS = 38


def profile() -> "Seccomp":
    """For the native architecture only: a program of another one is not run."""
    rules: "list[SeccompRule]" = [
        {"names": sorted(name for names in _CALLS.values() for name in names.split()), "action": "SCMP_ACT_ALLOW"},
        _allow("clone", _NEW_NAMESPACES, 0, operator="SCMP_CMP_MASKED_EQ"),
        *(_allow("socket", family) for family in _FAMILIES),
        *(_allow("personality", value) for value in _PERSONALITIES),
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},  # C libraries fall back to clone
    ]
    return {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": rules}


def _allow(name: str, value: int, second: int = 0, operator: str = "SCMP_CMP_EQ") -> "SeccompRule":
    """`name` is allowed when its first argument compares so."""
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": value, "valueTwo": second, "op": operator}]}
