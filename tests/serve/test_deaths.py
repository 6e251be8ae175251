# SPDX-License-Identifier: Apache-2.0
"""Who is killed, and what users see then: the rows of docs/deaths.md that no other test shows; and that its tests are there."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from wherry_shim.client import Client, Exec, Refused, RestartPolicy, Status, When

from .deaths import monitor_of
from .driver import Server
from .people import Ctl

ROOT = Path(__file__).parents[2]
TICK = "trap 'exit 8' TERM; while :; do echo tick; sleep 0.05; done"

pytestmark = pytest.mark.requires("root")


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as one:
        yield one


def grows(client: Client, id: str) -> bool:
    """It lives, and what it writes is kept."""
    before = len(b"".join(one.data for one in client.logs(id)))
    time.sleep(0.3)
    return len(b"".join(one.data for one in client.logs(id))) > before


def test_the_table_names_tests_that_exist() -> None:
    page = (ROOT / "docs/deaths.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| who", "|---"))]
    assert len(rows) >= 14
    for row in rows:
        names = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert names, f"no test is named: {row}"
        for file, name in names:
            found = [path for place in ("serve", "shim") for path in (ROOT / "tests" / place).glob(file)]
            assert found and f"\ndef {name}(" in found[0].read_text(), f"{file}::{name} is not there"


def test_the_set_ups_name_tests_that_exist() -> None:
    names = re.findall(r"`(?:tests/(\w+)/)?(test_\w+\.py)`", (ROOT / "docs/set-up.md").read_text())
    place = ""
    for directory, file in names:
        place = directory or place
        assert (ROOT / "tests" / place / file).exists(), f"tests/{place}/{file} is not there"
    assert len(names) >= 12


# ---- a monitor


def test_a_monitor(server: Server, client: Client, bundle: Bundle) -> None:
    """What ran runs on, is written down and ends with its status; an exec is refused, until the container is started anew."""
    bundle.shell(TICK).save()
    client.create("a", bundle=str(bundle.path), restart=RestartPolicy(When.ALWAYS), start=True)
    running = client.exec("a", Exec(["sh", "-c", "sleep 1; echo done; exit 4"]))
    os.kill(monitor_of(server, "a"), signal.SIGKILL)
    assert running.communicate().exit.status == 4
    assert client.get("a").status is Status.RUNNING and grows(client, "a")
    with pytest.raises(Refused, match="monitor"):
        client.exec("a", ["true"])
    client.kill("a", signal.SIGTERM)
    assert client.wait("a", run=1, timeout=20).status == 8
    server.until(lambda: client.get("a").run == 2 and client.get("a").status is Status.RUNNING)
    assert client.exec("a", ["true"]).wait().status == 0


def test_a_monitor_after_the_server(server: Server, client: Client, bundle: Bundle) -> None:
    """The server that is there did not start it: who reaps the container then is not ours, so how it ends is lost. That it ends is seen."""
    bundle.shell(TICK).save()
    client.create("a", bundle=str(bundle.path), start=True)
    server.restart()
    os.kill(monitor_of(server, "a"), signal.SIGKILL)
    assert client.get("a").status is Status.RUNNING and grows(client, "a")
    client.kill("a", signal.SIGTERM)
    ended = client.wait("a", timeout=20)
    assert ended.reason == "lost" or ended.status == 8


def test_monitor_and_server(server: Server, client: Client, bundle: Bundle) -> None:
    bundle.shell(TICK).save()
    client.create("a", bundle=str(bundle.path), start=True)
    monitor = monitor_of(server, "a")
    server.kill()
    os.kill(monitor, signal.SIGKILL)
    server.start()
    assert client.get("a").status is Status.RUNNING and grows(client, "a")
    client.stop("a", grace=5)
    assert client.get("a").exit is not None
    client.delete("a")


def test_everybody_at_once(server: Server, client: Client, make_bundle: Callable[[], Bundle]) -> None:
    """Nobody was there to see it: it is lost, and its policy decides."""
    for id, policy in (("back", When.ON_FAILURE), ("gone", When.NO)):
        client.create(id, bundle=str(make_bundle().shell(TICK).save().path), restart=RestartPolicy(policy), start=True)
    pids = [monitor_of(server, "back"), monitor_of(server, "gone"), client.get("back").pid, client.get("gone").pid]
    with client.subscribe(ids=["gone"]) as events:
        server.kill()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        server.start()
        gone = client.wait("gone", timeout=20)
        assert gone.reason == "lost" and gone.status != 0
        seen = [next(events), next(events)]
        assert [event.type for event in seen] == ["exit", "stopped"]
    server.until(lambda: client.get("back").run == 2 and client.get("back").status is Status.RUNNING)
    assert client.wait("back", run=1, timeout=5).reason == "lost"


# ---- processes of a container


def test_the_first_process(server: Server, client: Client, bundle: Bundle) -> None:
    bundle.shell(TICK).save()
    made = client.create("a", bundle=str(bundle.path), restart=RestartPolicy(When.ON_FAILURE, limit=1), start=True)
    execution = client.exec("a", ["sleep", "100"])
    os.kill(made.pid, signal.SIGKILL)
    assert execution.wait().status == 137  # it goes with the pid namespace
    ended = client.wait("a", run=1, timeout=20)
    assert (ended.status, ended.signal, ended.reason) == (137, 9, "signal")
    server.until(lambda: client.get("a").run == 2 and client.get("a").status is Status.RUNNING)
    client.kill("a")
    assert client.wait("a", stopped=True, timeout=20).run == 2
    assert client.get("a").status is Status.STOPPED


def test_a_process_of_an_exec(client: Client, bundle: Bundle) -> None:
    bundle.shell(TICK).save()
    client.create("a", bundle=str(bundle.path), start=True)
    with client.exec("a", ["sleep", "100"]) as execution:
        os.kill(execution.pid, signal.SIGKILL)
        assert execution.wait().status == 137
    assert client.get("a").status is Status.RUNNING and client.get("a").execs == ()


# ---- clients


def test_a_client(server: Server, client: Client, make_bundle: Callable[[], Bundle]) -> None:
    """What it was attached to goes on; another client takes it up where the output begins."""
    bundle, other = make_bundle().shell(TICK).save(), make_bundle().shell(TICK).save()
    client.create("a", bundle=str(bundle.path), start=True)
    ctl = Ctl(server)
    clients = [
        ctl.begin("exec", "--exec-id", "e", "a", "sh", "-c", "echo begun; sleep 1; echo ended; exit 6"),
        ctl.begin("run", "--rm", "--name", "b", str(other.path)),
        ctl.begin("logs", "-f", "a"),
        ctl.begin("events"),
    ]
    for one in clients[:3]:
        assert one.stdout is not None and one.stdout.readline() in ("begun\n", "tick\n")
    for one in clients:
        one.kill()
        one.wait()
        assert one.stdout is not None
        one.stdout.close()
    with client.exec_resume("a", "e") as execution:
        assert execution.communicate().stdout == b"begun\nended\n"
    assert execution.exit is not None and execution.exit.status == 6
    assert {one.id: one.status for one in client.list()} == {"a": Status.RUNNING, "b": Status.RUNNING}
    assert grows(client, "b")
    client.kill("b")
    client.wait_removed("b", timeout=30)


# ---- the host


class OnAnotherDay(Server):
    """Sees another boot id from the second start on: `day` is a file that stands in the place of the kernel's."""

    def words(self) -> list[str]:
        day = self.place / "boot_id"
        script = f'[ ! -e {day} ] || mount --bind {day} /proc/sys/kernel/random/boot_id; exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *super().words()]

    def power_fails(self, pids: list[int]) -> None:
        self.kill()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        (self.place / "boot_id").write_text("12345678-0000-4000-8000-000000000000\n")


def test_power_fails(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """What ran is lost, and begins anew where its policy says so; what had ended keeps its status and its output. /run is empty then."""
    server.end()
    server.__class__ = OnAnotherDay
    assert isinstance(server, OnAnotherDay)
    server.start()
    with Client(server.address) as client:
        bundles = [make_bundle() for _ in range(3)]
        client.create("ended", bundle=str(bundles[0].shell("echo kept; exit 3").save().path), start=True)
        client.wait("ended", timeout=20)
        client.create("always", bundle=str(bundles[1].shell(TICK).save().path), restart=RestartPolicy(When.ALWAYS), start=True)
        client.create("once", bundle=str(bundles[2].shell(TICK).save().path), start=True)
        pids = [pid for id in ("always", "once") for pid in (monitor_of(server, id), client.get(id).pid)]
        with client.subscribe(from_oldest=True, follow=False) as events:
            cursor = [event.cursor for event in events][-1]
        server.power_fails(pids)
        for path in (server.root / "default").iterdir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        for bundle in bundles:
            for directory in bundle.cgroups():
                os.rmdir(directory)
        server.start()
        assert client.get("ended").exit is not None and client.wait("ended", timeout=5).status == 3
        assert b"".join(one.data for one in client.logs("ended")) == b"kept\n"
        assert client.wait("once", timeout=20).reason == "lost"
        server.until(lambda: client.get("always").run == 2 and client.get("always").status is Status.RUNNING)
        with client.subscribe(cursor, follow=False) as events:
            seen = [(event.id, event.type) for event in events if event.type != "restarting"]
        assert [type for id, type in seen if id == "once"] == ["exit", "stopped"]
        assert [type for id, type in seen if id == "always"] == ["exit", "started"]
        assert client.start("once").run == 2
