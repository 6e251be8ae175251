# SPDX-License-Identifier: Apache-2.0
"""The plan of `exec`: one more process for a container that is there. The same operations as a create's, without those that make one.

The launcher joins what init of the container lives in, and its clone becomes the process: in the container's cgroups from its
first instruction, non-dumpable before it enters anything, and known to the caller before it executes. Nobody starts it.
"""

from wherry.kernel.native import constants
from wherry.plan import isolation, process
from wherry.plan.compile import Job
from wherry.plan.encode import ID, INIT, LAUNCHER, NO_REGISTER, PID
from wherry.plan.mounts import MOUNT_POINT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wherry.kernel.hostfacts import HostFacts
    from wherry.plan.options import Options


class Cgroup:
    """One cgroup to be in: an absolute path, of which so many bytes are the mount point; which hierarchy that is says the mount."""

    __slots__ = ("mount_length", "path", "v2")

    def __init__(self, path: str, mount_length: int, v2: bool) -> None:
        self.path, self.mount_length, self.v2 = path, mount_length, v2

    @property
    def mount(self) -> str:
        return self.path[: self.mount_length]


class Target:
    """What an exec has to know of the container besides its configuration.

    namespaces: type (as the configuration names it) -> path, of those that are not the caller's own. keyring: the container has a
    session keyring of its own. setgroups_denied: in its user namespace.
    """

    __slots__ = ("cgroups", "keyring", "namespaces", "pid", "setgroups_denied")

    def __init__(
        self, pid: "int | str", namespaces: "dict[str, str]", cgroups: "Sequence[Cgroup]", keyring: bool = True, setgroups_denied: bool = False
    ) -> None:
        self.pid, self.namespaces, self.cgroups = pid, namespaces, list(cgroups)
        self.keyring, self.setgroups_denied = keyring, setgroups_denied


class ExecJob(Job):
    """A Job whose container is there already."""

    __slots__ = ("target",)

    def __init__(self, config: "dict[str, Any]", target: Target, facts: "HostFacts", options: "Options") -> None:
        named = (config.get("linux") or {}).get("namespaces") or ()
        joined = [{"type": kind, "path": path} for kind, path in target.namespaces.items()]
        super().__init__({**config, "linux": {**(config.get("linux") or {}), "namespaces": joined}}, facts, options)
        places = {entry["type"]: f"/linux/namespaces/{index}" for index, entry in enumerate(named)}
        self.namespaces = {kind: (path, places.get(kind, "/linux/namespaces")) for kind, path in target.namespaces.items()}
        self.target = target
        self.setgroups_denied = target.setgroups_denied
        self.flags = constants.WHERRY_PLAN_EXEC

    def container_state(self, status: str) -> str:
        """The process gets a pid of its own; that of the container is known."""
        return super().container_state("running").replace(PID, str(self.target.pid))


def compile(config: "dict[str, Any]", given: "dict[str, Any]", target: Target, facts: "HostFacts", options: "Options") -> bytes:
    """The plan for the process `given` (checked by oci.checks) in the container of `config`."""
    job = ExecJob({**config, "process": given}, target, facts, options)
    job.affinity = _affinity((given.get("execCPUAffinity") or {}).get("final") or "")
    cgroups(job)
    if in_one_step(job):
        launch(job)
    else:
        job.b.launch()
        isolation.before_clone(job)
    if not any(entry["type"] == "mount" for entry in (config.get("linux") or {}).get("namespaces") or ()):
        job.b.chroot(MOUNT_POINT, "/linux/namespaces")
    if target.keyring:
        job.b.keyring(f"_ses.{ID}")
    if given.get("terminal"):
        size = given.get("consoleSize") or {}
        job.b.console(size.get("height", 0), size.get("width", 0), given["user"].get("uid", 0), "/process/terminal")
    job.b.working_directory(given["cwd"], False, 0, "/process/cwd")
    process.settle(job, given)
    job.b.publish(None)
    process.confine(job)
    process.execute(job)
    return job.b.finish(_flags(job), job.registers, job.inherited, facts.key, options.build_id)


def in_one_step(job: ExecJob) -> bool:
    """Whether all namespaces can be joined by a pidfd of the container's init (Linux 5.8): where it does not matter which comes first. Who joins a user
    namespace loses rights that other joins need, or gets them; who joins a time namespace has another clock."""
    return job.kernel >= (5, 8) and bool(job.namespaces) and not {"user", "time"} & job.namespaces.keys()


def launch(job: ExecJob) -> None:
    """The launcher's part, and init's joins. The pidfd is closed behind the last step that needs it: before the process enters a cgroup v1, where it
    could be stopped."""
    b, place = job.b, "/linux/namespaces"
    before, _, after = (sum(isolation.CLONE[kind] for kind in kinds) for kinds in isolation.joins(job))
    target = job.register()
    job.inherited = job.registers
    b.open_target(target)
    b.launch()
    isolation.oom_score_adj(job)
    if before:
        b.join(LAUNCHER, before, target, place, keep=bool(after))
    b.clone(0, job.into, place)
    if after:
        b.join(INIT, after, target, place)
    isolation.attach(job)


def cgroups(job: ExecJob) -> None:
    """Opened by the caller, with the host's credentials: the v2 directory to be born in, `tasks` of each v1 hierarchy to be written to."""
    b, facts, known = job.b, job.facts, {cgroup.mount: cgroup for cgroup in job.target.cgroups}
    hierarchies = facts.hierarchies if facts.cgroup_mode in ("v1", "hybrid") else []
    tasks = [job.register() for _ in hierarchies]
    unified = next((cgroup for cgroup in job.target.cgroups if cgroup.v2), None)
    if unified is not None:
        job.into = job.register()
    job.inherited = job.registers
    if unified is not None:
        flags = constants.WHERRY_CGROUP_JOIN | constants.WHERRY_CGROUP_V2
        b.cgroup_directory(unified.path, unified.mount_length, flags, job.into, "")
    for hierarchy, out in zip(hierarchies, tasks, strict=True):
        cgroup = known.get(hierarchy.mount)
        if cgroup is None:
            continue  # the register stays empty, and its step does nothing: there was no permission when the container was made
        b.open_tasks(NO_REGISTER, f"{cgroup.path}/tasks", out, 0, "")


def _affinity(processors: str) -> bytes:
    """A list such as "0-3,7" as the kernel's bit mask."""
    if not processors:
        return b""
    from wherry.plan.scheduling import node_mask

    mask = node_mask(processors)
    return mask.to_bytes((mask.bit_length() + 63) // 64 * 8, "little")


def _flags(job: ExecJob) -> int:
    flags = job.flags
    if job.joined_user:  # for the permissions of the keyring
        flags |= constants.WHERRY_PLAN_NEW_USER
    if not job.privileged:
        flags |= constants.WHERRY_PLAN_ROOTLESS
    if job.process is not None and job.process.get("terminal"):
        flags |= constants.WHERRY_PLAN_TERMINAL
    return int(flags & ~constants.WHERRY_PLAN_CACHEABLE)
