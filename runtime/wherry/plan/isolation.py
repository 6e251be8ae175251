# SPDX-License-Identifier: Apache-2.0
"""What surrounds the container's first process: cgroups with their limits, namespaces, id mappings, and the clone between them."""

from wherry.errors import ConfigError, HostError
from wherry.kernel.native import constants
from wherry.plan.encode import ID, INIT, LAUNCHER, NO_REGISTER, NOBODY
from wherry.plan.mounts import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wherry.cgroup.resources import Write
    from wherry.plan.compile import Job

CLONE = {
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
"""CLONE_NEW* by the names of the configuration."""

# A joined namespace of these types is entered by init: launcher and clone3(CLONE_INTO_CGROUP) need the host's paths and cgroups.
_BY_INIT = ("mount", "cgroup")
_PATH = "/linux/cgroupsPath"


def check(job: "Job") -> None:
    """What would harm the host, or cannot work on it."""
    if job.on_host and (not job.privileged or job.in_user):
        raise ConfigError(
            "a container needs a mount namespace: without one its mounts are made on the host, which takes root there and no user namespace",
            code="WHERRY-CONFIG-MISSING-NAMESPACE",
            pointer="/linux/namespaces",
            remedy='add {"type": "mount"}',
        )
    if job.on_host and job.options.no_pivot:
        raise ConfigError(
            "--no-pivot needs a mount namespace",
            code="WHERRY-CONFIG-MISSING-NAMESPACE",
            pointer="/linux/namespaces",
            remedy='add {"type": "mount"}',
        )
    if not job.privileged and "user" not in job.namespaces and not job.facts.capabilities & 1 << 21:
        raise HostError(
            "a container without root needs a user namespace",
            code="WHERRY-HOST-PERMISSION",
            pointer="/linux/namespaces",
            remedy='add {"type": "user"} and mappings, or run as root',
        )
    if job.joined_user:
        _check_joined_maps(job)


def check_interlude(job: "Job") -> None:
    if not job.privileged:
        key = "netDevices" if "netDevices" in job.linux else "intelRdt"
        raise HostError(f"{key} needs root", code="WHERRY-HOST-PERMISSION", pointer=f"/linux/{key}")


# ---- cgroups


def cgroups(job: "Job") -> None:
    """Directories, controllers, limits, and what init needs to get in: a descriptor of the v2 directory, `tasks` of each v1 hierarchy."""
    if job.options.cgroup_manager == "systemd":
        from wherry.plan import unit

        unit.before_launch(job)
    elif job.cgroup_mode == "none":
        if v1_writes(job):
            why = "no cgroup hierarchy is mounted" if job.facts.cgroup_mode == "none" else "cgroups are disabled"
            raise HostError(f"limits cannot be set: {why}", code="WHERRY-HOST-CGROUP", pointer="/linux/resources")
    elif job.cgroup_mode == "v2":
        _v2(job)
    else:
        _v1(job)


def _v2(job: "Job") -> None:
    writes = v2_writes(job)
    path, place = _cgroup_path(job, job.facts.v2_mount, _parent(job.facts.v2_own))
    job.into = v2_limits(job, path, place, writes, device_rules(job), _optional(job, bool(writes)))


def v2_limits(job: "Job", path: str, place: str, writes: "list[Write]", rules: "list[dict[str, object]] | None", flags: int) -> int:
    """The directory, with all that is set in it; its register."""
    b, facts = job.b, job.facts
    needed = _needed(writes, facts.v2_controllers)
    made = directory(job, path, facts.v2_mount, constants.WHERRY_CGROUP_V2 | flags, place, "")
    if job.unit is None:
        job.inherited = job.registers
    optional = flags & constants.WHERRY_CGROUP_OPTIONAL
    length = len(facts.v2_mount)
    if needed:
        b.cgroup_controllers(path, length, 0, " ".join(needed), "/linux/resources")
    others = [name for name in facts.v2_controllers if name not in needed]
    if others:  # for the statistics, and for what `update` may ask for later
        b.cgroup_controllers(path, length, constants.WHERRY_CGROUP_WHERE_POSSIBLE | optional, " ".join(others), place)
    for _, file, value, write_flags, pointer in writes:
        b.cgroup_write(made, file, value, write_flags, pointer)
    if rules is not None:
        from wherry.cgroup.devices import program

        b.cgroup_devices(made, program(rules), "/linux/resources/devices" if rules else "")
    _chown(job, made)
    return made


def _v1(job: "Job") -> None:
    """One directory in every hierarchy (name=systemd and, on a hybrid host, the v2 tree included), each with its own descriptors."""
    b, facts = job.b, job.facts
    hybrid = job.cgroup_mode == "hybrid"
    writes = v1_writes(job)
    optional = _optional(job, bool(writes))
    found = by_hierarchy(job, writes)
    tasks = [job.register() for _ in facts.hierarchies]
    unified = job.into = job.register() if hybrid else NO_REGISTER
    job.inherited = job.registers
    if hybrid:
        path, place = _cgroup_path(job, facts.v2_mount, facts.v2_own)
        directory(job, path, facts.v2_mount, constants.WHERRY_CGROUP_V2 | optional, place, "", unified)
        hybrid_writes(job, path, unified, found.pop("", []))
    for hierarchy, out in zip(facts.hierarchies, tasks, strict=True):
        path, place = _cgroup_path(job, hierarchy.mount, hierarchy.own)
        names = ",".join(hierarchy.controllers)
        made = directory(job, path, hierarchy.mount, optional, place, names)
        if "cpuset" in hierarchy.controllers:
            b.cgroup_cpuset(path, len(hierarchy.mount), optional, place)
        for _, file, value, flags, pointer in found.get(names, ()):
            b.cgroup_write(made, file, value, flags, pointer)
        b.open_tasks(made, "tasks", out, optional, place)


def hybrid_writes(job: "Job", path: str, directory: int, writes: "list[Write]") -> None:
    if writes:
        names = " ".join(dict.fromkeys(write[0] for write in writes))
        job.b.cgroup_controllers(path, len(job.facts.v2_mount), 0, names, "/linux/resources")
    for _, file, value, flags, pointer in writes:
        job.b.cgroup_write(directory, file, value, flags, pointer)


def directory(job: "Job", path: str, mount: str, flags: int, place: str, names: str, out: "int | None" = None) -> int:
    made = job.register() if out is None else out
    job.cgroup.append((names, path))
    job.b.cgroup_directory(path, len(mount), flags, made, place)
    return made


def _cgroup_path(job: "Job", mount: str, base: str) -> "tuple[str, str]":
    """Absolute: below the mount. Relative: below the caller's own cgroup (v2: beside it, because a cgroup with processes cannot have
    children with controllers). Absent: /wherry/<id>, where root may write; else relative."""
    path: str = job.linux.get("cgroupsPath") or ""
    place = _PATH if path else ""
    if "\1" in path:
        raise ConfigError("a path may not hold the control character U+0001", code="WHERRY-CONFIG-PATH", pointer=_PATH)
    if path[:1] == "/" or (not path and job.privileged and not job.facts.user_namespace):
        base = "/"
    parts = [part for part in path.split("/") if part not in ("", ".")] if path else ["wherry", ID]
    if ".." in parts:
        raise ConfigError('".." leads out of the hierarchy', code="WHERRY-CONFIG-PATH", pointer=_PATH)
    return f"{mount}{base.rstrip('/')}/{'/'.join(parts)}".rstrip("/"), place


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _optional(job: "Job", limits: bool) -> int:
    """Without root and delegation there is no cgroup of one's own: no error unless the configuration names one, or limits."""
    if (job.privileged and not job.facts.user_namespace) or limits or job.linux.get("cgroupsPath"):
        return 0
    job.cgroup_optional = True
    return int(constants.WHERRY_CGROUP_OPTIONAL)


def device_rules(job: "Job") -> "list[dict[str, object]] | None":
    """None where nobody may set them and other limits hold: in a user namespace only the host's own device nodes work."""
    if not job.privileged or job.facts.user_namespace:
        return None
    rules: "list[dict[str, object]]" = (job.linux.get("resources") or {}).get("devices") or []
    return rules


def v2_writes(job: "Job") -> "list[Write]":
    resources = job.linux.get("resources")
    if not resources:
        return []
    from wherry.cgroup.resources import v2_writes

    _warn_ignored(job, resources)
    return v2_writes(resources)


def v1_writes(job: "Job") -> "list[Write]":
    resources = job.linux.get("resources")
    if not resources or resources.keys() == {"devices"}:
        return []
    from wherry.cgroup.resources import v1_writes

    _warn_ignored(job, resources)
    return v1_writes(resources)


def _warn_ignored(job: "Job", resources: "dict[str, object]") -> None:
    network = resources.get("network")
    if isinstance(network, dict) and job.cgroup_mode == "v2":
        for key in ("classID", "priorities"):
            if network.get(key):
                job.options.warnings.append(f"/linux/resources/network/{key}: ignored: cgroup v2 has no such controller")
    memory = resources.get("memory")
    if isinstance(memory, dict):
        v2 = job.cgroup_mode == "v2"
        for key in ("kernel", "kernelTCP", *(("swappiness", "disableOOMKiller", "useHierarchy") if v2 else ())):
            if memory.get(key):
                why = "cgroup v2 has no such limit" if v2 else "the kernel has given it up"
                job.options.warnings.append(f"/linux/resources/memory/{key}: ignored: {why}")


def _needed(writes: "list[Write]", available: "Iterable[str]") -> "list[str]":
    """The controllers that must be there; files of the cgroup core ("cgroup.*") and writes that may miss need none."""
    needed: "list[str]" = []
    for name, file, _, flags, pointer in writes:
        if name == "cgroup" or name in needed or flags & (constants.WHERRY_WRITE_MISSING_OK | constants.WHERRY_WRITE_IGNORE):
            continue
        if name not in available:
            raise HostError(
                f"{file} cannot be written: the cgroup hierarchy has no {name} controller",
                code="WHERRY-HOST-CGROUP",
                pointer=pointer,
                controller=name,
            )
        needed.append(name)
    return needed


def by_hierarchy(job: "Job", writes: "list[Write]") -> "dict[str, list[Write]]":
    """Which write goes into which hierarchy, by its controllers; "" = the v2 tree of a hybrid host, which may hold some, too."""
    found: "dict[str, list[Write]]" = {}
    names = {name: ",".join(hierarchy.controllers) for hierarchy in job.facts.hierarchies for name in hierarchy.controllers}
    rules = device_rules(job)
    if rules is not None and "devices" in names:
        found[names["devices"]] = _device_lines(rules)
    for write in writes:
        if write[0] in names:
            found.setdefault(names[write[0]], []).append(write)
        elif not write[3] & (constants.WHERRY_WRITE_MISSING_OK | constants.WHERRY_WRITE_IGNORE) and "" not in found:
            found[""] = _elsewhere(job, [write for write in writes if write[0] not in names])
    return found


def _elsewhere(job: "Job", writes: "list[Write]") -> "list[Write]":
    """The same limits as files of the v2 tree. HostError where it has not got the controllers either."""
    names = {"io" if write[0] == "blkio" else write[0] for write in writes}
    _needed([("io" if write[0] == "blkio" else write[0], *write[1:]) for write in writes], job.facts.v2_controllers)
    return [write for write in v2_writes(job) if write[0] in names]


def _device_lines(rules: "list[dict[str, object]]") -> "list[Write]":
    """A new v1 cgroup allows what its parent allows: unless the first rule decides about everything, all is denied first, as on v2."""
    from wherry.cgroup.devices import v1_lines

    place = "/linux/resources/devices"
    lines: "list[Write]" = [("devices", file, line, 0, f"{place}/{index}" if index >= 0 else "") for file, line, index in v1_lines(rules)]
    if lines[0][2] != "a":
        lines.insert(0, ("devices", "devices.deny", "a", 0, ""))
    return lines


def _chown(job: "Job", directory: int) -> None:
    """A container that may write to its own cgroup tree owns it: with a cgroup namespace of its own and a writable cgroup2 mount."""
    if not (job.has_new("cgroup") and job.process):
        return
    for mount in job.config.get("mounts") or ():
        if mount.get("type") in ("cgroup", "cgroup2") and clean(mount["destination"]) == "/sys/fs/cgroup":
            uid = host_id(job, "uidMappings", job.process["user"].get("uid", 0))
            if "ro" not in mount.get("options", ()) and uid is not None and uid != job.facts.uid:
                files = [name for name in job.facts.delegate if "/" not in name]
                job.b.cgroup_chown(directory, files, uid, 0xFFFFFFFF, "/process/user/uid")
            return


def host_id(job: "Job", kind: str, number: int) -> "int | None":
    """The host's number for an id of the container; None where it has none, or a joined user namespace says nothing of it."""
    maps = job.linux.get(kind)
    if not maps:
        return None if "user" in job.namespaces else number
    for mapping in maps:
        if 0 <= number - mapping["containerID"] < mapping["size"]:
            return int(mapping["hostID"] + number - mapping["containerID"])
    return None


# ---- namespaces


def before_clone(job: "Job") -> None:
    """The launcher's part. Everything here needs the host's credentials, and happens while the launcher is alone."""
    b = job.b
    oom_score_adj(job)
    host, pod, late = joins(job)
    registers = {}
    for kind in (*host, *pod, *late):
        path, place = job.namespaces[kind]
        registers[kind] = job.register()
        b.open_namespace(path, CLONE[kind], registers[kind], f"{place}/path")
    for kind in host:
        b.join(LAUNCHER, CLONE[kind], registers[kind], job.namespaces[kind][1])
    if job.has_new("time") and not _time_inside(job):
        _time(job, LAUNCHER)
    for kind in pod:
        b.join(LAUNCHER, CLONE[kind], registers[kind], job.namespaces[kind][1], joined_root(job) if kind == "user" else (NOBODY, NOBODY))
    flags = 0
    for kind, (path, _) in job.namespaces.items():
        # cgroup: its root must be the container's cgroup; time: not by clone; ipc: the directory of its message queues belongs to who makes it
        if not path and kind not in ("cgroup", "time") and not (kind == "ipc" and "user" in job.namespaces):
            flags |= CLONE[kind]
    b.clone(flags, job.into, "/linux/namespaces")
    attach(job)
    if job.new_user:
        _write_maps(job)
    if "user" in job.namespaces:
        b.become_root(job.namespaces["user"][1])
        if job.has_new("ipc"):
            b.unshare(INIT, CLONE["ipc"], job.namespaces["ipc"][1])
    for kind in late:
        b.join(INIT, CLONE[kind], registers[kind], job.namespaces[kind][1])


def oom_score_adj(job: "Job") -> None:
    if job.process is not None and "oomScoreAdj" in job.process:
        job.b.oom_score_adj(job.process["oomScoreAdj"], "/process/oomScoreAdj")


def joined_root(job: "Job") -> "tuple[int, int]":
    """The host's ids of the root of a user namespace that is joined, where they can be known: by a process in it, or by the configuration."""
    ids = []
    for text, key in zip(_joined_maps(job) or ("", ""), ("uidMappings", "gidMappings"), strict=True):
        lines = (text or map_text(job.linux.get(key) or ())).splitlines()
        ids += [int(line.split()[1]) for line in lines if line[:2] == "0 "][:1]
    return (ids[0], ids[1]) if len(ids) == 2 else (NOBODY, NOBODY)


def _joined_maps(job: "Job") -> "Sequence[str]":
    fact = job.facts.namespaces.get(job.namespaces["user"][0])
    return fact.maps if fact is not None else ()


def _check_joined_maps(job: "Job") -> None:
    for text, key in zip(_joined_maps(job), ("uidMappings", "gidMappings"), strict=False):
        given = map_text(job.linux.get(key) or ())
        if text and given and sorted(given.splitlines()) != sorted(text.splitlines()):
            raise ConfigError(
                "not the mappings of the user namespace that is joined",
                code="WHERRY-CONFIG-MAPPINGS",
                pointer=f"/linux/{key}",
                remedy="leave uidMappings and gidMappings out",
            )


def joins(job: "Job") -> "tuple[list[str], list[str], list[str]]":
    """Types of joined namespaces: those owned by the host's user namespace, which must be entered while we still have its credentials;
    the user namespace and those that it owns, which only its own root may enter; those that init enters."""
    host, pod, late = [], [], []
    for kind in sorted(job.namespaces, key=lambda kind: CLONE[kind]):
        path = job.namespaces[kind][0]
        if not path or kind == "user":
            continue
        fact = job.facts.namespaces.get(path)
        if kind in _BY_INIT:
            late.append(kind)
        elif job.joined_user and fact is not None and fact.owner != "own":
            pod.append(kind)
        else:
            host.append(kind)
    if job.joined_user:
        pod.insert(0, "user")
    if "user" in job.namespaces and (host or pod or late):
        job.flags &= ~constants.WHERRY_PLAN_CACHEABLE  # who owns a namespace is no fact that the key covers
    return host, pod, late


def attach(job: "Job") -> None:
    if job.unit is not None:
        from wherry.plan import unit

        unit.after_clone(job)
    if job.cgroup_mode in ("v1", "hybrid"):
        for tasks in range(len(job.facts.hierarchies)):
            job.b.attach_tasks(tasks, _PATH if job.linux.get("cgroupsPath") else "")


def after_clone(job: "Job") -> None:
    """Init's first steps: still with the host's filesystem around it."""
    b = job.b
    if job.has_new("cgroup"):  # after the attaching: its root is the cgroup where we are
        b.unshare(INIT, CLONE["cgroup"], job.namespaces["cgroup"][1])
    if job.has_new("time") and _time_inside(job):
        _time(job, INIT)
    if not job.options.no_new_keyring:
        b.keyring(f"_ses.{ID}")
    if job.has_new("network"):
        b.loopback_up(job.namespaces["network"][1])
    if job.config.get("hostname"):
        b.hostname(job.config["hostname"], "/hostname")
    if job.config.get("domainname"):
        b.domainname(job.config["domainname"], "/domainname")


def _time_inside(job: "Job") -> bool:
    """Without privileges over the host a time namespace can only be made inside of the new user namespace."""
    return "user" in job.namespaces and not job.privileged


def _time(job: "Job", executor: int) -> None:
    job.b.unshare(executor, CLONE["time"], job.namespaces["time"][1])
    offsets = job.linux.get("timeOffsets")
    if offsets:
        lines = "".join(f"{clock} {given.get('secs', 0)} {given.get('nanosecs', 0)}\n" for clock, given in offsets.items())
        job.b.time_offsets(executor, lines, "/linux/timeOffsets")


# ---- id mappings


def _write_maps(job: "Job") -> None:
    uids, gids = job.linux.get("uidMappings") or (), job.linux.get("gidMappings") or ()
    facts = job.facts
    direct = job.privileged or bool(facts.capabilities & 1 << 6 and facts.capabilities & 1 << 7)  # CAP_SETGID, CAP_SETUID
    alone = not direct and _single(uids, facts.uid) and _single(gids, facts.gid)
    flags = constants.WHERRY_MAPS_DENY_SETGROUPS if alone else 0
    if direct or alone:
        job.b.write_maps(map_text(uids), map_text(gids), None, None, flags, "/linux/uidMappings")
    else:
        uid_program, gid_program = _mapper(facts.newuidmap, "newuidmap"), _mapper(facts.newgidmap, "newgidmap")
        job.b.write_maps(map_text(uids), map_text(gids), uid_program, gid_program, flags, "/linux/uidMappings")


def setgroups_denied(job: "Job") -> bool:
    """An unprivileged mapping of one's own id alone comes with setgroups(2) denied: the kernel wants it so. What is denied in a user
    namespace is denied in all that are made in it."""
    if job.setgroups_denied is not None:
        return job.setgroups_denied
    if job.facts.setgroups_denied:
        return True
    if not job.new_user or job.privileged or job.facts.capabilities & 1 << 6:
        return False
    return _single(job.linux.get("uidMappings") or (), job.facts.uid) and _single(job.linux.get("gidMappings") or (), job.facts.gid)


def _single(maps: "Iterable[dict[str, int]]", own: int) -> bool:
    return [(mapping["hostID"], mapping["size"]) for mapping in maps] == [(own, 1)]


def _mapper(path: str, name: str) -> str:
    if not path:
        raise HostError(
            f"the id mappings need {name}, which is not installed",
            code="WHERRY-HOST-PROGRAM",
            pointer="/linux/uidMappings",
            remedy="install it (Debian: uidmap), or map your own id alone",
        )
    return path


def map_text(maps: "Iterable[dict[str, int]]") -> str:
    return "".join(f"{mapping['containerID']} {mapping['hostID']} {mapping['size']}\n" for mapping in maps)
