# SPDX-License-Identifier: Apache-2.0
"""A shim as containerd starts it: the installed command, in a bundle, and calls to the server that it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from wherry_shim import containerd, ttrpc, wire
from wherry_shim.loop import Loop

BINARY = Path(sys.executable).parent / "containerd-shim-wherry-v2"
NAMESPACE = "wherry-tests"


class Shim:
    """One bundle, and how its shim is called. address: containerd's, which decides where the socket is."""

    def __init__(self, place: Path, id: str, address: str, ttrpc_address: str = "", annotations: dict[str, str] | None = None) -> None:
        self.id, self.address, self.ttrpc_address = id, address, ttrpc_address
        self.bundle = place / id
        (self.bundle / "rootfs").mkdir(parents=True)
        (self.bundle / "config.json").write_text(json.dumps({"annotations": annotations or {}}))
        self.socket = ""
        self.binary: Path | None = None  # another shim than ours

    def command(self, *words: str, input: bytes = b"", check: bool = True, **environment: str) -> subprocess.CompletedProcess[bytes]:
        argv = [self.binary or BINARY, "-namespace", NAMESPACE, "-address", self.address, "-publish-binary", "", "-id", self.id, *words]
        env = {"PATH": os.environ["PATH"], "TTRPC_ADDRESS": self.ttrpc_address, "WHERRY_ZYGOTE": os.environ.get("WHERRY_ZYGOTE", "on"), **environment}
        env |= {"WHERRY_SHIM_PARK": os.environ["WHERRY_SHIM_PARK"]} if "WHERRY_SHIM_PARK" in os.environ and "WHERRY_SHIM_PARK" not in environment else {}
        done = subprocess.run(argv, input=input, capture_output=True, timeout=60, cwd=self.bundle, env=env)
        assert not check or (done.returncode, done.stderr) == (0, b""), done
        return done

    def start(self, **more: object) -> str:
        self.socket = self.command("start", **more).stdout.decode()
        return self.socket

    def client(self) -> ttrpc.Client:
        return ttrpc.Client(self.socket)

    def call(self, method: str, version: int = 2, **request: object) -> dict:
        with self.client() as client:
            return call(client, method, version, **{"id": self.id, **request})

    @property
    def pid(self) -> int:
        return self.call("Connect")["shim_pid"]

    def end(self) -> None:
        """Whatever state it is in."""
        try:
            pid = self.pid
        except OSError:
            return
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        Path(self.socket.removeprefix("unix://")).unlink(missing_ok=True)


def call(client: ttrpc.Client, method: str, version: int = 2, **request: object) -> dict:
    given, got = containerd.METHODS[method]
    return wire.decode(got, client.call(f"containerd.task.v{version}.Task", method, wire.encode(given, request), 30))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for_end(pid: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while alive(pid):
        assert time.monotonic() < deadline, f"{pid} still lives"
        time.sleep(0.02)


def run_until(loop: Loop, condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        loop.step(0.05)
