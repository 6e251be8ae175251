# SPDX-License-Identifier: Apache-2.0
"""What a configuration must obey: a shape (types, required properties, ranges) and a list of rules, one function each.

The same tables serve two callers. `check` is on the way of every create: it raises the first error and looks only at what is
there; the shapes and rules of rarer sections are in modules that are loaded when the section is present (class Late).
`findings` is for `validate`: it collects everything, errors and warnings, and also names unknown properties.

The rules of an Object see one value of the right shape; those in RULES see the whole configuration. Pure: nothing here looks at
the host.
"""

from wherry.oci.shape import I64, ID, U16, U32, U64, Finding, Late, Map, Object, Report, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.oci.model import Config, Mount, Process, Resources
    from wherry.oci.shape import Rule

_NEWEST = (1, 3)  # the runtime specification that wherry implements


# ---- rules of single values


def absolute(name: str, may_be_empty: bool = False) -> "Rule":
    """A rule for objects: this property, where given, is an absolute path."""

    def rule(value: "Any", place: str, report: Report) -> None:
        path = value.get(name)
        if path is not None and path[:1] != "/" and (path or not may_be_empty):
            report.error("PATH", f"{place}/{name}", f'"{path}" is not an absolute path', "begin it with /")

    return rule


def filled(name: str) -> "Rule":
    """A rule for objects: this property, where given, is no empty string."""

    def rule(value: "Any", place: str, report: Report) -> None:
        if value.get(name) == "":
            report.error("VALUE", f"{place}/{name}", "must not be empty")

    return rule


def process_args(process: "Process", place: str, report: Report) -> None:
    args = process.get("args")
    if not args:
        report.error("REQUIRED", f"{place}/args", "a process needs at least one argument, the program")
    elif not args[0]:
        report.error("VALUE", f"{place}/args/0", "the program's name is empty")


def user_ids(user: "Any", place: str, report: Report) -> None:
    for name in ("uid", "gid"):
        if name not in user:
            report.warn("REQUIRED", f"{place}/{name}", "this property is required: it is taken as 0, as other runtimes do")


def process_env(process: "Process", place: str, report: Report) -> None:
    for index, entry in enumerate(process.get("env", ())):
        if entry.find("=") < 1:
            report.warn("VALUE", f"{place}/env/{index}", "not of the form NAME=value")


RLIMITS = frozenset(
    f"RLIMIT_{name}"
    for name in "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK".split()
)


def rlimits(process: "Process", place: str, report: Report) -> None:
    seen = set()
    for index, limit in enumerate(process.get("rlimits", ())):
        if limit["type"] in seen:
            report.error("DUPLICATE", f"{place}/rlimits/{index}/type", f"{limit['type']} is given twice", "remove one of them")
        seen.add(limit["type"])
        if limit["soft"] > limit["hard"]:
            report.error(
                "CONFLICT", f"{place}/rlimits/{index}/soft", f"the soft limit {limit['soft']} is above the hard limit {limit['hard']}"
            )


CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE "
    "CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO "
    "CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME "
    "CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG "
    "CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE"
).split()  # in the kernel's order: the index is the capability's number

_CAPABILITY_SET = frozenset(CAPABILITIES)


def capability_names(sets: "dict[str, list[str]]", place: str, report: Report) -> None:
    for kind, names in sets.items():
        if kind in _CAPABILITIES.properties and not _CAPABILITY_SET.issuperset(names):
            for index, name in enumerate(names):
                if name not in _CAPABILITY_SET:
                    report.warn("CAPABILITY", f"{place}/{kind}/{index}", f'there is no capability "{name}": it is not granted')


def capability_sets(sets: "dict[str, list[str]]", place: str, report: Report) -> None:
    permitted = sets.get("permitted", [])
    for index, name in enumerate(sets.get("effective", ())):
        if name not in permitted and name in _CAPABILITY_SET:
            report.error("CONFLICT", f"{place}/effective/{index}", f"{name} is effective but not permitted", f"add it to {place}/permitted")
    inheritable = sets.get("inheritable", [])
    for index, name in enumerate(sets.get("ambient", ())):
        if name in _CAPABILITY_SET and not (name in permitted and name in inheritable):
            report.warn("CAPABILITY", f"{place}/ambient/{index}", f"can't raise ambient capability {name}: it must be permitted and inheritable, too")


# Options of a mount that are no filesystem data.
_FLAGS = (
    "ro rw nosuid suid nodev dev noexec exec noatime atime nodiratime diratime relatime norelatime strictatime nostrictatime "
    "nosymfollow symfollow"
).split()
MOUNT_OPTIONS = frozenset(
    [
        *_FLAGS,
        *(f"r{name}" for name in _FLAGS),
        *(
            "defaults sync async dirsync lazytime nolazytime mand nomand iversion noiversion silent loud remount bind rbind "
            "shared rshared slave rslave private rprivate unbindable runbindable idmap ridmap tmpcopyup"
        ).split(),
    ]
)

# What may be mounted below /proc: files that lxcfs and the like stand in for.
PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in "cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo sys/kernel/ns_last_pid sys/crypto/fips_enabled".split()
)


def mount_kind(mount: "Mount", place: str, report: Report) -> None:
    options = mount.get("options", ())
    if "bind" in options or "rbind" in options:
        if not mount.get("source"):
            report.error("MOUNT", f"{place}/source", "a bind mount needs a source")
    elif mount.get("type") == "bind":
        report.error("MOUNT", f"{place}/options", "type bind without the option bind or rbind", "add rbind to the options")
    elif not mount.get("type") and "remount" not in options:
        report.error("MOUNT", f"{place}/type", "a mount needs a type, or the option bind or rbind")


def mount_data(mount: "Mount", place: str, report: Report) -> None:
    options = mount.get("options", ())
    if MOUNT_OPTIONS.issuperset(options):
        return
    bind = "bind" in options or "rbind" in options
    for index, option in enumerate(options):
        if option in MOUNT_OPTIONS:
            continue
        if not option:
            report.warn("MOUNT", f"{place}/options/{index}", "an empty option is ignored")
        elif bind:
            report.warn("MOUNT", f"{place}/options/{index}", f'a bind mount takes no filesystem option such as "{option}": it is ignored', "remove it")


def mount_mappings(mount: "Mount", place: str, report: Report) -> None:
    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    if bool(uids) != bool(gids):
        report.error("MAPPINGS", f"{place}/{'gidMappings' if uids else 'uidMappings'}", "uidMappings and gidMappings belong together")


def mount_copy_up(mount: "Mount", place: str, report: Report) -> None:
    if "tmpcopyup" in mount.get("options", ()) and mount.get("type") != "tmpfs":
        report.error("MOUNT", f"{place}/options", "tmpcopyup is for mounts of type tmpfs only")


def mount_destination(mount: "Mount", place: str, report: Report) -> None:
    path = mount["destination"]
    if path[:1] != "/":
        if not path:
            report.error("VALUE", f"{place}/destination", "must not be empty")
        report.warn("DEPRECATED", f"{place}/destination", "a relative destination is taken as relative to /", "begin it with /")
    if "/proc" not in path and path[:4] != "proc":
        return
    parts = clean(path)
    if parts[:1] == ["proc"] and len(parts) > 1 and "/" + "/".join(parts) not in PROC_FILES:
        report.error("MOUNT", f"{place}/destination", f'nothing may be mounted at "{path}": it would cover the kernel\'s /proc')


def clean(path: str) -> "list[str]":
    """The components of a path as seen from /, without "." and with ".." applied to the text."""
    parts: "list[str]" = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def mapping_ranges(mapping: "dict[str, int]", place: str, report: Report) -> None:
    for name in ("containerID", "hostID"):
        if mapping[name] + mapping["size"] > 1 << 32:
            report.error("MAPPINGS", f"{place}/size", f"{name} {mapping[name]} and {mapping['size']} ids after it go beyond 32 bits")


def mappings(lists: "Any", place: str, report: Report) -> None:
    for kind in ("uidMappings", "gidMappings"):
        entries = lists.get(kind, ())
        if len(entries) < 2:
            continue
        for name in ("containerID", "hostID"):
            ranges = sorted((entry[name], index) for index, entry in enumerate(entries))
            for position, (start, second) in enumerate(ranges[1:]):
                before, first = ranges[position]
                if before + entries[first]["size"] > start:
                    report.error("MAPPINGS", f"{place}/{kind}/{second}", f"overlaps {place}/{kind}/{first} in its {name}s")


def namespaces_once(linux: "Any", place: str, report: Report) -> None:
    seen = set()
    for index, namespace in enumerate(linux.get("namespaces", ())):
        if namespace["type"] in seen:
            report.error(
                "DUPLICATE", f"{place}/namespaces/{index}/type", f"namespace {namespace['type']} is given twice", "remove one of them"
            )
        seen.add(namespace["type"])


def absolute_paths(linux: "Any", place: str, report: Report) -> None:
    for name in ("maskedPaths", "readonlyPaths"):
        for index, path in enumerate(linux.get(name, ())):
            if path[:1] != "/":
                report.error("PATH", f"{place}/{name}/{index}", f'"{path}" is not an absolute path', "begin it with /")


def cgroups_path(linux: "Any", place: str, report: Report) -> None:
    path = linux.get("cgroupsPath", "")
    if ".." in path and ".." in path.split("/"):
        report.error("PATH", f"{place}/cgroupsPath", f'".." in "{path}" leads out of the hierarchy')


def device_access(rule: "dict[str, Any]", place: str, report: Report) -> None:
    access = rule.get("access", "")
    if not access.strip("rwm"):
        return
    if any(letter in access for letter in "rwm"):
        report.warn("VALUE", f"{place}/access", f'"{access}" holds other letters than r, w and m: they are ignored')
    else:
        report.error("VALUE", f"{place}/access", f'"{access}" holds other letters than r, w and m')


# ---- shapes of what most configurations have

_STRINGS = [str]
_CAPABILITIES = Object(
    dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), _STRINGS), rules=(capability_names, capability_sets)
)
PROCESS = Object(
    {
        "terminal": bool,
        "consoleSize": Object({"height": U16, "width": U16}, ("height", "width")),  # the kernel's struct winsize
        "cwd": str,
        "env": _STRINGS,
        "args": _STRINGS,
        "commandLine": str,
        "user": Object({"uid": ID, "gid": ID, "umask": (0, 0o7777), "additionalGids": [ID], "username": str}, rules=(user_ids,)),
        "rlimits": [Object({"type": RLIMITS, "soft": U64, "hard": U64}, ("type", "soft", "hard"))],
        "capabilities": _CAPABILITIES,
        "noNewPrivileges": bool,
        "oomScoreAdj": (-1000, 1000),
        "apparmorProfile": str,
        "selinuxLabel": str,
        "scheduler": Late("checks_rare", "SCHEDULER"),
        "ioPriority": Late("checks_rare", "IO_PRIORITY"),
        "execCPUAffinity": Late("checks_rare", "CPU_AFFINITY"),
    },
    ("cwd", "user"),
    (absolute("cwd"), process_args, process_env, rlimits),
)
MAPPING = Object({"containerID": U32, "hostID": U32, "size": (1, U32[1])}, ("containerID", "hostID", "size"), (mapping_ranges,))
_MOUNT = Object(
    {"destination": str, "type": str, "source": str, "options": _STRINGS, "uidMappings": [MAPPING], "gidMappings": [MAPPING]},
    ("destination",),
    (mount_destination, mount_kind, mount_data, mount_mappings, mappings, mount_copy_up),
)
NAMESPACES = frozenset("pid network mount ipc uts user cgroup time".split())
PROPAGATIONS = frozenset("shared slave private unbindable rshared rslave rprivate runbindable".split())
_DEVICE_RULE = Object({"allow": bool, "type": frozenset("abc"), "major": I64, "minor": I64, "access": str}, ("allow",), (device_access,))
RESOURCES = Object(
    {
        "devices": [_DEVICE_RULE],
        "memory": Late("checks_resources", "MEMORY"),
        "cpu": Late("checks_resources", "CPU"),
        "pids": Object({"limit": (-1, I64[1])}),
        "blockIO": Late("checks_resources", "BLOCK_IO"),
        "hugepageLimits": [Late("checks_resources", "HUGEPAGE_LIMIT")],
        "network": Late("checks_resources", "NETWORK"),
        "rdma": Late("checks_resources", "RDMA"),
        "unified": Late("checks_resources", "UNIFIED"),
    }
)
_LINUX = Object(
    {
        "namespaces": [Object({"type": NAMESPACES, "path": str}, ("type",), (absolute("path", may_be_empty=True),))],
        "uidMappings": [MAPPING],
        "gidMappings": [MAPPING],
        "timeOffsets": Late("checks_rare", "TIME_OFFSETS"),
        "devices": [Late("checks_rare", "DEVICE")],
        "netDevices": Late("checks_rare", "NET_DEVICES"),
        "cgroupsPath": str,
        "resources": RESOURCES,
        "sysctl": Map(str),
        "seccomp": Late("checks_seccomp", "SECCOMP"),
        "rootfsPropagation": PROPAGATIONS,
        "maskedPaths": _STRINGS,
        "readonlyPaths": _STRINGS,
        "mountLabel": str,
        "personality": Late("checks_rare", "PERSONALITY"),
        "intelRdt": Late("checks_rare", "INTEL_RDT"),
        "memoryPolicy": Late("checks_rare", "MEMORY_POLICY"),
    },
    rules=(namespaces_once, mappings, absolute_paths, cgroups_path),
)
CONFIG = Object(
    {
        "ociVersion": str,
        "root": Object({"path": str, "readonly": bool}, ("path",), (filled("path"),)),
        "hostname": str,
        "domainname": str,
        "process": PROCESS,
        "mounts": [_MOUNT],
        "hooks": Late("checks_rare", "HOOKS"),
        "annotations": Map(str),
        "linux": _LINUX,
        "vm": Late("checks_rare", "VM"),
    },
    ("ociVersion", "root"),
)


# ---- rules of the whole configuration; `spaces` is namespace type -> path ("" for a new one)


def version(config: "Config", spaces: "dict[str, str]", report: Report) -> None:
    text = config.get("ociVersion")
    if text is None:
        return
    parts = text.partition("+")[0].partition("-")[0].split(".")
    if not 1 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() for part in parts):
        report.error("VERSION", "/ociVersion", f'"{text}" is not a version', "write the version of the specification, such as 1.2.0")
        return
    major, minor = int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
    if major > _NEWEST[0]:
        report.error("VERSION", "/ociVersion", f"version {text} is not known, only 1.x is")
    elif (major, minor) > _NEWEST:
        report.warn("VERSION", "/ociVersion", f"version {text} is newer than 1.3: what it added is ignored")
    elif major < 1:
        report.warn("VERSION", "/ociVersion", f"version {text} is older than 1.0: it is read as 1.0")


def host_names(config: "Config", spaces: "dict[str, str]", report: Report) -> None:
    for name in ("hostname", "domainname"):
        value = config.get(name)
        if not isinstance(value, str) or not value:
            continue
        if len(value.encode(errors="replace")) > 64:
            report.error("RANGE", f"/{name}", "longer than 64 bytes")
        if "uts" not in spaces:
            report.error("MISSING-NAMESPACE", f"/{name}", "needs a uts namespace", 'add {"type": "uts"} to /linux/namespaces')


def own_mounts(config: "Config", spaces: "dict[str, str]", report: Report) -> None:
    if "mount" in spaces:
        return
    linux = config.get("linux", {})
    for name in ("maskedPaths", "readonlyPaths"):
        if linux.get(name):
            report.error("MISSING-NAMESPACE", f"/linux/{name}", "needs a mount namespace", 'add {"type": "mount"} to /linux/namespaces')


def user_mappings(config: "Config", spaces: "dict[str, str]", report: Report) -> None:
    linux = config.get("linux", {})
    uids, gids = linux.get("uidMappings"), linux.get("gidMappings")
    if "user" not in spaces:
        if uids or gids:
            place = f"/linux/{'uidMappings' if uids else 'gidMappings'}"
            report.error("MISSING-NAMESPACE", place, "needs a user namespace", 'add {"type": "user"} to /linux/namespaces')
    elif not spaces["user"] and not (uids and gids):
        place = f"/linux/{'gidMappings' if uids else 'uidMappings'}"
        report.error("MAPPINGS", place, "a new user namespace needs uidMappings and gidMappings")


def mount_idmaps(config: "Config", spaces: "dict[str, str]", report: Report) -> None:
    if "user" in spaces:
        return
    for index, mount in enumerate(config.get("mounts", ())):
        options = mount.get("options", ())
        if ("idmap" in options or "ridmap" in options) and not mount.get("uidMappings"):
            place = f"/mounts/{index}/options"
            report.error("MAPPINGS", place, "an idmap needs uidMappings and gidMappings, or a container with a user namespace")


def annotation_keys(config: "Config", spaces: "dict[str, str]", report: Report) -> None:
    if "org.wherry.landlock" in config.get("annotations", ()):
        from wherry.oci import landlock

        landlock.check(config["annotations"][landlock.KEY], report)
    if "" in config.get("annotations", ()):
        report.error("VALUE", "/annotations/", "the key of an annotation must not be empty")


def rare_sections(config: "Config", spaces: "dict[str, str]", report: Report) -> None:
    linux = config.get("linux", {})
    if linux.get("sysctl"):
        from wherry.oci.checks_resources import sysctls

        sysctls(linux["sysctl"], spaces, report)
    if linux.get("timeOffsets") or linux.get("netDevices"):
        from wherry.oci import checks_rare

        checks_rare.time_offsets(linux, spaces, report)
        checks_rare.net_devices(linux, spaces, report)


RULES: "tuple[Callable[[Config, dict[str, str], Report], None], ...]" = (
    version,
    host_names,
    own_mounts,
    user_mappings,
    mount_idmaps,
    annotation_keys,
    rare_sections,
)


# ---- the entry points


_ADVICE = ("WHERRY-CONFIG-DEPRECATED", "WHERRY-CONFIG-VERSION")
"""About how a configuration is written, which engines do every day: `validate` says it, create does not."""


def check(config: "Config", advice: bool = True) -> "list[str]":
    """Warnings, or the first error as ConfigError. Without `advice` only of what is not done as it stands there."""
    report = Report()
    walk(config, CONFIG, "", report)
    spaces = namespace_paths(config)
    for rule in RULES:
        rule(config, spaces, report)
    return [str(finding) for finding in report.findings if advice or finding.code not in _ADVICE]


def check_process(process: "Process") -> "list[str]":
    """The same for a process of its own (`exec --process`). Pointers are relative to it."""
    report = Report()
    walk(process, PROCESS, "", report)
    return [str(finding) for finding in report.findings]


def check_resources(resources: "Resources") -> "list[str]":
    """The same for resources of their own (`update --resources`)."""
    report = Report()
    walk(resources, RESOURCES, "", report)
    return [str(finding) for finding in report.findings]


def findings(config: "Config") -> "list[Finding]":
    """Everything that is wrong or dubious, in the order of the configuration's sections."""
    from wherry.oci.collect import collect

    return collect(config)


def namespace_paths(config: "Config") -> "dict[str, str]":
    return {namespace["type"]: namespace.get("path", "") for namespace in config.get("linux", {}).get("namespaces", ())}
