# SPDX-License-Identifier: Apache-2.0
"""wherry setup ENGINE: the configuration that makes an engine know this installation. Prints it; --write merges it into the engine's file."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.cli.engines import ENGINES, Engine, Wish
from wherry.errors import HostError, UsageError

FLAGS: dict[str, int | str] = {"print": BOOL, "write": BOOL, "default": BOOL, "shim": BOOL, "name": TEXT, "file": TEXT}

_NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def run(call: Call) -> int:
    (name,) = call.positional(1, 1)
    if name not in ENGINES:
        raise UsageError(f'no engine "{name}" is known', remedy=f"one of: {', '.join(ENGINES)}")
    if call.flags.on("print") and call.flags.on("write"):
        raise UsageError("--print and --write exclude each other")
    engine, wish = ENGINES[name], wish_of(call)
    if call.flags.on("shim"):
        if not engine.shims:
            raise UsageError(f"{name} uses no shim", remedy="--shim is for containerd and docker")
        wish.shim = shim(wish.path)
    given = call.flags.text("file")
    file = Path(given or engine.file(wish).format(name=wish.name)).absolute()
    old = _read(file)
    try:
        new = engine.merge(old, wish)
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}", code=error.code, remedy=error.remedy) from error
    if call.flags.on("write"):
        tell = _write(file, old, new)
    else:
        print(new, end="")
        tell = f"{file} {'says that already' if new == old else 'would be this; --write writes it'}"
    _say(engine, wish, file, tell)
    return 0


def wish_of(call: Call) -> Wish:
    name = call.flags.text("name") or "wherry"
    if not name or set(name) - _NAME or name[0] in ".-":
        raise UsageError(f'invalid value "{name}" for flag -name: letters, digits, "_", "." and "-"')
    wish = Wish(front(), name, call.flags.on("default"), systemd_cgroups(call))
    wish.chosen = call.globals.given("systemd-cgroup") or call.globals.given("cgroup-manager")
    if os.geteuid():
        wish.home = os.environ.get("HOME") or os.path.expanduser("~")
    wish.version = 3 if _containerd_major() >= 2 else 2
    return wish


def front() -> str:
    """The program that engines run: beside the script that the front has started, or beside this interpreter."""
    beside = Path(sys.argv[0]).absolute().parent if Path(sys.argv[0]).name == "wherry-python" else Path(sysconfig.get_path("scripts"))
    found = str(beside / "wherry") if os.access(beside / "wherry", os.X_OK) else shutil.which("wherry")
    if not found:
        raise HostError("the program wherry is not installed", code="WHERRY-HOST-PROGRAM", remedy="pip install wherry")
    return os.path.abspath(found)


def shim(path: str) -> str:
    """Beside the front."""
    found = os.path.join(os.path.dirname(path), "containerd-shim-wherry-v2")
    if not os.access(found, os.X_OK):
        raise HostError(f"{found}: no such program", code="WHERRY-HOST-PROGRAM", remedy="install wherry again")
    return found


def systemd_cgroups(call: Call) -> bool:
    """As the global flags say; else where systemd runs the host, and no other hierarchy than v2 is there."""
    manager = call.globals.text("cgroup-manager")
    if manager or call.globals.given("systemd-cgroup"):
        return call.globals.on("systemd-cgroup") or manager == "systemd"
    return os.path.isdir("/run/systemd/system") and os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def _containerd_major() -> int:
    program = shutil.which("containerd")
    if not program:
        return 1
    text = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    version = next((word.lstrip("v") for word in text.split() if word.lstrip("v")[:1].isdigit()), "1")
    return int(version.partition(".")[0])


def _read(file: Path) -> str | None:
    try:
        return file.read_text() if file.is_file() else None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: it is no text: {error.reason}", code="WHERRY-USAGE-FILE", remedy="correct the file first") from error


def _write(file: Path, old: str | None, new: str) -> str:
    """All at once, or not at all: what was there is kept beside it. A link stays a link."""
    if new == old:
        return f"{file} says that already"
    if file.exists() and not file.is_file():
        raise UsageError(f"{file}: not a file", code="WHERRY-USAGE-FILE")
    target = file.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    backup = ""
    if old is not None:
        backup = _backup(target)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(fresh, "x") as stream:
            stream.write(new)
            stream.flush()
            os.fsync(stream.fileno())
        if old is None:
            fresh.chmod(0o644)
        else:
            status = target.stat()
            os.chown(fresh, status.st_uid, status.st_gid)
            fresh.chmod(status.st_mode & 0o7777)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return f"wrote {file}" + (f" (before: {backup})" if backup else "")


def _backup(file: Path) -> str:
    """A copy beside it, which replaces no earlier one."""
    stem = f"{file}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    name = next(name for number in range(1 << 16) if not os.path.exists(name := f"{stem}{f'-{number}' if number else ''}.bak"))
    shutil.copy2(file, name)
    return name


def _say(engine: Engine, wish: Wish, file: Path, tell: str) -> None:
    """For the person: on stderr, so that stdout is the file and nothing else."""
    lines = [tell, *engine.notes(wish)]
    user = "--user " if wish.home else ""
    ctr = f"--runtime {wish.shim}" if wish.shim else f"--runc-binary {wish.path}"
    lines += [f"then: {text.format(name=wish.name, path=wish.path, file=file, user=user, ctr=ctr)}" for text in engine.then]
    print("\n".join(lines), file=sys.stderr)
