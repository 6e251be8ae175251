# SPDX-License-Identifier: Apache-2.0
"""Every stable error code: its cause, its remedy, the exit code and the RPC status it becomes. Loaded once something failed.

A code is never renamed and never gets another meaning. docs/errors.md is printed from this table (docs/generate.py), and a
test compares it with the codes in the sources, in both directions.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Code:
    """`status` is the canonical name of the RPC status (gRPC and ttrpc share the numbers, STATUSES)."""

    __slots__ = ("cause", "exit_code", "name", "remedy", "status")

    def __init__(self, name: str, status: str, cause: str, remedy: str, exit_code: int = 1) -> None:
        self.name = name
        self.status = status
        self.cause = cause
        self.remedy = remedy
        self.exit_code = exit_code


STATUSES = {
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
}

# family and status, then name: (cause, remedy)
_TABLE: "dict[tuple[str, str], dict[str, tuple[str, str]]]" = {
    ("USAGE", "INVALID_ARGUMENT"): {
        "": ("the command line is wrong, or an argument of a library call", "read `wherry VERB --help`"),
        "ID": ("a container id holds other characters than A-Z a-z 0-9 _ + . -, or is empty", "choose another id"),
        "SIGNAL": ("no such signal", "give a number or a name such as TERM"),
        "BUNDLE": ("the bundle is no directory that holds a config.json", "give the right --bundle, or make one with `wherry spec`"),
        "TERMINAL": (
            "terminal, console socket and detach do not fit together",
            "give --console-socket exactly when the process has a terminal and wherry detaches",
        ),
        "FILE": ("a file named on the command line cannot be read or written", "check the path and its permissions"),
    },
    ("JSON", "INVALID_ARGUMENT"): {
        "SYNTAX": ("the file is not JSON", "correct the place that line and column name"),
        "ENCODING": (
            "the file is not UTF-8, or begins with a byte order mark, or a string holds half a surrogate pair",
            "save it as UTF-8 without byte order mark",
        ),
        "DUPLICATE-KEY": (
            "an object has the same key twice",
            "remove one of them: the specification forbids it, and readers disagree which one counts",
        ),
        "NUL": ("a string holds a NUL character", "remove it: no path, name or option may hold one"),
        "SIZE": ("the file is larger than 16 MiB", "make it smaller"),
        "DEPTH": ("values are nested too deeply", "flatten the document"),
        "NUMBER": ("a number that JSON or the runtime does not know", "write a plain decimal number"),
        "ROOT": ("the document is not an object", "a configuration begins with {"),
    },
    ("CONFIG", "INVALID_ARGUMENT"): {
        "VALUE": ("a value that the specification does not allow at this place", "the message says what is allowed there"),
        "TYPE": ("a value of the wrong JSON type", "give the type that the message names"),
        "REQUIRED": ("a required property is missing", "add it"),
        "RANGE": ("a number outside of its range", "give one within the range that the message names"),
        "UNKNOWN-VALUE": ("a name that is not one of the known ones", "use one of the names that the message lists"),
        "UNKNOWN-PROPERTY": (
            "a property that the specification does not have; it is ignored (warning)",
            "correct its spelling, or remove it",
        ),
        "DUPLICATE": ("something is given twice that may be given once", "remove one of them"),
        "CONFLICT": ("two values that exclude each other", "remove one of them"),
        "MISSING-NAMESPACE": ("a value needs a namespace that the container does not have", "add the namespace to /linux/namespaces"),
        "PATH": ("a path that must be absolute, or stay inside its directory", "write the whole path"),
        "VERSION": ("an ociVersion that wherry does not know", "use a 1.x version"),
        "MAPPINGS": (
            "id mappings that do not fit together",
            "give uidMappings and gidMappings together, without overlaps, and a user namespace for those in /linux",
        ),
        "MOUNT": (
            "a mount that cannot be made as it is written",
            "give a type, or the option bind or rbind with a source; keep filesystem options off bind mounts",
        ),
        "SYSCTL": ("a sysctl that is not confined to the container", "remove it, or give the container the namespace that confines it"),
        "SECCOMP": (
            "a seccomp profile that contradicts itself",
            "errnoRet belongs to SCMP_ACT_ERRNO and SCMP_ACT_TRACE; SCMP_ACT_NOTIFY needs listenerPath and is never the default",
        ),
        "CAPABILITY": ("a capability that is unknown or not granted (warning)", "correct its name, or remove it"),
        "HOOK": ("a hook that cannot be run as it is written", "give an absolute path, and a timeout above 0"),
        "DEPRECATED": (
            "a property that the specification or the kernel has given up (warning)",
            "use what the message names, or remove the property",
        ),
    },
    ("BUNDLE", "INVALID_ARGUMENT"): {
        "ROOTFS": ("the root filesystem is missing, or is not a directory", "make it, or correct /root/path"),
        "SYMLINK": ("the root filesystem is a symbolic link", "name the directory itself"),
        "RISK": (
            "the root filesystem holds something that create will refuse or that weakens the container (warning)",
            "make what is missing before create, or correct the path",
        ),
    },
    ("STATE", "FAILED_PRECONDITION"): {
        "REFUSED": ("the verb does not fit the state of the container", "read `wherry state ID`"),
        "RUNNING": ("the container runs already", "nothing is to be done"),
        "STOPPED": ("the container has stopped", "delete it and create it again"),
        "PAUSED": ("the container is paused", "resume it first"),
        "NOT-PAUSED": ("the container is not paused", "nothing is to be done"),
        "NOT-STOPPED": ("the container has not stopped yet", "kill it first, or delete --force"),
        "NO-PROCESS": (
            "the configuration has no process, so there is nothing to start",
            "create the container from a configuration with /process",
        ),
        "FOREIGN": ("another runtime, or a person, has made this directory below --root", "check --root; who has made it can remove it"),
        "VERSION": ("the state was written by another version of wherry", "use that version, or delete --force"),
    },
    ("STATE", "NOT_FOUND"): {"NOT-FOUND": ("there is no container of this id below --root", "check the id and --root (`wherry list`)")},
    ("STATE", "ALREADY_EXISTS"): {"EXISTS": ("the id is taken", "delete that container or choose another id")},
    ("STATE", "UNAVAILABLE"): {"BUSY": ("another command works on this container", "try again when it has ended")},
    ("STATE", "INTERNAL"): {"DAMAGED": ("a file in the state directory is damaged", "`wherry gc`, or delete --force")},
    ("HOST", "FAILED_PRECONDITION"): {
        "": ("the host lacks something that the operation needs", "`wherry doctor` says what"),
        "KERNEL": (
            "the kernel is too old, or was built without a feature",
            "`wherry doctor` lists the features and the kernels that have them",
        ),
        "CRIU": (
            "CRIU is missing, too old, or cannot checkpoint or restore this container",
            "the message has CRIU's first error and its log; CRIU 4 is needed on new kernels",
        ),
        "CGROUP": (
            "the cgroup hierarchy does not offer what the configuration asks for",
            "`wherry doctor`; a rootless container needs delegated controllers",
        ),
        "PROGRAM": ("a program that wherry needs is missing", "install it"),
        "RESCTRL": ("linux.intelRdt cannot be applied by the host's resctrl filesystem", "see the message"),
        "SYSTEMD": (
            "systemd cannot be asked for a cgroup, or refuses it",
            "the message says how it was asked; the cgroup manager cgroupfs (no --systemd-cgroup) needs none",
        ),
        "SYSTEMD-UNIT": ("the unit is there already, or does not come to be, or somewhere else", "`systemctl status UNIT`, `journalctl -u UNIT`"),
        "BUILD": ("the program on PATH and the Python package are of different builds", "install wherry again"),
    },
    ("HOST", "PERMISSION_DENIED"): {
        "PERMISSION": ("the host refused, for lack of a privilege", "run as root, or rootless with a user namespace")
    },
    ("PLAN", "FAILED_PRECONDITION"): {
        "UNSUPPORTED": (
            "a valid configuration that this host cannot run",
            "the message names the field and what the host lacks; `wherry doctor` lists what it has",
        ),
        "TOO-LARGE": ("the launch plan would be larger than 8 MiB", "make the configuration smaller"),
    },
    ("LAUNCH", "FAILED_PRECONDITION"): {
        "STEP": (
            "a step of the launch plan failed in the kernel",
            "the message names the field, the call and its error; `wherry plan` shows all steps",
        ),
        "CGROUP-POPULATED": ("the cgroup holds processes already", "give the container its own /linux/cgroupsPath"),
        "CGROUP-FROZEN": ("the cgroup is frozen", "thaw it, or give the container its own /linux/cgroupsPath"),
        "WRONG-NAMESPACE-TYPE": (
            "the file is not a namespace of the type that the configuration says",
            "correct the path in /linux/namespaces",
        ),
        "NOT-IN-ROOTFS": ("a path cannot be reached inside of the root filesystem", "look for a symbolic link on the way that leads out"),
        "NOT-PROCFS": ("/proc is not the kernel's process filesystem", "mount proc at /proc and nothing over it"),
        "SYMLINK-REFUSED": ("/proc or /sys of the root filesystem is a symbolic link", "make it a directory"),
        "OTHER-NODE": ("another file is at the path of a device", "remove it from the root filesystem, or mount a tmpfs on /dev"),
        "PROGRAM-NOT-FOUND": ("the program is not in the container", "check /process/args/0 and PATH in /process/env"),
        "CWD-OUTSIDE": ("the working directory is not inside of the container", "correct /process/cwd"),
        "LOCKED-FLAG": (
            "a bind mount may not clear a flag that the host has locked",
            "leave the option out, or mount the source otherwise",
        ),
        "UNSUPPORTED": ("the kernel lacks a call that a step needs", "`wherry doctor` lists what is missing"),
        "CAPABILITY-MISSING": (
            "a capability could not be kept",
            "wherry itself lacks it: run it with more privileges, or remove the capability",
        ),
    },
    ("LAUNCH", "ABORTED"): {
        "INIT-DIED": (
            "the first process of the container died before it was ready",
            "look for the out-of-memory killer; give it more memory",
        ),
        "LAUNCHER-DIED": ("the launcher died", "look for the out-of-memory killer"),
    },
    ("LAUNCH", "INTERNAL"): {
        "BAD-PLAN": ("the launch plan is damaged", "remove the plans directory below --root; report it if it comes back")
    },
    ("HOOK", "FAILED_PRECONDITION"): {
        "FAILED": ("a hook ended with an error", "the message holds its path, its exit status and what it printed"),
        "TIMEOUT": ("a hook took longer than its timeout", "make it faster, or its timeout longer"),
    },
    ("NETDEVICE", "FAILED_PRECONDITION"): {
        "": ("a network device cannot be moved into the container", "see the message"),
        "DEFAULT-ROUTE": ("the device carries the host's default route", "give the container another device"),
    },
    ("SECCOMP", "FAILED_PRECONDITION"): {
        "COMPILE": ("libseccomp refuses the profile, or needs too long for it", "see the message"),
        "LIBRARY": ("libseccomp is missing", "install it (package libseccomp2)"),
    },
    ("DEADLINE", "DEADLINE_EXCEEDED"): {"": ("something took longer than it may", "try again; the message names what was waited for")},
    ("SHIM", "PERMISSION_DENIED"): {
        "ROLE": ("who calls has another role than the method needs, or none", "start the server with --allow WHO=ROLE"),
        "PEER": ("somebody has connected to a socket that the server uses inside", "connect to what --listen names"),
    },
    ("SHIM", "RESOURCE_EXHAUSTED"): {
        "CONNECTIONS": ("a client has too many connections", "close some, or start the server with a larger --max-connections"),
        "CALLS": ("too many calls are under way", "come back a little later, or start the server with a larger --max-calls"),
        "STREAMS": ("too many streams are open", "close some, or start the server with a larger --max-streams"),
        "RATE": ("too many calls in a short time", "come back after the delay in RetryInfo"),
        "DISK": ("no space is left for what the server writes down: nothing new is begun", "make room below --data"),
        "EXECS": ("a container has too many execs", "wait for some to end, or DeleteExec"),
        "SLOW": ("a subscriber did not take its events", "subscribe again with the cursor of the last one that was taken"),
        "SIZE": ("the request is too large", "give a bundle in the place of what it holds, or start the server with a larger --max-message"),
    },
    ("SHIM", "OUT_OF_RANGE"): {
        "CURSOR": ("events behind a cursor are not kept any more", "look at the containers, then subscribe from the oldest event (metadata: oldest)"),
    },
    ("SHIM", "UNAVAILABLE"): {
        "ENDING": ("the server ends, or is replaced", "come back, with the cursor or the offsets that were seen last"),
    },
    ("SHIM", "UNIMPLEMENTED"): {"METHOD": ("there is no such method", "ask the reflection service for those that there are")},
    ("SHIM", "FAILED_PRECONDITION"): {
        "RELOAD": ("the program that is installed now would not start; the server goes on", "repair the installation, or what the options name"),
    },
    ("INTERNAL", "INTERNAL"): {"": ("a defect of wherry", "report it, with the output of --debug")},
}


def _rows() -> "Iterator[Code]":
    for (family, status), names in _TABLE.items():
        for name, (cause, remedy) in names.items():
            yield Code(f"WHERRY-{family}-{name}".rstrip("-"), status, cause, remedy)


CODES = {row.name: row for row in _rows()}
