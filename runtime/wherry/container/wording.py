# SPDX-License-Identifier: Apache-2.0
"""Words for what C reports: a Failure (step, error, call, value) and the plan it happened in become an error that names the field
of config.json. Loaded once something failed. What engines search for in these texts is listed in docs/errors.md.

    /mounts/3: mount tmpfs on /run: operation not permitted (fsmount, step 12 of 31)
"""

import posix
from errno import EACCES, EBUSY, EDQUOT, EINVAL, EISDIR, ENODEV, ENOENT, ENOEXEC, ENOSPC, EOPNOTSUPP, EPERM, EROFS, ESRCH

from wherry.codes import CODES
from wherry.container.hooks import end, hook_error, os_text, wait_status
from wherry.errors import ConfigError, DeadlineError, HookError, HostError, InternalError, LaunchError, WherryError
from wherry.kernel.native import Container, Failure, call_name, constants
from wherry.plan.describe import Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.container.options import CreateOptions

# refusal -> (code, words)
_REFUSALS = {
    "BAD_PLAN": ("WHERRY-LAUNCH-BAD-PLAN", "the plan is damaged at offset {value}"),
    "WRONG_VERSION": ("WHERRY-HOST-BUILD", "the plan was made by another build of wherry"),
    "CGROUP_POPULATED": ("WHERRY-LAUNCH-CGROUP-POPULATED", "container's cgroup is not empty: it holds processes already"),
    "CGROUP_FROZEN": ("WHERRY-LAUNCH-CGROUP-FROZEN", "container's cgroup unexpectedly frozen"),
    "CGROUP_INTERNAL_PROCESSES": ("WHERRY-HOST-CGROUP", "{above} holds processes itself, so it cannot enable controllers"),
    "CGROUP_CONTROLLER_MISSING": ("WHERRY-HOST-CGROUP", "{above} does not offer the controller"),
    "WRONG_NAMESPACE_TYPE": ("WHERRY-LAUNCH-WRONG-NAMESPACE-TYPE", "the file is not a namespace of this type"),
    "NOT_IN_ROOTFS": ("WHERRY-LAUNCH-NOT-IN-ROOTFS", "the path cannot be reached inside of the root filesystem"),
    "NOT_PROCFS": ("WHERRY-LAUNCH-NOT-PROCFS", "/proc is not the kernel's process filesystem"),
    "SYMLINK_REFUSED": ("WHERRY-LAUNCH-SYMLINK-REFUSED", "it must be mounted on ordinary directory, and there is a symbolic link"),
    "OTHER_NODE": ("WHERRY-LAUNCH-OTHER-NODE", "another file exists there"),
    "CWD_OUTSIDE": ("WHERRY-LAUNCH-CWD-OUTSIDE", "current working directory is outside of container mount namespace root"),
    "INIT_DIED": ("WHERRY-LAUNCH-INIT-DIED", "the container's first process died: {status}"),
    "LAUNCHER_DIED": ("WHERRY-LAUNCH-LAUNCHER-DIED", "the launcher died: {status}"),
    "DEADLINE": ("WHERRY-DEADLINE", "it took longer than it may"),
    "LOCKED_FLAG": ("WHERRY-LAUNCH-LOCKED-FLAG", "operation not permitted: a flag that the host's mount has locked cannot be cleared"),
    "UNSUPPORTED": ("WHERRY-LAUNCH-UNSUPPORTED", "the kernel lacks {call}"),
    "CAPABILITY_MISSING": ("WHERRY-LAUNCH-CAPABILITY-MISSING", "the capability cannot be kept"),
    "INSIDE_PROC": ("WHERRY-CONFIG-MOUNT", "nothing may be mounted inside of /proc"),
    "UNSAFE_DIRECTORY": ("WHERRY-HOST-PERMISSION", "it belongs to another user, or others may write to it"),
}
_BY_NUMBER = {getattr(constants, f"WHERRY_{name}"): row for name, row in _REFUSALS.items()}
_KINDS = {"WHERRY-CONFIG": ConfigError, "WHERRY-HOST": HostError, "WHERRY-DEADLINE": DeadlineError, "WHERRY-INTERNAL": InternalError}
_MOUNTS = ("MOUNT_BIND", "MOUNT_FS", "MOUNT_CGROUP2", "MOUNT_SYSFS", "MOUNT_ATTRIBUTES", "REMOUNT")
_UNSAID = ("WHERRY-LAUNCH-STEP", "WHERRY-CONFIG-MOUNT")  # codes whose remedy says no more than the message

# what a person can do about the usual errors of a step, where the code has no remedy of its own
_HINTS = {
    ("CLAIM", ENOSPC): "make room where containers are kept, or keep them elsewhere: wherry --root DIR",
    ("CLAIM", EACCES): "keep containers where you may write: wherry --root DIR, or XDG_RUNTIME_DIR",
    ("CLAIM", EROFS): "keep containers where that can be written to: wherry --root DIR",
    ("OPEN_TREE", ENOENT): "make the source on the host, or remove the mount",
    ("OPEN_NAMESPACE", ENOENT): "the process that the namespace belonged to has ended, or the path is wrong",
    ("JOIN", ESRCH): "the container's first process is ending, or its main thread has ended: what it has lived in cannot be joined",
    ("OOM_SCORE_ADJ", EACCES): "lowering the score below the caller's needs CAP_SYS_RESOURCE",
    ("RLIMIT", EPERM): "raising a hard limit above the caller's needs CAP_SYS_RESOURCE: lower it, or raise the caller's",
    ("MOUNT_FS", ENODEV): "the kernel has no filesystem of this type",
    ("MOUNT_FS", EINVAL): "the filesystem knows no such option or value; the kernel's log may say which",
    ("MOUNT_FS", EPERM): "mounting this needs CAP_SYS_ADMIN in the user namespace that owns the container's namespaces",
    ("SCHEDULER", EPERM): "it needs CAP_SYS_NICE; and with SCHED_DEADLINE, process scheduler can't be used together with AllowedCPUs: leave "
    "/linux/resources/cpu/cpus out",
    ("CGROUP_DIRECTORY", EACCES): "the cgroup above it is not yours: systemd-run --user --scope -p Delegate=yes wherry ..., or give --systemd-cgroup",
    ("CGROUP_DIRECTORY", EROFS): "mount the cgroups writable, or give --cgroup-manager disabled, and no limits",
    ("CGROUP_WRITE", EACCES): "the cgroup is not yours: systemd-run --user --scope -p Delegate=yes wherry ..., or give --systemd-cgroup",
    ("CLONE", EBUSY): "the cgroup has controllers enabled for its children (cgroup.subtree_control), so no process may be in it: give the "
    "container a /linux/cgroupsPath of its own",
    ("CLONE", EOPNOTSUPP): "the cgroup is threaded, or below one that is: give the container a /linux/cgroupsPath elsewhere",
    ("IDMAP_TREE", EINVAL): "the kernel cannot map ids of this filesystem (tmpfs: from 6.3 on; no overlay, no filesystem made in a user namespace)",
    ("KEYRING", EDQUOT): "each session keyring counts for its user until it is collected: raise /proc/sys/kernel/keys/maxkeys (root_maxkeys for "
    "root), or give --no-new-keyring",
    ("CLONE", EACCES): "the kernel wants both cgroups below one of yours: systemd-run --user --scope wherry ...",
    ("SYSCTL", ENOENT): "the kernel has no such sysctl in this namespace",
}


class Setting:
    """What stands for the slots of a plan, and what the caller named on the command line."""

    __slots__ = ("bundle", "id", "options", "root", "verb")

    def __init__(self, verb: str, root: str, id: str, bundle: str = "", options: "CreateOptions | None" = None) -> None:
        self.verb, self.root, self.id, self.bundle, self.options = verb, root, id, bundle, options

    @classmethod
    def of(cls, options: "CreateOptions") -> "Setting":
        return cls(options.verb, options.root, options.id, options.bundle, options)

    def fill(self, text: str) -> str:
        for slot, value in (("<id>", self.id), ("<bundle>", self.bundle), ("<directory>", f"{self.root}/{self.id}")):
            text = text.replace(slot, value or slot)
        return text


def explain(failure: Failure, plan: bytes, setting: Setting) -> WherryError:
    """The error for a failure of an operation of the plan, or of none."""
    steps = Plan(plan).steps
    step = steps[failure.step] if failure.step < len(steps) else None
    error = _program_error(failure, step, steps) or _hook_error(failure, step) or _step_error(failure, step, steps, setting)
    error.facts["verb"] = setting.verb
    if step is not None:
        error.facts.update(step=step.number, steps=len(steps))
        call = "" if failure.call in ("NONE", "HOOK") else f"{failure.call.lower()}, "
        error.message += f" ({call}step {step.number} of {len(steps)})"
    if failure.undo:
        message = f"{posix.strerror(failure.undo).lower()}: what is left is removed by wherry gc"
        error.also.append(HostError(message, errno=failure.undo))
    return error


def _step_error(failure: Failure, step: "Step | None", steps: "list[Step]", setting: Setting) -> WherryError:
    code, words = _BY_NUMBER.get(failure.error, ("WHERRY-LAUNCH-STEP", os_text(failure)))
    words = words.replace("{value}", str(failure.value)).replace("{call}", failure.call.lower())
    if "{status}" in words:  # else it may be any number
        words = words.replace("{status}", wait_status(failure.value))
    if step is not None:
        words = words.replace("{above}", str(step.fields.get("path"))[: failure.value])
        words = f"{setting.fill(_what(failure, step, steps, setting))}: {words}"
    elif failure.call != "NONE" and failure.error not in _BY_NUMBER:
        words = f"{failure.call.lower()}: {words}"
    kind = next((other for prefix, other in _KINDS.items() if code.startswith(prefix)), LaunchError)
    remedy = CODES[code].remedy if code in CODES and code not in _UNSAID else None
    if step is not None:
        remedy = remedy or _hint(failure, step)
    place = (step.place or None) if step is not None else None
    error = kind(words, code=code, pointer=place, remedy=remedy, call=failure.call, errno=failure.error)
    if step is not None and step.name in _MOUNTS:
        error.facts.update(mounted=_mounted(steps, step), destination=step.fields["destination"])
    return error


def _hint(failure: Failure, step: Step) -> "str | None":
    if step.place == "/root/path" and failure.error == ENOENT:
        return "it must be the directory of the container's files; a relative one is below the bundle"
    if step.name in _MOUNTS and failure.error in (EACCES, EROFS) and failure.call in ("OPENAT2", "MKDIR", "OPEN"):
        return "the container's root, who may be nobody in particular on the host, cannot reach or make the place: make it in the root filesystem"
    return _HINTS.get((step.name, failure.error))


# ---- what the step was doing, in a few words


def _what(failure: Failure, step: Step, steps: "list[Step]", setting: Setting) -> str:
    f = step.fields
    if step.name in ("CLAIM", "PUBLISH"):
        return _of_the_caller(failure, setting) or ("claim the id" if step.name == "CLAIM" else "publish the container")
    if setting.verb == "exec" and step.name in ("CGROUP_DIRECTORY", "OPEN_TASKS"):
        return f"error adding pid to cgroup {f['path'] if 'path' in f else f['file'].rpartition('/')[0]}"
    if step.name in ("CGROUP_WRITE", "OPEN_TASKS"):
        verb = f"write {f['value']} to" if step.name == "CGROUP_WRITE" else "open"
        return f"{verb} {_cgroup(steps, f['directory'])}/{f['file']}"
    if step.name in ("MOUNT_FS", "MOUNT_CGROUP2", "MOUNT_SYSFS"):
        return f"mount {f['type']} on {f['destination']}"
    if step.name == "MOUNT_BIND":
        return f"bind {_source(steps, step)} on {f['destination']}"
    if step.name == "OPEN_TREE":
        return f"open {f['source']}"
    if step.name == "ATTACH_ROOTFS":
        return f"mount the root filesystem {f['path']}"
    if step.name == "WORKING_DIRECTORY":
        return f'chdir to cwd ("{f["path"]}") set in config.json failed'
    if step.name == "LISTENER":
        return f"failed to connect with seccomp agent at {f['path']}"
    if step.name == "SECURITY_LABEL":
        return f"write {f['module']} label {f['label']} to /proc/self/attr"
    if step.name == "IDMAP_TREE":
        return f"map the ids of {_tree(steps, step)}"
    if step.name == "LANDLOCK":
        return f"allow {f['paths'][failure.value]} by landlock" if f["paths"] and failure.call == "OPEN" else "restrict the process by landlock"
    return step.text.partition(" [")[0].partition("; ")[0]


def _of_the_caller(failure: Failure, setting: Setting) -> str:
    """Flags of the command line, which no field of the configuration answers for."""
    options = setting.options
    if failure.call == "PID_FILE" and options:
        return f"--pid-file {options.pid_file}"
    if failure.call == "CONSOLE_SOCKET" and options:
        return f"--console-socket {options.console_socket}"
    if failure.call == "PIDFD_SOCKET" and options:
        return f"--pidfd-socket {options.pidfd_socket}"
    if failure.call == "OPEN" or failure.error == constants.WHERRY_UNSAFE_DIRECTORY:
        return f"--root {setting.root}"
    return ""


def _cgroup(steps: "list[Step]", register: int) -> str:
    return next(
        (str(step.fields["path"]) for step in steps if step.name == "CGROUP_DIRECTORY" and step.fields["out"] == register), "cgroup"
    )


def _tree(steps: "list[Step]", of: Step) -> str:
    """What the last step before this one has put into its register."""
    names = ("OPEN_TREE", "CREATE_TREE")
    made = [step for step in steps[: of.number - 1] if step.name in names and step.fields["out"] == of.fields["tree"]]
    return f"a new {made[-1].fields['type']}" if made[-1].name == "CREATE_TREE" else str(made[-1].fields["source"])


def _source(steps: "list[Step]", step: Step) -> str:
    """Of the tree that the step attaches: the registers are used again and again."""
    trees = (one for one in steps if one.name == "OPEN_TREE" and one.number < step.number and one.fields["out"] == step.fields["tree"])
    return next((str(one.fields["source"]) for one in reversed([*trees])), "")


def _mounted(steps: "list[Step]", step: Step) -> str:
    """What a step about a mount mounts, or has mounted before."""
    attached = [one for one in steps[: step.number] if one.name in ("MOUNT_BIND", "MOUNT_FS") and one.fields["destination"] == step.fields["destination"]]
    one = attached[-1] if attached else step
    return _source(steps, one) if one.name == "MOUNT_BIND" else str(one.fields.get("source") or one.fields.get("type") or "")


# ---- the program, and hooks


def _program_error(failure: Failure, step: "Step | None", steps: "list[Step]") -> "WherryError | None":
    """What engines turn into 126 and 127: the program cannot be found, or must not be executed."""
    if step is None or step.name not in ("PROGRAM", "EXECUTE"):
        return None
    if failure.error != constants.WHERRY_PROGRAM_NOT_FOUND and failure.error >= constants.WHERRY_REFUSED_FIRST:
        return None
    program = next(step.fields["arguments"][0] for step in steps if step.name == "PROGRAM")
    code, remedy, text = "WHERRY-LAUNCH-STEP", None, os_text(failure)
    if failure.error == constants.WHERRY_PROGRAM_NOT_FOUND:
        code, text = "WHERRY-LAUNCH-PROGRAM-NOT-FOUND", "executable file not found in $PATH: No such file or directory"
    elif failure.error == ENOENT and step.name == "EXECUTE":  # it was there when it was looked up: so it is the interpreter
        message = f"exec {program}: no such file or directory"
        remedy = f"the interpreter that {program} names is missing"
        return LaunchError(message, code=code, pointer="/process/args/0", remedy=remedy, call=failure.call, interpreter=True)
    elif failure.error == ENOENT:
        code, text = "WHERRY-LAUNCH-PROGRAM-NOT-FOUND", f"stat {program}: no such file or directory"
    elif failure.error == EISDIR:
        text = "is a directory: permission denied"
    elif failure.error == EACCES:
        remedy = "it must be a file that may be executed"
    elif failure.error == ENOEXEC:
        remedy = "a script begins with #! and its interpreter; a program must be of this machine's architecture"
    if code != "WHERRY-LAUNCH-STEP":
        remedy = CODES[code].remedy
    message = f'exec: "{program}": {text}'
    return LaunchError(message, code=code, pointer="/process/args/0", remedy=remedy, call=failure.call, errno=failure.error)


def _hook_error(failure: Failure, step: "Step | None") -> "WherryError | None":
    if step is None or step.name != "HOOK":
        return None
    _, _, kind, index = step.place.split("/")
    return hook_error(failure, kind, int(index), step.fields["path"], step.fields["timeout"])


# ---- what the front had, and what start met


def told() -> "Failure | None":
    """The failure that the front had, and left to be worded: everything has been undone (create, run) or is as it was left (start)."""
    text = posix.environ.pop(b"WHERRY_FAILURE", b"").decode("ascii", "replace")
    numbers = [int(part) for part in text.split(":") if part.isdecimal()]
    if len(numbers) != 4 or not numbers[1] or numbers[1] == constants.WHERRY_EXISTS:
        return None  # not said what; or the id is taken, perhaps by a crashed create: done again here
    step, error, call, value = numbers
    return Failure(error, step, call_name(call), value)


def raise_told(plan: bytes, setting: Setting) -> None:
    failure = told()
    if failure is not None:
        raise explain(failure, plan, setting)


def raise_told_start(container: Container, setting: Setting) -> None:
    failure = told()
    if failure is not None:
        raise start_failed(container, failure, setting)


def start_failed(container: Container, failure: Failure, setting: Setting) -> WherryError:
    """The error of a start whose program could not be executed. Init is gone by now, and the container has stopped; where a
    startContainer hook failed it is removed, as the specification has it."""
    error = explain(failure, container.kept("plan"), setting)
    if isinstance(error, HookError):
        end(container, error)
    return error
