# SPDX-License-Identifier: Apache-2.0
"""The units that --print-units prints, on a host where systemd runs: activated by its socket, restarted, watched, reloaded; the container stays all the while."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import wait_until
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .driver import PROGRAM, Server

pytestmark = [pytest.mark.requires("root", "systemd"), pytest.mark.v2, pytest.mark.ours]
UNITS = Path("/run/systemd/system")
LATER = 60.0


def systemctl(*words: str, check: bool = True) -> str:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=check, timeout=LATER).stdout


class Unit(Server):
    """As installed, under a name of the test's own and with its places; a watchdog that does not wait for half a minute."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.name = f"wherry-test-{place.name}"
        text = subprocess.run([PROGRAM, "serve", "--print-units"], capture_output=True, text=True, check=True, timeout=LATER).stdout
        for old, new in (
            ("wherry-shim.so", f"{self.name}.so"),
            (f"{PROGRAM} serve", f"{PROGRAM} serve --root {self.root} --data {self.data}"),
            ("/run/wherry-shim/shim.sock", str(self.path)),
            ("WatchdogSec=30s", "WatchdogSec=5s"),
            ("RuntimeDirectory=wherry-shim\n", ""),
            ("StateDirectory=wherry-shim\n", ""),
        ):
            assert old in text, old
            text = text.replace(old, new)
        _, service, socket = text.split("# /etc/systemd/system/")
        for kind, unit in (("service", service), ("socket", socket)):
            (UNITS / f"{self.name}.{kind}").write_text(unit.partition("\n")[2])
        systemctl("daemon-reload")

    def show(self, name: str) -> str:
        return systemctl("show", f"{self.name}.service", "-p", name, "--value").strip()

    def version(self) -> pb.VersionResponse:
        return self.shim.Version(pb.VersionRequest(), timeout=LATER, wait_for_ready=True)

    def restarted(self, times: int) -> bool:
        return self.show("NRestarts") == str(times) and self.show("ActiveState") == "active"

    @property
    def log(self) -> str:
        return subprocess.run(["journalctl", "-q", "-o", "cat", "-u", self.name], capture_output=True, text=True).stdout

    def remove(self) -> None:
        for channel in self._channels:
            channel.close()
        systemctl("stop", f"{self.name}.socket", f"{self.name}.service", check=False)
        for kind in ("service", "socket"):
            (UNITS / f"{self.name}.{kind}").unlink(missing_ok=True)
        systemctl("daemon-reload")
        systemctl("reset-failed", f"{self.name}.service", check=False)


@pytest.fixture
def unit(place: Path) -> Iterator[Unit]:
    made = Unit(place)
    yield made
    made.remove()


def test_the_units(unit: Unit, bundle: Bundle) -> None:
    systemctl("start", f"{unit.name}.socket")
    assert unit.show("ActiveState") == "inactive" and unit.path.stat().st_mode & 0o777 == 0o600
    first = unit.version()  # which activates it
    assert unit.show("MainPID") == str(first.server_pid) and unit.show("ActiveState") == "active"
    container = unit.run(bundle)
    os.kill(first.server_pid, signal.SIGKILL)
    wait_until(lambda: unit.restarted(1), "a restart", LATER)
    second = unit.version()
    assert second.server_pid != first.server_pid
    os.kill(second.server_pid, signal.SIGSTOP)  # it does not answer any more: the watchdog's case
    wait_until(lambda: unit.restarted(2), "the watchdog", LATER)
    third = unit.version()
    systemctl("reload", f"{unit.name}.service")
    wait_until(lambda: unit.version().started_at.ToNanoseconds() > third.started_at.ToNanoseconds(), "the reload", LATER)
    assert unit.version().server_pid == third.server_pid and unit.restarted(2)
    systemctl("stop", f"{unit.name}.service")
    assert Path(f"/proc/{container.pid}").exists()
    assert unit.shim.Get(pb.GetRequest(id="a"), timeout=LATER, wait_for_ready=True).pid == container.pid  # the socket is still there
    unit.shim.Delete(pb.DeleteRequest(id="a", force=True), timeout=LATER)
