# SPDX-License-Identifier: Apache-2.0
"""What a person reads: `wherry`, `wherry help VERB`, `wherry VERB --help`, `wherry run` without a bundle. No verb loads this."""

from wherry.cli import GLOBAL_FLAGS, VERBS, Call
from wherry.cli.arguments import Values
from wherry.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FLAGS: dict[str, int | str] = {}

# verb -> (positional arguments, one line, more)
SUMMARY: dict[str, tuple[str, str, str]] = {
    "create": (
        "ID",
        "make a container from a bundle; its program waits for start",
        "The bundle is a directory with config.json and a root filesystem.",
    ),
    "start": (
        "ID",
        "let a created container execute its program",
        "Returns once the program executes, and with its error where it cannot.",
    ),
    "state": (
        "ID",
        "print the state of a container as JSON",
        "status is created, running, paused or stopped, as the kernel says at this moment.",
    ),
    "kill": ("ID [SIGNAL]", "send a signal to a container", "SIGNAL is a number or a name, with or without SIG; TERM where none is given."),
    "delete": ("ID", "remove a container that has stopped, or was never started", "An unknown ID is no error with --force."),
    "run": (
        "ID",
        "create and start in one",
        "Without a config.json: wherry run --rootfs DIR [--memory 64M ...] [ID] -- COMMAND [ARGUMENT...]",
    ),
    "exec": (
        "ID COMMAND [ARGUMENT...]",
        "run one more process in a container",
        "Exits with the process's status; 255 where it could not be run, 124 where --timeout has ended it. What stands behind ID is the command's.",
    ),
    "pause": ("ID", "stop all processes of a container where they are", "They go on with wherry resume."),
    "resume": ("ID", "let the processes of a paused container go on", ""),
    "update": ("ID", "change the limits of a container", "What is not given stays as it is."),
    "ps": (
        "ID [PS OPTIONS]",
        "list the processes of a container",
        "The options are those of ps(1), -ef where none is given; with --format json it is a list of numbers.",
    ),
    "events": (
        "ID",
        "print what a container uses, again and again, as JSON",
        "And a line of type oom for each process that the kernel has killed for want of memory. --stats prints once.",
    ),
    "stats": (
        "[ID...]",
        "print what containers use: a table, JSON lines or Prometheus text",
        "Of all that run where no ID is given. On a terminal it is a table, elsewhere JSON, unless --format says otherwise.",
    ),
    "checkpoint": (
        "ID",
        "write a running container to files, by CRIU",
        "The container ends with it, unless --leave-running or --pre-dump is given.",
    ),
    "restore": (
        "ID",
        "let a container go on from its checkpoint, by CRIU",
        "From the same configuration and root filesystem. Waits for its end, unless --detach is given.",
    ),
    "list": ("", "list the containers below --root", "Scripts take --format json or --quiet."),
    "spec": ("", "write an example config.json", "It runs sh in the bundle's rootfs; change it from there."),
    "features": (
        "",
        "print what this runtime can do as JSON",
        "As the runtime specification defines it: what is built in, not what this host has.",
    ),
    "plan": (
        "[BUNDLE]",
        "print what create would do to the host, and do none of it",
        "Each step names the field of config.json that it comes from.",
    ),
    "validate": (
        "[BUNDLE]",
        "check a bundle and say all that is wrong with it",
        "Finds more than create does, which stops at the first error.",
    ),
    "gc": ("", "finish or undo what a crash left behind", "Touches nothing but what the journals say that wherry itself has made."),
    "doctor": (
        "",
        "try what containers need of this host, and say what mends what is missing",
        "Exits with 0 where containers can run. Everything is tried in throw-away processes and namespaces; nothing is left behind.",
    ),
    "setup": (
        "ENGINE",
        "print the configuration that makes an engine know this installation",
        "ENGINE is docker, podman, containerd, crio or buildah. With --write it is merged into the engine's file; what was there is kept.",
    ),
    "completion": (
        "SHELL",
        "print a script that completes command lines in a shell",
        "SHELL is bash, zsh or fish. For bash: source <(wherry completion bash)",
    ),
    "man": ("DIR", "write the man pages into a directory", "For instance: wherry man /usr/local/share/man/man1"),
    "version": ("", "print the version", ""),
    "help": ("[VERB]", "print this, or the flags of a verb", ""),
}

# names of a flag, most readable first -> (value, what it says). A flag means the same wherever it stands, unless VERB_FLAGS says otherwise.
FLAG_TEXT: dict[str, tuple[str, str]] = {
    "root": ("DIR", "where containers are kept (default /run/wherry)"),
    "image-path": ("DIR", "where the files of the checkpoint are (default ./checkpoint)"),
    "work-path": ("DIR", "where CRIU leaves its log (default: --image-path)"),
    "parent-path": ("DIR", "files of a --pre-dump, relative to --image-path: what has not changed since is not written again"),
    "leave-running": ("", "let the container go on"),
    "tcp-established": ("", "take along TCP connections that are open"),
    "tcp-skip-in-flight": ("", "leave out TCP connections that are not yet accepted"),
    "link-remap": ("", "take along files that have been removed but are open"),
    "ext-unix-sk": ("", "take along unix sockets whose other end is outside"),
    "shell-job": ("", "the container's terminal is the caller's"),
    "lazy-pages": ("", "serve memory on demand (userfaultfd)"),
    "status-fd": ("FD", "gets a NUL byte once a lazy checkpoint can be served"),
    "page-server": ("ADDRESS:PORT", "send memory to a page server"),
    "file-locks": ("", "take along file locks"),
    "pre-dump": ("", "only write memory, and let the container go on"),
    "manage-cgroups-mode": ("MODE", "soft, full, strict or ignore (default soft)"),
    "empty-ns": ("TYPE", "make the namespace (network), but leave it empty"),
    "auto-dedup": ("", "drop from the parent's files what has been written again"),
    "lsm-profile": ("TYPE:NAME", "security label in place of the one in the checkpoint"),
    "lsm-mount-context": ("CONTEXT", "SELinux mount context in place of the one in the checkpoint"),
    "log": ("FILE", "append errors to this file too, and warnings instead of to stderr; journald:ID and syslog:ID are known as well"),
    "log-format": ("FORMAT", "text or json (default text)"),
    "log-level": ("LEVEL", "accepted for compatibility"),
    "debug": ("", "every step into the log, or to stderr where there is none; traces of defects"),
    "systemd-cgroup": ("", "cgroups by systemd; cgroupsPath is slice:prefix:name"),
    "cgroup-manager": ("NAME", "cgroupfs, systemd or disabled"),
    "rootless": ("HOW", "true, false or auto: go on where cgroups may not be changed"),
    "criu": ("PATH", "accepted for compatibility"),
    "version": ("", "print the version"),
    "bundle": ("DIR", "the bundle (default: the working directory)"),
    "console-socket": ("PATH", "unix socket that is sent the terminal's master"),
    "pidfd-socket": ("PATH", "unix socket that is sent a pidfd of the container's first process"),
    "pid-file": ("PATH", "file that the first process's id is written to"),
    "no-pivot": ("", "no pivot_root: for a root filesystem on a ramdisk"),
    "no-new-keyring": ("", "keep the caller's session keyring"),
    "preserve-fds": ("N", "pass N more descriptors, from 3 on"),
    "timeout": ("SECONDS", "then kill the process and all that it has started, and exit with 124; such as 1.5"),
    "trace": ("FILE", "write when each step ran, for chrome://tracing and ui.perfetto.dev; as OTLP where FILE ends in .otlp.json"),
    "detach": ("", "return once the program executes"),
    "keep": ("", "do not delete the container at its end"),
    "no-subreaper": ("", "do not adopt what the container's processes leave"),
    "rootfs": ("DIR", "run in this root filesystem, without a config.json"),
    "memory": ("SIZE", "memory limit, such as 64M; -1 is none (run: with --rootfs; default 1G)"),
    "cpus": ("N", "processors, such as 0.5 (with --rootfs)"),
    "pids": ("N", "most processes at a time (with --rootfs; default 512)"),
    "env": ("NAME=VALUE", "environment, may be repeated (run: with --rootfs)"),
    "workdir": ("DIR", "working directory (with --rootfs)"),
    "user": ("UID[:GID]", "user and group (run: with --rootfs)"),
    "hostname": ("NAME", "host name (with --rootfs)"),
    "writable": ("", "the root filesystem may be written to (with --rootfs)"),
    "network": ("HOW", "none or host (with --rootfs; default none)"),
    "tty": ("", "a terminal (run: with --rootfs)"),
    "process": ("FILE", "the process as JSON, as config.json has it; else the container's own with what follows"),
    "cwd": ("DIR", "working directory"),
    "additional-gids": ("GID", "one more group, may be repeated"),
    "cap": ("NAME", "one more capability, may be repeated"),
    "no-new-privs": ("", "set no_new_privs"),
    "process-label": ("LABEL", "SELinux label"),
    "apparmor": ("PROFILE", "AppArmor profile"),
    "cgroup": ("[NAMES:]PATH", "a cgroup below the container's; for the v1 controllers NAMES alone; may be repeated"),
    "resources": ("FILE", "limits as JSON, as linux.resources of config.json has them; - reads stdin"),
    "blkio-weight": ("N", "share of block I/O, 10 to 1000"),
    "cpu-period": ("US", "period of --cpu-quota, in microseconds"),
    "cpu-quota": ("US", "processor time in each period, in microseconds; -1 is no limit"),
    "cpu-burst": ("US", "processor time that may be saved up, in microseconds"),
    "cpu-share": ("N", "share of processor time, 2 to 262144"),
    "cpu-rt-period": ("US", "period of --cpu-rt-runtime (cgroup v1)"),
    "cpu-rt-runtime": ("US", "realtime in each period (cgroup v1)"),
    "cpu-idle": ("N", "1: runs only when nothing else does"),
    "cpuset-cpus": ("LIST", "processors, such as 0-3,7"),
    "cpuset-mems": ("LIST", "memory nodes, such as 0-1"),
    "memory-reservation": ("SIZE", "memory that is kept for it"),
    "memory-swap": ("SIZE", "memory and swap together; -1 is no limit"),
    "kernel-memory": ("SIZE", "accepted for compatibility"),
    "kernel-memory-tcp": ("SIZE", "accepted for compatibility"),
    "pids-limit": ("N", "most processes at a time; -1 is no limit"),
    "l3-cache-schema": ("TEXT", "line of schemata for its class in resctrl"),
    "mem-bw-schema": ("TEXT", "line of schemata for its class in resctrl"),
    "interval": ("DURATION", "how often, such as 1m30s (default: events 5s, stats 1s)"),
    "follow": ("", "go on, until it is interrupted or the named containers have ended"),
    "stats": ("", "print once and end"),
    "ignore-paused": ("", "wait for a paused container to be resumed, instead of failing"),
    "all": ("", "signal every process of the container"),
    "force": ("", "kill it first where it runs"),
    "format": ("FORMAT", "how to print: json, or for a person (stats also: prometheus)"),
    "quiet": ("", "ids only"),
    "dry-run": ("", "say what would be done, do nothing"),
    "print": ("", "print what would be written, and where (the default)"),
    "write": ("", "merge it into the engine's file, all at once, and keep a copy of what was there"),
    "default": ("", "make it the engine's default runtime"),
    "shim": ("", "by containerd-shim-wherry-v2, in the place of runc's shim (containerd, docker)"),
    "name": ("NAME", "the runtime's name in the engine (default wherry)"),
    "file": ("FILE", "the engine's file, where it is not in its usual place"),
    "facts": ("FILE", "plan for the host that this file describes; - prints the facts of this one"),
    "json": ("", "the same as --format json"),
    "strict": ("", "warnings count as errors"),
}

_TEACH = """\
DESCRIPTION:
   Runs containers as the OCI runtime specification describes them: what runc does.

Engines call it for you:
    podman --runtime wherry run ...
    docker run --runtime wherry ...     once /etc/docker/daemon.json names it

By hand, with a directory that holds a root filesystem:
    wherry run --rootfs DIR -- sh       no configuration needed
    wherry spec --bundle B              an example config.json, to change and run
    wherry plan --bundle B              what would be done to this host, step by step
    wherry run --bundle B NAME
"""

_TEACH_RUN = """\
wherry run needs a name, and a bundle: a directory with a config.json and a root filesystem.

    wherry run --bundle B NAME          B/config.json is there already
    wherry spec --bundle B              writes an example B/config.json first
    wherry run --rootfs DIR -- sh       needs neither: a safe default, no network
    wherry run --rootfs DIR --memory 64M --pids 100 -- sh -c 'echo hello'

A root filesystem is any directory with programs in it. The smallest one:
    mkdir -p DIR/bin && cp /bin/busybox DIR/bin/sh
"""


def run(call: Call) -> int:
    """wherry help [VERB]; also wherry alone."""
    words = call.positional(0, 1) if call.verb == "help" and call.flags is not call.globals else []
    if words:
        if words[0] not in VERBS:
            raise unknown_verb(words[0])
        return show(words[0])
    name = call.name()
    print(f"NAME:\n   {name} - Open Container Initiative runtime{'' if name == 'wherry' else ', by wherry'}\n")
    print(f"USAGE:\n   {name} [FLAGS] VERB [FLAGS] [ARGUMENTS]\n")
    print(_TEACH if name == "wherry" else _TEACH.replace("    wherry ", f"    {name} "))
    print("COMMANDS:")
    for verb in VERBS:
        print(f"   {verb:10} {SUMMARY[verb][1]}")
    print("\nGLOBAL OPTIONS:")
    _print_flags(GLOBAL_FLAGS)
    print(f"\n{name} VERB --help says more.")
    return 0


def show(verb: str) -> int:
    """wherry VERB --help"""
    call = Call(Values())
    if verb == "help":
        return run(call)
    arguments, line, more = SUMMARY[verb]
    flags: dict[str, int | str] = __import__(f"wherry.cli.{verb}", fromlist=("FLAGS",)).FLAGS
    usage = " ".join(part for part in (f"{call.name()} {verb}", "[FLAGS]" if flags else "", arguments) if part)
    print(f"NAME:\n   {call.name()} {verb} - {line}\n\nUSAGE:\n   {usage}")
    if more:
        print(f"\nDESCRIPTION:\n   {more}")
    if flags:
        print("\nOPTIONS:")
        _print_flags(flags)
    return 0


def teach_run() -> int:
    print(_TEACH_RUN, end="")
    return 1


def unknown_verb(verb: str, behind: "Sequence[str]" = ()) -> UsageError:
    import difflib

    near = difflib.get_close_matches(verb, VERBS, 1)
    asked = f": No help topic for '{verb}'" if any(word in ("-h", "-help", "--h", "--help") for word in behind) else ""
    return UsageError(f'unknown command "{verb}"{asked}', remedy=f'did you mean "{near[0]}"?' if near else "see wherry help")


def unknown_flag(name: str, flags: "Mapping[str, int | str]", verb: str) -> UsageError:
    """The text is the one that runc's users know; what helps stands behind it."""
    import difflib

    near = difflib.get_close_matches(name, [known for known in flags if len(known) > 1], 1, 0.75)
    remedy = f"did you mean --{near[0]}?" if near else f"see wherry {f'{verb} ' if verb else ''}--help"
    if verb and not near and name in GLOBAL_FLAGS:
        remedy = f"it stands before the verb: wherry --{name} ... {verb}"
    return UsageError(f"flag provided but not defined: -{name}", remedy=remedy)


def wrong_number(verb: str, given: int, least: int, most: "int | None" = None) -> UsageError:
    """As runc says it, and how many there were."""
    number = f"exactly {least}" if least == most else f"a minimum of {least}" if given < least else f"a maximum of {most}"
    return UsageError(f'"{verb}" requires {number} argument(s), not {given}', remedy=f"see wherry {verb} --help")


def _print_flags(flags: dict[str, int | str]) -> None:
    for name, kind in flags.items():
        if isinstance(kind, str):
            continue
        value, text = FLAG_TEXT[name]
        short = "".join(f"-{other}, " for other, meant in flags.items() if meant == name)
        print(f"   {f'{short}--{name} {value}'.rstrip():26} {text}")
