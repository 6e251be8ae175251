#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Catches the configurations of this folder anew, from the engines of this machine (as root; see README.md):

    tests/corpus/capture.py                        everything that can be had here; what could not be caught is printed
    tests/corpus/capture.py --only podman docker   these
    tests/corpus/capture.py --prefix v2- ...       names of their own, for another kind of host (tests/hosts/uml-run)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from catch import Catcher  # noqa: E402
from commands import BUILDAH, BUILDFILE, CTR, DOCKER, NAMESPACES, PODMAN, PODS, ROOTLESS, SPECS  # noqa: E402

from harness.bundle import make_rootfs  # noqa: E402
from harness.census import cgroup_mounts  # noqa: E402

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "xterm"}
USER = "10001"


class Machine:
    """A private place for the engines' files, and the daemons that are stopped at the end."""

    def __init__(self, runtime: str, prefix: str, match: str) -> None:
        self.work = Path(tempfile.mkdtemp(prefix="wherry-corpus-", dir="/var/tmp"))
        self.work.chmod(0o755)
        self.prefix, self.match = prefix, match
        self.catcher = Catcher(self.work, runtime)
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.cgroups = top_cgroups()
        self.rootfs = self.work / "image" / "rootfs"
        self.rootfs.mkdir(parents=True)
        make_rootfs(self.rootfs, None)
        self.archive = self.work / "image.tar"
        with tarfile.open(self.archive, "w") as tar:
            tar.add(self.rootfs, arcname=".")
        (self.work / "data").mkdir()
        for words in (["mount", "--bind", "data", "data"], ["mount", "--make-shared", "data"]):  # engines want to see that it can propagate
            subprocess.run(words, cwd=self.work, check=True)
        (self.work / "hosts").write_text("127.0.0.1 localhost\n")

    def run(self, *words: str, timeout: float = 60, prefix: tuple[str, ...] = ()) -> str:
        """What the command says on stderr; "" where it succeeds."""
        try:
            done = subprocess.run([*prefix, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout,
                                  env=ENVIRONMENT, cwd=self.work)  # fmt: skip
        except (subprocess.TimeoutExpired, FileNotFoundError) as error:
            return str(error)
        return (done.stderr or done.stdout or f"exit {done.returncode}") if done.returncode else ""

    def daemon(self, argv: list[str], ready: Callable[[], bool], seconds: float = 40) -> bool:
        with open(self.work / f"{argv[0]}.log", "ab") as log:
            self.daemons.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not ready():
            time.sleep(0.2)
        return ready()

    def words(self, text: str) -> list[str]:
        """The words of a line of commands.py; WORK, ROOTFS and RUNTIME stand for what only this machine knows."""
        places = {"WORK": str(self.work), "ROOTFS": str(self.rootfs), "RUNTIME": self.catcher.command}
        for key, place in places.items():
            text = text.replace(key, place)
        return shlex.split(text)

    def chosen(self, table: dict[str, str]) -> list[tuple[str, str]]:
        return [(name, text) for name, text in table.items() if re.search(self.match, name)]

    def keep(self, *names: str, why: str = "") -> None:
        self.catcher.keep(*(self.prefix + name for name in names), why=why)

    def close(self) -> None:
        for process in reversed(self.daemons):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        time.sleep(1)
        places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.work) in line]
        for place in reversed(places):
            subprocess.run(["umount", "-l", place], capture_output=True)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if str(self.work).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and int(pid) != os.getpid():
                    os.kill(int(pid), signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.5)
        shutil.rmtree(self.work, ignore_errors=True)
        for path in top_cgroups() - self.cgroups:  # the engines' own parents of containers, which they keep
            for directory, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)


def top_cgroups() -> set[str]:
    return {str(path) for mount in cgroup_mounts() for path in mount.iterdir() if path.is_dir()}


# ---- engines


def podman(machine: Machine) -> None:
    base = ["podman", "--root", f"{machine.work}/podman", "--runroot", f"{machine.work}/podman-run", "--tmpdir", f"{machine.work}/podman-tmp",
            "--runtime", machine.catcher.command, "--events-backend", "none", "--storage-driver", "vfs",
            *([] if Path("/run/systemd/system").exists() else ["--cgroup-manager", "cgroupfs"])]  # fmt: skip
    why = machine.run(*base, "import", str(machine.archive), "box:latest")
    for name, text in machine.chosen(PODMAN):
        options, _, command = text.partition(" -- ")
        network = [] if "--network" in options or "--pod" in options else ["--network", "none"]
        why = machine.run(*base, "run", "--log-driver", "k8s-file", *network, *machine.words(options), "box", *(command.split() or ["true"])) or why
        machine.keep(f"podman-{name}", why=why)
    for names, commands in PODS.items() if not machine.match else ():
        for text in commands:
            why = machine.run(*base, *machine.words(text)) or why
        machine.keep(*(f"podman-{name}" for name in names.split()), why=why)
    machine.run(*base, "pod", "rm", "--all", "--force", "--time", "0")
    machine.run(*base, "rm", "--all", "--force", "--time", "0")


def rootless(machine: Machine) -> None:
    """As a user of a private /etc/passwd, in a mount namespace of its own."""
    home = machine.work / "user"
    for name in ("", "run"):
        (home / name).mkdir(mode=0o700)
        os.chown(home / name, int(USER), int(USER))
    (machine.work / "passwd").write_text(Path("/etc/passwd").read_text() + f"somebody:x:{USER}:{USER}::{home}:/bin/sh\n")
    (machine.work / "subids").write_text("somebody:500000:65536\n")
    (machine.work / "group").write_text(Path("/etc/group").read_text() + f"somebody:x:{USER}:\n")
    base = f"podman --root {home}/podman --runroot {home}/run/podman --tmpdir {home}/tmp --runtime {machine.catcher.command} --events-backend none --storage-driver vfs"
    base += " --cgroup-manager cgroupfs"
    binds = "".join(f"mount --bind {machine.work}/{given} /etc/{name}; " for given, name in
                    (("passwd", "passwd"), ("group", "group"), ("subids", "subuid"), ("subids", "subgid")))  # fmt: skip
    script = f"set -e; mount --make-rprivate /; {binds} exec setpriv --reuid {USER} --regid {USER} --clear-groups env HOME={home} XDG_RUNTIME_DIR={home}/run "

    def as_user(words: str) -> str:
        return machine.run("unshare", "-m", "sh", "-c", script + words)

    why = as_user(f"{base} import {machine.archive} box:latest")
    for name, options in machine.chosen(ROOTLESS):
        network = "" if "--network" in options else "--network none "
        why = as_user(f"{base} run --log-driver k8s-file {network}{' '.join(machine.words(options))} box true") or why
        machine.keep(f"rootless-{name}", why=why)
    as_user(f"{base} rm --all --force --time 0")


def containerd(machine: Machine, *config: str) -> str:
    place = machine.work / "containerd"
    place.mkdir(exist_ok=True)
    socket = f"{place}/c.sock"
    if Path(socket).exists():
        return socket
    text = ["version = 2", f'root = "{place}/root"', f'state = "{place}/state"', f'[grpc]\naddress = "{socket}"', *config]
    (place / "config.toml").write_text("\n".join(text) + "\n")
    machine.daemon(["containerd", "--config", f"{place}/config.toml"], lambda: not machine.run("ctr", "-a", socket, "version"))
    return socket


def ctr(machine: Machine) -> None:
    from cri import plugin

    socket = containerd(machine, *plugin(machine.work, machine.catcher.command))
    holder = subprocess.Popen(["unshare", "-n", "-i", "-u", "sleep", "1000"], stdin=subprocess.DEVNULL)  # namespaces that a container joins
    time.sleep(0.5)
    for number, (name, options) in enumerate(machine.chosen(CTR)):
        spaces = [word.replace("PID", str(holder.pid)) for word in NAMESPACES.split()] if name == "namespaces" else []
        why = machine.run("ctr", "-a", socket, "run", "--rm", "--runc-binary", machine.catcher.command, *spaces, *machine.words(options),
                          "--rootfs", str(machine.rootfs), f"c{number}", "true")  # fmt: skip
        machine.keep(f"ctr-{name}", why=why)
    holder.kill()
    holder.wait()


def cri(machine: Machine) -> None:
    from cri import Client, plugin

    socket = containerd(machine, *plugin(machine.work, machine.catcher.command))
    client = Client(socket)
    why = machine.run("ctr", "-a", socket, "-n", "k8s.io", "images", "import", str(client.image(machine.work, machine.rootfs)), "--snapshotter", "native")
    try:
        for names, pod, containers in client.pods(machine.work):
            why = client.try_pod(pod, containers) or why
            machine.keep(*(f"cri-{name}" for name in names.split()), why=why)
    finally:
        client.close()


def docker(machine: Machine) -> None:
    from cri import plugin

    socket = containerd(machine, *plugin(machine.work, machine.catcher.command))
    place = machine.work / "docker"
    place.mkdir()
    base = ["docker", "-H", f"unix://{place}/d.sock"]
    argv = ["dockerd", "--bridge=none", "--iptables=false", "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "-H", f"unix://{place}/d.sock",
            "-p", f"{place}/pid", "--containerd", socket, "--add-runtime", f"caught={machine.catcher.command}", "--default-runtime", "caught",
            "--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"]  # fmt: skip
    machine.daemon(argv, lambda: not machine.run(*base, "version"))
    why = machine.run(*base, "import", str(machine.archive), "box:latest")
    machine.run(*base, "run", "-d", "--name", "other", "--network", "none", "--ipc", "shareable", "box", "sleep", "1000")
    machine.keep("docker-shareable", why=why)
    for name, text in machine.chosen(DOCKER):
        options, _, command = text.partition(" -- ")
        network = [] if "--network" in options else ["--network", "none"]
        why = machine.run(*base, "run", *network, *machine.words(options), "box", *(command.split() or ["true"]))
        machine.keep(f"docker-{name}", why=why)
    subprocess.run(["docker", *base[1:], "ps", "-aq"], capture_output=True)
    for name in subprocess.run([*base, "ps", "-aq"], capture_output=True, text=True, env=ENVIRONMENT).stdout.split():
        machine.run(*base, "rm", "-f", name)


def buildah(machine: Machine) -> None:
    base = ["buildah", "--root", f"{machine.work}/buildah", "--runroot", f"{machine.work}/buildah-run", "--storage-driver", "vfs"]
    runtime = ["--runtime", machine.catcher.command]
    machine.run(*base, "from", "--name", "w", "scratch")
    why = machine.run(*base, "add", "w", str(machine.archive), "/")
    for name, options in machine.chosen(BUILDAH):
        why = machine.run(*base, "run", *runtime, *machine.words(options), "w", "--", "true") or why
        machine.keep(f"buildah-{name}", why=why)
    machine.run(*base, "commit", "w", "box")
    context = machine.work / "context"
    context.mkdir()
    (context / "Containerfile").write_text(BUILDFILE)
    why = machine.run(*base, "bud", *runtime, "--isolation", "oci", "--network", "none", "--layers=false", "--pull-never", "-t", "built", str(context)) or why
    machine.keep("buildah-build", "buildah-build-mounts", why=why)


def specs(machine: Machine) -> None:
    """What runtimes propose themselves."""
    for name, text in SPECS.items():
        place = machine.work / name
        place.mkdir()
        why = machine.run(*text.split(), "--bundle", str(place))
        file = place / "config.json"
        if file.exists():
            machine.catcher.write(machine.prefix + name, file.read_text())
        else:
            machine.catcher.missing.append(f"{name}: {why.strip()}")


ENGINES = {"podman": podman, "rootless": rootless, "ctr": ctr, "cri": cri, "docker": docker, "buildah": buildah, "specs": specs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(ENGINES), default=list(ENGINES))
    parser.add_argument("--runtime", default="/usr/sbin/runc", help="what runs the containers (%(default)s)")
    parser.add_argument("--prefix", default="", help="goes before each name")
    parser.add_argument("--match", default="", metavar="REGEX", help="not all of an engine's, but those whose name matches")
    given = parser.parse_args()
    machine = Machine(given.runtime, given.prefix, given.match)
    try:
        for name in given.only:
            try:
                ENGINES[name](machine)
            except Exception as error:
                machine.catcher.missing.append(f"{name}: {type(error).__name__}: {error}")
    finally:
        machine.close()
    print(f"caught {len(machine.catcher.kept)}: {' '.join(machine.catcher.kept)}")
    for line in machine.catcher.missing:
        print(f"NOT caught: {line[:300]}")
    return 1 if machine.catcher.missing else 0


if __name__ == "__main__":
    sys.exit(main())
