# SPDX-License-Identifier: Apache-2.0
"""The user's process: how it runs, who it is, what it may do, and what it executes."""

from _json import encode_basestring as quote

from wherry.kernel.native import constants
from wherry.oci.checks import CAPABILITIES
from wherry.plan import mounts
from wherry.plan.encode import INIT, LAUNCHER, NO_REGISTER, PID
from wherry.plan.isolation import setgroups_denied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.plan.compile import Job

    Process = dict[str, Any]

RLIMITS = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split()
    )
}
_LAST = ("RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_NOFILE")  # of these the last one bites hardest

CAPABILITY = {name: 1 << number for number, name in enumerate(CAPABILITIES)}
SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
DEFAULT_PATH = "/bin:/usr/bin"  # execvp's, where the environment has no PATH
DEFAULT_UMASK = 0o022
LANDLOCK = "org.wherry.landlock"  # wherry.oci.landlock


def working_directory(job: "Job", process: "Process", stage: int) -> None:
    """Before the root becomes read-only, because a missing one is made; and again as the user where root may not enter."""
    job.b.working_directory(process["cwd"], stage == 0, stage, "/process/cwd")


def settle(job: "Job", process: "Process") -> None:
    """All but the execution. Privileged steps first; from the identity on nothing is left but what the user has."""
    b = job.b
    scheduling(job, process)
    b.umask(process["user"].get("umask", DEFAULT_UMASK), "/process/user/umask" if "umask" in process["user"] else "")
    program(job, process)
    security_label(job, process)
    limits(job, process)  # so late, because a small one for files, descriptors or processes would break our own steps
    if LANDLOCK in job.annotations:  # while CAP_SYS_ADMIN is there: it may be had without no_new_privs
        from wherry.plan import landlock

        landlock.add(job, job.annotations[LANDLOCK])
    filtered = seccomp(job, process)
    unprivileged = bool(process.get("noNewPrivileges"))
    if filtered is not None and not unprivileged:  # without no_new_privs only CAP_SYS_ADMIN may load a filter
        load(job, filtered)
    sets = capability_sets(job, process)
    place = "/process/capabilities" if "capabilities" in process else ""
    b.bounding(sets["bounding"], place)
    identity(job, process)
    working_directory(job, process, 1)
    b.capabilities(sets["effective"], sets["permitted"], sets["inheritable"], sets["ambient"], place)
    if unprivileged:
        b.no_new_privileges("/process/noNewPrivileges")
        if filtered is not None and filtered[2] != NO_REGISTER:  # its listener is told before the container counts as created
            load(job, filtered)
            filtered = None
        job.last_filter = filtered


def confine(job: "Job") -> None:
    if job.last_filter is not None:  # as late as can be: it has to allow nothing but execve, and what hooks need
        load(job, job.last_filter)


def execute(job: "Job") -> None:
    job.b.execute("/process/args")


# ---- how it runs


def scheduling(job: "Job", process: "Process") -> None:
    # the caller's has nothing to do with the container
    job.b.cpu_affinity(job.affinity, "/process/execCPUAffinity/final" if job.affinity else "")
    if "personality" in job.linux or "scheduler" in process or "ioPriority" in process or "memoryPolicy" in job.linux:
        from wherry.plan.scheduling import add

        add(job, process)


def limits(job: "Job", process: "Process") -> None:
    """By the launcher where init is only root of a user namespace: it may not raise a hard limit."""
    executor = LAUNCHER if job.launcher_helps else INIT
    given = [(limit, f"/process/rlimits/{index}") for index, limit in enumerate(process.get("rlimits") or ())]
    for limit, place in sorted(given, key=lambda pair: _LAST.index(pair[0]["type"]) + 1 if pair[0]["type"] in _LAST else 0):
        job.b.rlimit(executor, RLIMITS[limit["type"]], limit["soft"], limit["hard"], place)


# ---- what it executes


def environment(job: "Job", process: "Process") -> "tuple[list[str], str, bool]":
    """The variables, PATH, and whether C is to fill in HOME from the container's passwd file. Later entries win, as in runc."""
    environment: "dict[str, str]" = {}
    for entry in (*(process.get("env") or ()), *job.options.environment):
        name = entry.partition("=")[0]
        environment.pop(name, None)
        environment[name] = entry
    path = environment["PATH"][5:] if "PATH" in environment else DEFAULT_PATH
    return list(environment.values()), path, environment.get("HOME", "HOME=") == "HOME="


def program(job: "Job", process: "Process") -> None:
    """It is looked up now, so that a missing program fails the create."""
    variables, path, fill_home = environment(job, process)
    flags = constants.WHERRY_PROGRAM_FILL_HOME if fill_home else 0
    if job.options.adopts:
        flags |= constants.WHERRY_PROGRAM_ADOPTS
    job.b.program(process["args"], variables, path, process["user"].get("uid", 0), flags, "/process/args")


# ---- who it is and what it may do


def security_label(job: "Job", process: "Process") -> None:
    for key, module in (("apparmorProfile", "apparmor"), ("selinuxLabel", "selinux")):
        if process.get(key):
            mounts.need_lsm(job, module, f"/process/{key}")
            job.b.security_label(module, process[key], f"/process/{key}")


def identity(job: "Job", process: "Process") -> None:
    user = process["user"]
    groups = user.get("additionalGids") or []
    denied = setgroups_denied(job)
    if denied and groups:
        job.options.warnings.append("/process/user/additionalGids: not set: setgroups is denied in this user namespace")
        groups = []
    job.b.identity(user.get("uid", 0), user.get("gid", 0), groups, denied, "/process/user")


def capability_sets(job: "Job", process: "Process") -> "dict[str, int]":
    """Bit masks. What is unknown or cannot be granted is left out with a warning, as in runc."""
    facts, given = job.facts, process.get("capabilities") or {}
    possible = (2 << facts.cap_last_cap) - 1
    if "user" not in job.namespaces:
        possible &= facts.capabilities
    sets, lost = {}, {}
    for kind in SETS:
        mask = 0
        for name in given.get(kind) or ():
            bit = CAPABILITY.get(name, 0) & possible
            if not bit:
                lost[name] = True
            mask |= bit
        sets[kind] = mask
    if lost:
        job.options.warnings.append(f"/process/capabilities: unknown or not ours to give: {', '.join(lost)}")
    sets["effective"] &= sets["permitted"]
    sets["ambient"] &= sets["permitted"] & sets["inheritable"]
    return sets


# ---- seccomp


def seccomp(job: "Job", process: "Process") -> "tuple[bytes, int, int] | None":
    """(filter, flags, register of the listener)."""
    section = job.linux.get("seccomp")
    if not section:
        return None
    program_, flags = job.options.seccomp(section)
    if not program_:
        return None
    listener = NO_REGISTER
    if any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in section.get("syscalls") or ()):
        listener = job.register()
        job.flags &= ~constants.WHERRY_PLAN_CACHEABLE
    return program_, flags, listener


def load(job: "Job", filtered: "tuple[bytes, int, int]") -> None:
    program_, flags, listener = filtered
    job.b.seccomp(program_, flags, listener, "/linux/seccomp")
    if listener != NO_REGISTER:
        section = job.linux["seccomp"]
        job.b.listener(section["listenerPath"], process_state(job, section), listener, "/linux/seccomp/listenerPath")


def process_state(job: "Job", section: "dict[str, Any]") -> str:
    """What the listener gets together with the descriptor: the specification's container process state."""
    metadata = f',"metadata":{quote(section["listenerMetadata"])}' if section.get("listenerMetadata") else ""
    version = quote(job.config["ociVersion"])
    state = job.container_state("creating")
    return f'{{"ociVersion":{version},"fds":["seccompFd"],"pid":{PID}{metadata},"state":{state}}}'
