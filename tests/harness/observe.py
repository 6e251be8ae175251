# SPDX-License-Identifier: Apache-2.0
"""All that can be seen of one container: by its first process, of its cgroups, and what it leaves in its root file system."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from .bundle import Bundle
from .cgroup import directory, memberships
from .console import Receiver, read_all
from .requirements import cgroup_mode
from .runtime import Container, Runtime

VOLATILE = ("usage", "failcnt", "pressure", "peak", "procs", "tasks", "threads", "stat", "event_control", "reclaim", "kill", "local", "numa", "latency")
REPORT = ["/probe", "report", "all"]


def limits(pid: int) -> dict[str, str]:
    """The settings in the cgroups of a process: every file there that can be written and does not change by itself."""
    found: dict[str, str] = {}
    controllers = [""] if cgroup_mode() == "v2" else [name for name in memberships(pid) if name and "=" not in name]
    for controller in controllers:
        try:
            place = directory(pid, controller)
        except StopIteration:  # a hierarchy that is mounted elsewhere
            continue
        found[f"{controller} owner"] = "{0.st_uid}:{0.st_gid} {0.st_mode:o}".format(place.stat())
        for file in sorted(place.iterdir()):
            if file.is_file() and not any(word in file.name for word in VOLATILE) and file.stat().st_mode & 0o600 == 0o600:
                found[f"{controller} {file.name}".strip()] = "; ".join(sorted(read(file).splitlines()))
    return found


def read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        return str(error.strerror)


def files(top: Path) -> dict[str, str]:
    """Kind, mode and owner of what lies below a directory, and where links lead."""
    found: dict[str, str] = {}
    for place, directories, names in os.walk(top):
        for name in (*directories, *names):
            path = Path(place, name)
            status = path.lstat()
            text = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
            found[str(path.relative_to(top))] = f"{text} -> {os.readlink(path)}" if path.is_symlink() else text
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    return {name: after.get(name, "gone") for name in sorted({*before, *after}) if before.get(name) != after.get(name)}


def observe(runtime: Runtime, bundle: Bundle) -> dict[str, Any]:
    """Runs the probe as the bundle's program: create, start, delete. Where create refuses: {"refused": what it says}."""
    bundle.args(*REPORT)
    (bundle.path / "stdin").write_text("")
    before = files(bundle.rootfs)
    with open(bundle.path / "stdin") as stdin:
        container = runtime.create(bundle, stdin=stdin, check=False)
    if container.result.code:
        return {"refused": container.stderr}
    settings = limits(container.pid)
    container.start()
    code = container.wait(30)
    container.delete()
    assert code == 0, container.stderr
    seen: dict[str, Any] = json.loads(container.stdout)
    seen["limits"] = settings
    seen["traces"] = changes(before, files(bundle.rootfs))
    return neutral(seen, container)


def neutral(seen: dict[str, Any], container: Container) -> dict[str, Any]:
    """Without the names that are this container's own."""
    text = json.dumps(seen)
    for own, name in ((container.id, "ID"), (container.bundle.linux["cgroupsPath"], "/CGROUP"), (str(container.bundle.path), "/BUNDLE")):
        text = text.replace(own, name)
    return json.loads(text)  # type: ignore[no-any-return]


def observe_on_terminal(runtime: Runtime, bundle: Bundle) -> dict[str, Any]:
    """What the probe sees on a terminal, whose other side a console socket gets."""
    bundle.args("/probe", "report")
    receiver = Receiver(bundle.path / "console")
    container = runtime.create(bundle, "--console-socket", receiver.path)
    master, _ = receiver.receive()
    receiver.close()
    container.start()
    text = read_all(master)
    os.close(master)
    assert container.wait() == 0, text
    container.delete()
    return neutral(json.loads(text), container)


def observe_exec(runtime: Runtime, bundle: Bundle, options: list[str] | None) -> dict[str, Any]:
    """What the probe sees when `exec` starts it in a running container: by options, or (None) by a process.json as engines write it."""
    bundle.args(*REPORT)
    if options is None:
        (bundle.path / "process.json").write_text(json.dumps(bundle.process))
    bundle.args("/probe", "sleep", "1000")
    (bundle.path / "stdin").write_text("")
    with open(bundle.path / "stdin") as stdin:
        container = runtime.create(bundle, stdin=stdin)
    container.start()
    words = ["--process", bundle.path / "process.json", container.id] if options is None else [*options, container.id, *REPORT]
    for _ in range(5):  # now and then crun 1.8 cannot enter the namespaces of a container in a user namespace
        result = runtime("exec", *words, input="", check=runtime.name != "crun")
        if "setns" not in result.err:
            break
    seen: dict[str, Any] = result.json()
    container.kill()
    container.wait()
    container.delete()
    return neutral(seen, container)
