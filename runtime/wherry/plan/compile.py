# SPDX-License-Identifier: Apache-2.0
"""The compiler of launch plans, as an agenda. What a step means and why it stands where it stands is said beside it.

It trusts the shape and the rules of a configuration: oci.checks has run. What it refuses is what this host or this build cannot do,
and it never leaves out silently what the configuration asks for: it raises, or it says so in options.warnings.
"""

from _json import encode_basestring as quote

from wherry.errors import ConfigError, PlanError
from wherry.kernel.native import constants
from wherry.plan import isolation, mounts, process
from wherry.plan.encode import BUNDLE, BUNDLE_JSON, CALLER, CREATED, DIRECTORY, ID, INIT, NO_REGISTER, PID, START_TIME, Builder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wherry.kernel.hostfacts import HostFacts
    from wherry.plan.options import Options
    from wherry.plan.unit import UnitJob

CAP_SYS_ADMIN = 1 << 21


def wanted(config: "dict[str, Any]") -> "dict[str, Any]":
    """What gather() has to look for beyond the usual, for this configuration: gather(**wanted(config))."""
    linux, process_ = config.get("linux") or {}, config.get("process") or {}
    entries = linux.get("namespaces") or ()
    kinds = [entry["type"] for entry in entries]
    joined = [entry["path"] for entry in entries if entry.get("path")]
    return {
        "lsms": bool(process_.get("apparmorProfile") or process_.get("selinuxLabel") or linux.get("mountLabel")),
        "landlock": process.LANDLOCK in (config.get("annotations") or {}),
        "delegate": "cgroup" in kinds,
        "mappers": "user" in kinds,
        "namespaces": joined if "user" in kinds or linux.get("sysctl") else (),
    }


class Job:
    """One compilation: what is given, the builder, and the decisions that more than one part of the plan needs."""

    __slots__ = (
        "affinity",
        "annotations",
        "b",
        "bundle",
        "bundle_json",
        "cgroup",
        "cgroup_mode",
        "cgroup_optional",
        "config",
        "facts",
        "flags",
        "in_user",
        "inherited",
        "into",
        "joined_user",
        "kernel",
        "last_filter",
        "late",
        "launcher_helps",
        "linux",
        "namespaces",
        "new_user",
        "on_host",
        "options",
        "privileged",
        "process",
        "registers",
        "rootfs",
        "setgroups_denied",
        "tree",
        "unit",
    )

    def __init__(self, config: "dict[str, Any]", facts: "HostFacts", options: "Options") -> None:
        self.config, self.facts, self.options = config, facts, options
        self.linux: "dict[str, Any]" = config.get("linux") or {}
        self.process: "dict[str, Any] | None" = config.get("process")
        self.annotations: "dict[str, str]" = config.get("annotations") or {}
        self.b = Builder()
        self.flags = constants.WHERRY_PLAN_CACHEABLE
        self.registers = 0
        self.inherited = 0  # so many registers, the first ones, are the caller's gift to the launcher
        self.into = NO_REGISTER  # of the cgroup v2 directory that init is born in
        self.cgroup: "list[tuple[str, str]]" = []  # (controllers joined by commas or "" for v2, absolute path)
        self.cgroup_mode = "none" if options.cgroup_manager == "disabled" else facts.cgroup_mode  # of the container
        self.cgroup_optional = self.cgroup_mode == "none"  # they need not come to be
        self.late: "list[tuple[str, str]]" = []  # (destination, place) of what becomes read-only once everything is in it
        self.last_filter: "tuple[bytes, int, int] | None" = None  # of seccomp, to be loaded before the execution
        self.kernel = kernel_version(facts.kernel)
        self.bundle = BUNDLE if options.bundle is None else options.bundle
        self.bundle_json = BUNDLE_JSON if options.bundle is None else quote(options.bundle)[1:-1]
        self.rootfs = self.below_bundle(config["root"]["path"], "/root/path")
        # type -> (path or "" for a new one, JSON pointer)
        self.namespaces: "dict[str, tuple[str, str]]" = {}
        for index, entry in enumerate(self.linux.get("namespaces") or ()):
            self.namespaces[entry["type"]] = (entry.get("path") or "", f"/linux/namespaces/{index}")
        self.on_host = "mount" not in self.namespaces  # its mounts are made in the namespace of the runtime
        user = self.namespaces.get("user")
        self.new_user = user is not None and not user[0]
        self.joined_user = user is not None and bool(user[0])
        self.in_user = user is not None or facts.user_namespace
        self.privileged = bool(facts.capabilities & CAP_SYS_ADMIN) and not options.rootless
        # Init in a user namespace cannot walk into a 0700 directory of the host, nor raise a hard limit: the launcher does (it opens trees in
        # init's mount namespace, so that the flags which the host has set stay locked). Without privileges it can do no more than init.
        self.launcher_helps = user is not None and self.privileged
        self.tree = -1
        self.unit: "UnitJob | None" = None  # of systemd
        self.affinity = b""  # processors of the process, as a bit mask; b"" = all
        self.setgroups_denied: "bool | None" = None  # None: as a new user namespace will have it

    def register(self) -> int:
        self.registers += 1
        if self.registers > constants.WHERRY_MAX_REGISTERS:
            raise PlanError("the plan needs more descriptors than a plan can hold", code="WHERRY-PLAN-TOO-LARGE", pointer=self.b.place)
        return self.registers - 1

    def has_new(self, kind: str) -> bool:
        """A new namespace of that type, made for this container."""
        return self.namespaces.get(kind, ("-", ""))[0] == ""

    def container_state(self, status: str) -> str:
        """What a hook reads on its stdin. The pid is as its side sees it: the slot differs between the caller and init."""
        version = quote(self.config["ociVersion"])
        text = f'{{"ociVersion":{version},"id":"{ID}","status":"{status}","pid":{PID},"bundle":"{self.bundle_json}"'
        return f"{text}{self.annotations_json()}}}"

    def annotations_json(self) -> str:
        if not self.annotations:
            return ""
        return ',"annotations":{' + ",".join(f"{quote(key)}:{quote(value)}" for key, value in sorted(self.annotations.items())) + "}"

    def below_bundle(self, path: str, place: str) -> str:
        """A host path as a template: relative ones are relative to the bundle."""
        if "\1" in path:
            raise ConfigError("a path may not hold the control character U+0001", code="WHERRY-CONFIG-PATH", pointer=place)
        return mounts.clean(path) if path[:1] == "/" else f"{self.bundle}{mounts.relative(path)}"


def kernel_version(release: str) -> "tuple[int, int]":
    """(6, 1) of "6.1.0-18-amd64"; (0, 0) where it says nothing that we know."""
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def compile(config: "dict[str, Any]", facts: "HostFacts", options: "Options") -> bytes:
    """The launch plan of a checked configuration (oci.checks). ConfigError, HostError or PlanError name the field that cannot be done."""
    job = Job(config, facts, options)
    isolation.check(job)
    claim(job)  # before any side effect
    isolation.cgroups(job)  # and the limits: no process of the container ever runs without them
    if job.on_host:
        mounts.mount_point(job)
    job.b.launch()
    isolation.before_clone(job)
    isolation.after_clone(job)
    mounts.rootfs(job)
    mounts.all_mounts(job)
    mounts.devices(job)
    console(job)
    mounts.late_attributes(job)
    interlude(job)
    hooks(job, "prestart", "createRuntime", "createContainer")  # the host's filesystem is still in sight
    restrictions(job)
    job.b.pivot(constants.WHERRY_PIVOT_CHROOT if job.on_host else constants.WHERRY_PIVOT_NONE if options.no_pivot else 0)
    if job.process is not None:
        process.working_directory(job, job.process, 0)
    mounts.root_attributes(job)
    if job.process is not None:
        process.settle(job, job.process)
    job.b.publish(state_file(job))
    job.b.wait_start()
    if job.process is not None:
        process.confine(job)  # programs of the container's that are its hooks are as confined as its own
    hooks(job, "startContainer")
    if job.process is not None:
        process.execute(job)
    return job.b.finish(plan_flags(job), job.registers, job.inherited, facts.key, options.build_id)


# ---- what others read: `state`, hooks, the state file


def claim(job: Job) -> None:
    """The pretty document that `state` prints, as runc prints it, in three pieces around what changes."""
    head = f'{{\n  "ociVersion": {quote(job.config["ociVersion"])},\n  "id": "{ID}",\n  "pid": '
    middle = ',\n  "status": "'
    tail = f'",\n  "bundle": "{job.bundle_json}",\n  "rootfs": "{rootfs_json(job)}",\n  "created": "{CREATED}"'
    if job.annotations:
        lines = ",\n".join(f"    {quote(key)}: {quote(value)}" for key, value in sorted(job.annotations.items()))
        tail += f',\n  "annotations": {{\n{lines}\n  }}'
    job.b.claim(head, middle, tail + ',\n  "owner": ""\n}\n')


def rootfs_json(job: Job) -> str:
    path: str = job.config["root"]["path"]
    return quote(job.rootfs)[1:-1] if path[:1] == "/" else f"{job.bundle_json}{quote(mounts.relative(path))[1:-1]}"


def state_file(job: Job) -> str:
    """state.json: what the verbs that Python does itself need to know. specs/launch-plan.md lists the keys."""
    cgroups = ",".join(f"{quote(names)}:{with_slots(path)}" for names, path in job.cgroup)
    unit = f'"unit":{with_slots(job.unit.journal_name)},' if job.unit is not None else ""
    return (
        f'{{"version":{constants.WHERRY_VERSION},"ociVersion":{quote(job.config["ociVersion"])},"id":"{ID}","pid":{PID},"startTime":{START_TIME},'
        f'"created":"{CREATED}","bundle":"{job.bundle_json}","rootfs":"{rootfs_json(job)}","directory":"{DIRECTORY}",'
        f'"rootless":{"false" if job.privileged else "true"},{unit}"cgroups":{{{cgroups}}}{job.annotations_json()}}}\n'
    )


def with_slots(template: str) -> str:
    """A template as a JSON string, its slot marks kept."""
    return quote(template).replace("\\u0001", "\1")


def plan_flags(job: Job) -> int:
    flags, given = job.flags, job.config.get("hooks") or {}
    for wanted_, bit in (
        (job.new_user, constants.WHERRY_PLAN_NEW_USER),
        (not job.has_new("pid"), constants.WHERRY_PLAN_SHARED_PID),
        (not job.privileged, constants.WHERRY_PLAN_ROOTLESS),
        (job.process is None, constants.WHERRY_PLAN_NO_PROCESS),
        (job.process is not None and job.process.get("terminal"), constants.WHERRY_PLAN_TERMINAL),
        (given.get("poststart"), constants.WHERRY_PLAN_POSTSTART),
        (given.get("poststop"), constants.WHERRY_PLAN_POSTSTOP),
        (job.options.warnings, constants.WHERRY_PLAN_WARNED),
    ):
        if wanted_:
            flags |= bit
    if job.options.environment or job.options.cgroup_manager == "disabled":  # what the cache's key does not cover
        flags &= ~constants.WHERRY_PLAN_CACHEABLE
    return int(flags)


# ---- parts that are short, or lead to a module that only some configurations need


def console(job: Job) -> None:
    process_ = job.process
    if process_ is not None and process_.get("terminal"):
        size = process_.get("consoleSize") or {}
        job.b.console(size.get("height", 0), size.get("width", 0), process_["user"].get("uid", 0), "/process/terminal")


def interlude(job: Job) -> None:
    """What only Python does, while init waits: network devices are moved and a resctrl group is made."""
    for key in ("netDevices", "intelRdt"):
        if key in job.linux:
            isolation.check_interlude(job)
            job.b.network_devices(f"/linux/{key}")
            job.flags = (job.flags | constants.WHERRY_PLAN_INTERLUDE) & ~constants.WHERRY_PLAN_CACHEABLE
            return


HOOKS = {
    "prestart": (constants.WHERRY_HOOK_PRESTART, CALLER, "creating"),
    "createRuntime": (constants.WHERRY_HOOK_CREATE_RUNTIME, CALLER, "creating"),
    "createContainer": (constants.WHERRY_HOOK_CREATE_CONTAINER, INIT, "creating"),
    "startContainer": (constants.WHERRY_HOOK_START_CONTAINER, INIT, "created"),
}


def hooks(job: Job, *kinds: str) -> None:
    given = job.config.get("hooks")
    if not given:
        return
    for kind in kinds:
        number, executor, status = HOOKS[kind]
        for index, hook in enumerate(given.get(kind) or ()):
            path = hook["path"]
            job.b.hook(
                executor,
                number,
                path,
                hook.get("args") or (path,),
                hook_environment(job, kind, hook),
                job.container_state(status),
                hook.get("timeout") or 0,
                f"/hooks/{kind}/{index}",
            )


def hook_environment(job: Job, kind: str, hook: "dict[str, Any]") -> "Sequence[str]":
    """Where a hook says nothing: none; but a startContainer hook is a program of the container's and has the environment of its process,
    where OP_HOOK fills in a HOME that stands last and is empty."""
    if "env" in hook or kind != "startContainer" or job.process is None:
        return hook.get("env") or ()
    environment, _, fill_home = process.environment(job, job.process)
    return [*(entry for entry in environment if entry != "HOME="), "HOME="] if fill_home else environment


def restrictions(job: Job) -> None:
    """Before the pivot: what is bound over a path then comes from the host's side, where no image can have touched it."""
    linux = job.linux
    if linux.get("sysctl"):
        from wherry.plan import sysctl

        sysctl.add(job)
    for index, path in enumerate(linux.get("readonlyPaths") or ()):
        job.b.readonly_path(mounts.clean(path), f"/linux/readonlyPaths/{index}")
    seen = set()
    for index, path in enumerate(linux.get("maskedPaths") or ()):
        path = mounts.clean(path)
        if path not in seen:
            seen.add(path)
            job.b.masked_path(path, f"/linux/maskedPaths/{index}")
