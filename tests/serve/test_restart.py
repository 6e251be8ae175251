# SPDX-License-Identifier: Apache-2.0
"""Restart policies and probes: as they decide, over the server's death and a reboot as well."""

import json
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from harness.bundle import Bundle
from harness.census import reap_zombies
from wherry_shim.clean import end_monitor
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .asks import events, get, refused, types, wait
from .driver import Server

pytestmark = pytest.mark.requires("root")
Code = grpc.StatusCode
ALWAYS, ON_FAILURE = pb.RestartPolicy.ALWAYS, pb.RestartPolicy.ON_FAILURE


def policy(when: Any, backoff: float = 0.05, **more: Any) -> pb.RestartPolicy:
    found = pb.RestartPolicy(when=when, **more)
    found.backoff.FromMilliseconds(int(backoff * 1000))
    return found


def probe(script: str, interval: float = 0.1, timeout: float = 2.0, **more: Any) -> pb.Probe:
    found = pb.Probe(args=["sh", "-c", script], **more)
    found.interval.FromMilliseconds(int(interval * 1000))
    found.timeout.FromMilliseconds(int(timeout * 1000))
    return found


def test_a_failure_is_tried_again(server: Server, bundle: Bundle) -> None:
    """To the limit, with a delay that doubles; each run has its number, its end and its events."""
    server.run(bundle.shell("echo run; exit 9"), restart=policy(ON_FAILURE, limit=3))
    stopped = wait(server, condition=pb.WaitRequest.STOPPED)
    assert (stopped.exit.run, stopped.exit.status, stopped.container.restarts, stopped.container.run) == (4, 9, 3, 4)
    assert server.output() == "run\n" * 4
    found = events(server, ids=["a"])
    one = ["exit", "restarting", "started"]
    assert [event.type for event in found] == ["created", "started", *one * 3, "exit", "stopped"]
    assert [event.run for event in found if event.type == "exit"] == [1, 2, 3, 4]
    delays = [event.restart_at.ToNanoseconds() - event.exit.exited_at.ToNanoseconds() for event in found if event.type == "restarting"]
    assert [round(delay / 1e6) for delay in delays] == [50, 100, 200]
    for event, begun in zip([one for one in found if one.type == "restarting"], [one for one in found if one.type == "started"][1:], strict=True):
        assert begun.time.ToNanoseconds() >= event.restart_at.ToNanoseconds() - 2_000_000
    assert [wait(server, run=number).exit.run for number in (1, 2, 3, 4)] == [1, 2, 3, 4]


def test_success_is_the_end_of_on_failure(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    server.run(make_bundle().shell("exit 0"), restart=policy(ON_FAILURE))
    assert wait(server, condition=pb.WaitRequest.STOPPED).container.run == 1
    server.run(make_bundle().shell("exit 0"), "b", restart=policy(ALWAYS, limit=1))
    assert wait(server, "b", pb.WaitRequest.STOPPED).container.run == 2


def test_stop_is_stop(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """What is running, what waits for its restart; and Start begins again."""
    server.run(make_bundle(), restart=policy(ALWAYS))
    server.shim.Kill(pb.KillRequest(id="a"))
    server.until(lambda: get(server).run == 2 and get(server).status == pb.RUNNING)
    request = pb.StopRequest(id="a", signal=9)
    stopped = server.shim.Stop(request)
    assert (stopped.status, stopped.exit.reason) == (pb.STOPPED, "stopped")
    server.run(make_bundle().shell("exit 1"), "b", restart=policy(ALWAYS, backoff=100))
    server.until(lambda: get(server, "b").status == pb.WAITING)
    assert get(server, "b").restart_at.seconds > time.time() + 60
    assert server.shim.Stop(pb.StopRequest(id="b")).status == pb.STOPPED
    server.restart()
    assert get(server, "a").status == get(server, "b").status == pb.STOPPED
    assert server.shim.Start(pb.StartRequest(id="a"), wait_for_ready=True).run == 3


def test_policies_outlive_the_server(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """One that ends without a server, one whose restart was due meanwhile, one whose restart is still to come."""
    server.run(make_bundle().shell("sleep 0.4; exit 1"), restart=policy(ON_FAILURE, limit=1))
    server.run(make_bundle().shell("exit 1"), "due", restart=policy(ALWAYS, backoff=1.5, limit=1))
    server.run(make_bundle().shell("exit 1"), "late", restart=policy(ALWAYS, backoff=100, limit=1))
    for id in ("due", "late"):
        server.until(lambda id=id: get(server, id).status == pb.WAITING)
    at = get(server, "late").restart_at
    server.kill()
    time.sleep(1.5)
    server.start()
    for id in ("a", "due"):
        assert wait(server, id, pb.WaitRequest.STOPPED).exit.run == 2
        assert types(server, id) == ["created", "started", "exit", "restarting", "started", "exit", "stopped"]
    assert (get(server, "late").status, get(server, "late").restart_at) == (pb.WAITING, at)
    assert server.shim.Start(pb.StartRequest(id="late")).run == 2


def test_after_a_reboot(server: Server, make_bundle: Callable[[], Bundle]) -> None:
    """What ran is lost; policies decide. As it looks then: nothing runs, the state below /run is gone, the boot is another."""
    bundles = [make_bundle() for _ in "abc"]
    server.run(bundles[0], restart=policy(ALWAYS))
    server.run(bundles[1], "b")
    server.create(bundles[2], "c")
    pids = [get(server, id).pid for id in "abc"]
    newest = events(server)[-1].cursor
    server.kill()
    for id, bundle in zip("abc", bundles, strict=True):
        end_monitor(str(bundle.path), id)
    for pid in pids:
        os.kill(pid, 9)
    server.until(lambda: reap_zombies() or not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    shutil.rmtree(server.root / "default")
    for bundle in bundles:
        (bundle.path / "options.json").unlink()
        for cgroup in sorted(bundle.cgroups(), reverse=True):
            os.rmdir(cgroup)
    for path in (server.data / "containers").glob("*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    for path in (server.data / "events").iterdir():
        head, _, rest = path.read_bytes().partition(b"\n")
        path.write_bytes(json.dumps({**json.loads(head), "boot": "another"}).encode() + b"\n" + rest)
    server.start()
    server.until(lambda: get(server).status == pb.RUNNING and get(server).run == 2)
    assert (get(server, "b").status, get(server, "b").exit.reason, get(server, "b").exit.status) == (pb.STOPPED, "lost", 255)
    assert get(server, "c").exit.reason == "lost"
    after = events(server, cursor=newest)
    assert sorted(event.type for event in after if event.id == "a") == ["exit", "restarting", "started"]
    assert int(after[0].cursor.split("-")[1]) > int(newest.split("-")[1]) + 1000, "numbers that a power cut may have taken are not given again"


def test_health(server: Server, bundle: Bundle) -> None:
    server.run(bundle.shell("echo ok >/tmp/health; sleep 1000"), probe=probe("grep -q ok /tmp/health", retries=2))
    assert get(server).health in (pb.STARTING, pb.HEALTHY)
    assert wait(server, condition=pb.WaitRequest.HEALTHY).container.health == pb.HEALTHY
    (bundle.rootfs / "tmp/health").write_text("bad\n")
    server.until(lambda: get(server).health == pb.UNHEALTHY)
    server.restart()
    assert get(server).health == pb.UNHEALTHY and get(server).status == pb.RUNNING
    (bundle.rootfs / "tmp/health").write_text("ok\n")
    wait(server, condition=pb.WaitRequest.HEALTHY)
    found = [event for event in events(server) if event.type == "health"]
    assert [event.health for event in found] == [pb.HEALTHY, pb.UNHEALTHY, pb.HEALTHY]
    assert not get(server).execs and "exec-added" not in types(server), "probes are nobody's execs"
    updated = server.shim.Update(pb.UpdateRequest(id="a", probe=pb.Probe()))
    assert updated.health == pb.HEALTH_UNSPECIFIED and not updated.HasField("probe")
    assert refused(server.shim.Wait, pb.WaitRequest(id="a", condition=pb.WaitRequest.HEALTHY)).code == Code.FAILED_PRECONDITION


def test_what_is_unhealthy_is_begun_again(server: Server, bundle: Bundle) -> None:
    bundle.shell("sleep 1000")
    server.run(bundle, restart=policy(ON_FAILURE, limit=1), probe=probe("exit 1", retries=2, restart=True))
    stopped = wait(server, condition=pb.WaitRequest.STOPPED)
    assert (stopped.exit.run, stopped.exit.reason, stopped.exit.signal) == (2, "unhealthy", 9)
    one = ["started", "health", "exit"]
    assert types(server) == ["created", *one, "restarting", *one, "stopped"]


def test_probes_that_hang(server: Server, bundle: Bundle) -> None:
    """Killed with what they have started, one at a time; failures in the start period do not count."""
    check = probe("sleep 991 & (setsid sleep 993 &); (setsid sh -c 'sleep 994 & wait' &); sleep 992", interval=0.05, timeout=0.2, retries=2)
    check.start_period.FromMilliseconds(900)
    begun = time.monotonic()
    server.run(bundle, probe=check)
    server.until(lambda: len(server.shim.Processes(pb.ProcessesRequest(id="a")).processes) > 1)
    for _ in range(5):
        assert len(server.shim.Processes(pb.ProcessesRequest(id="a")).processes) <= 8
        time.sleep(0.05)
    server.until(lambda: get(server).health == pb.UNHEALTHY)
    assert time.monotonic() - begun > 1.0
    server.shim.Update(pb.UpdateRequest(id="a", probe=pb.Probe()))
    server.until(lambda: len(server.shim.Processes(pb.ProcessesRequest(id="a")).processes) == 1)
    last = get(server).last_probe
    assert "took longer than 0.2 s" in last.error and last.took.ToMilliseconds() >= 200 and not last.status
