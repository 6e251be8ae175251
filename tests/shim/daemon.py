# SPDX-License-Identifier: Apache-2.0
"""A containerd of our own, that can be stopped and started again, with our shim on its PATH; and `ctr` for it."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from harness.census import cgroups_with

from .shims import BINARY, alive

RUNTIME = "io.containerd.wherry.v2"
PEER = "io.containerd.runc.v2"


class Daemon:
    def __init__(self, place: Path, rootfs: Path, path: Path = BINARY.parent, tools: Path | None = None) -> None:
        """path: the directory where it finds shims first. tools: where containerd and ctr are, if not on PATH."""
        self.place, self.rootfs, self.path, self.socket = place, rootfs, path, f"{place}/c.sock"
        self.containerd, self.ctr_command = (f"{tools}/{name}" if tools else name for name in ("containerd", "ctr"))
        self.process: subprocess.Popen[bytes] | None = None
        (place / "config.toml").write_text(
            f'version = 2\nroot = "{place}/root"\nstate = "{place}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self.socket}"\n[debug]\nlevel = "trace"\n'
        )

    def start(self) -> None:
        environment = {**os.environ, "PATH": f"{self.path}:{os.environ['PATH']}"}
        with open(self.place / "log", "ab") as log:
            argv = [self.containerd, "--config", f"{self.place}/config.toml"]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)
        wait_until(lambda: self.ctr("version", check=False).returncode == 0, "containerd", 30)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
            self.process = None

    def ctr(self, *words: str, check: bool = True, timeout: float = 60, **more: object) -> subprocess.CompletedProcess[str]:
        given: dict = {"stdin": subprocess.DEVNULL, **more}
        done = subprocess.run([self.ctr_command, "-a", self.socket, *words], capture_output=True, text=True, timeout=timeout, errors="replace", **given)
        assert not check or done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()[-3000:]}"
        return done

    def run(self, name: str, *words: str, runtime: str = RUNTIME, options: tuple[str, ...] = (), **more: object) -> subprocess.CompletedProcess[str]:
        return self.ctr("run", "--rm", *options, "--runtime", runtime, "--rootfs", str(self.rootfs), name, *words, check=False, **more)

    def detached(self, name: str, *words: str, runtime: str = RUNTIME, options: tuple[str, ...] = ()) -> None:
        """Its fifos stay without a reader: ctr has gone."""
        argv = [self.ctr_command, "-a", self.socket, "run", "--detach", *options, "--runtime", runtime, "--rootfs", str(self.rootfs), name, *words]
        with open(self.place / f"{name}.out", "wb") as out:
            assert subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60).returncode == 0, (self.place / f"{name}.out").read_text()

    def tasks(self) -> dict[str, str]:
        """Names and states."""
        return {name: state for name, _, state in (line.split() for line in self.ctr("task", "ls").stdout.splitlines()[1:])}

    def pid(self, name: str) -> int:
        return next(int(line.split()[1]) for line in self.ctr("task", "ls").stdout.splitlines() if line.split()[0] == name)

    def remove(self, name: str) -> None:
        self.ctr("task", "rm", "--force", name, check=False)
        self.ctr("container", "rm", name, check=False)

    def bundle(self, name: str) -> Path:
        return self.place / "state/io.containerd.runtime.v2.task/default" / name

    def shim(self, name: str) -> int:
        """The server of a container."""
        from wherry_shim import ttrpc

        from .shims import call

        with ttrpc.Client((self.bundle(name) / "address").read_text()) as client:
            return call(client, "Connect", id=name)["shim_pid"]

    def log(self) -> str:
        return (self.place / "log").read_text(errors="replace")

    def events(self, since: int = 0) -> list[str]:
        """Topics of what shims have forwarded, in order; needs the daemon's most talkative log."""
        return re.findall(r'msg="event forwarded" ns=default topic=(\S+)', self.log()[since:])

    def left(self) -> list[str]:
        """Processes of shims and monitors that name this containerd."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.place) in words and alive(int(pid)) and not (self.process and int(pid) == self.process.pid):
                found.append(f"{pid} {words}")
        return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {seconds} s"
        time.sleep(0.05)


def nothing_left(daemon: Daemon, name: str) -> None:
    wait_until(lambda: not [line for line in daemon.left() if re.search(rf"\b{name}\b", line)], f"processes of {name} end")
    wait_until(lambda: not daemon.bundle(name).exists(), "its bundle is taken away")
    assert not Path(f"/run/containerd/wherry/default/{name}").exists()
    assert not cgroups_with(name)
    assert name not in Path("/proc/self/mounts").read_text()
