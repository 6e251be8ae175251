# SPDX-License-Identifier: Apache-2.0
"""Logs, Attach and Exec: every byte, once, at its offset; over the server's death as well."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .asks import Conversation, attach, events, execute, get, refused, resume, types, wait
from .driver import PATIENCE, Server

pytestmark = pytest.mark.requires("root")
Code = grpc.StatusCode


def logs(server: Server, **request: object) -> list[pb.Output]:
    return list(server.shim.Logs(pb.LogsRequest(id="a", **request), timeout=PATIENCE))  # type: ignore[arg-type]


def text(parts: list[pb.Output], channel: int = pb.STDOUT) -> str:
    return b"".join(part.data for part in parts if part.channel == channel).decode()


def test_logs(server: Server, bundle: Bundle) -> None:
    server.run(bundle.shell("for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; printf end"))
    wait(server)
    parts = logs(server)
    assert [(part.channel, part.offset, part.data) for part in parts[:2]] == [(pb.STDOUT, 0, b""), (pb.STDERR, 0, b"")]
    assert text(parts) == "out 1\nout 2\nout 3\nout 4\nout 5\nend" and text(parts, pb.STDERR).count("\n") == 5
    assert text(logs(server, tail=2)) == "out 5\nend"
    assert text(logs(server, tail=1), pb.STDERR) == "err 5\n"
    assert text(logs(server, tail=0)) == ""
    assert text(logs(server, tail=1000)) == text(parts)
    assert text(logs(server, stdout_offset=24)) == "out 5\nend"
    assert text(logs(server, no_stderr=True), pb.STDERR) == ""
    assert text(logs(server, no_stdout=True)) == ""
    assert text(logs(server, stdout_offset=1 << 40)) == ""


def test_logs_follow_to_the_last_byte(server: Server, bundle: Bundle) -> None:
    """Several at once; with a restart in between, whose output comes behind."""
    policy = pb.RestartPolicy(when=pb.RestartPolicy.ALWAYS, limit=1)
    policy.backoff.FromMilliseconds(50)
    server.create(bundle.shell("i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; done; sleep 0.3; printf last"), restart=policy)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(text(logs(server, follow=True)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    server.shim.Start(pb.StartRequest(id="a"))
    for thread in threads:
        thread.join(PATIENCE)
    once = "".join(f"line {number}\n" for number in range(1, 201)) + "last"
    assert found == [once * 2] * 4


def test_a_bound_for_logs(server: Server, bundle: Bundle) -> None:
    """The oldest goes, offsets stay, and who reads from the start is told where it begins."""
    bound = 256 << 10
    server.run(bundle.shell("i=0; while [ $i -lt 40 ]; do i=$((i+1)); dd if=/dev/zero bs=64k count=1 2>/dev/null | tr '\\0' x; echo $i; done; sleep 1000"), log=pb.LogLimit(bytes=bound))
    path = server.data / "containers/a/stdout"
    whole = 40 * 65536 + sum(len(str(number)) + 1 for number in range(1, 41))
    server.until(lambda: path.stat().st_size == whole and path.stat().st_blocks * 512 < 2 * bound)
    parts = logs(server)
    first = parts[0].offset
    assert first > 0 and first % 4096 == 0
    data = b"".join(part.data for part in parts if part.channel == pb.STDOUT)
    assert first + len(data) == whole and data.endswith(b"x40\n") and b"\0" not in data
    late = logs(server, stdout_offset=5)
    assert late[0].offset == 5 and late[2].offset == first
    server.restart()
    assert logs(server)[0].offset == first


def test_attach(server: Server, bundle: Bundle) -> None:
    server.create(bundle.shell("while read line; do echo got $line; echo err >&2; done; exit 5"), stdin=True)
    here = attach(server)
    there = attach(server)
    server.shim.Start(pb.StartRequest(id="a"))
    here.say(stdin=b"one\n").read(b"got one\n")
    assert there.read(b"got one\n") == b"got one\n"
    assert here.stdin_offset == 4
    here.say(stdin=b"two\n").read(b"got two\n")
    here.say(close_stdin=True)
    assert here.end().status == there.end().status == 5
    assert here.data == there.data == {pb.STDOUT: b"got one\ngot two\n", pb.STDERR: b"err\nerr\n"}
    late = attach(server, stdout_offset=8, stderr_offset=0)
    assert late.end().status == 5 and late.data == {pb.STDOUT: b"got two\n", pb.STDERR: b"err\nerr\n"}


def test_attach_signals(server: Server, bundle: Bundle) -> None:
    server.run(bundle.shell("trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 0.05; done"))
    here = attach(server, stdout_offset=0)
    here.read(b"ready\n")
    assert here.say(signal=10).end().status == 9
    assert here.data[pb.STDOUT] == b"ready\nusr1\n"
    assert refused(server.shim.Attach, iter([pb.AttachRequest(stdin=b"x")])).code == Code.INVALID_ARGUMENT
    assert refused(server.shim.Attach, iter([pb.AttachRequest(open=pb.AttachRequest.Open(id="b"))])).code == Code.NOT_FOUND


def test_stdin_that_cannot_be_counted(server: Server, bundle: Bundle) -> None:
    """What is wrong with the file beside it is said, not kept: who attaches would write into nothing."""
    server.run(bundle.shell("read a; sleep 1000"), stdin=True)
    (server.data / "containers/a/stdin.count").mkdir()
    here = attach(server)
    with pytest.raises(grpc.RpcError, match=r"FAILED_PRECONDITION[^$]*stdin.count"):
        here.end()


def test_a_terminal(server: Server, bundle: Bundle) -> None:
    """Its output is one stream in a file; its size follows; its last words are there at its end."""
    bundle.process["terminal"] = True
    server.create(bundle.shell("tty; read a; stty size; read b; echo $b; exit 3"))
    here = attach(server)
    server.shim.Start(pb.StartRequest(id="a"))
    here.read(b"/dev/")
    here.say(resize=pb.Size(width=91, height=33)).say(stdin=b"\n").read(b"33 91")
    here.say(stdin=b"words\n")
    assert here.end().status == 3
    assert here.data[pb.STDOUT].endswith(b"words\r\nwords\r\n")
    assert get(server).terminal
    assert text(logs(server)).encode() == here.data[pb.STDOUT]


def test_exec(server: Server, bundle: Bundle) -> None:
    bundle.process["env"].append("BASE=1")
    server.run(bundle)
    done = execute(server, "sh", "-c", "cat; echo $BASE $MORE $PWD; id -u; echo err >&2; exit 6", exec_id="e", env=["MORE=2"], cwd="/tmp", user="1000", stdin=True)
    done.say(stdin=b"in\n").say(close_stdin=True)
    exit = done.end()
    assert (exit.status, exit.reason) == (6, "exited")
    assert done.data == {pb.STDOUT: b"in\n1 2 /tmp\n1000\n", pb.STDERR: b"err\n"}
    server.until(lambda: not get(server).execs)
    assert types(server) == ["created", "started", "exec-added", "exec-started", "exec-exit"]
    assert execute(server, "sh", "-c", "kill -9 $$").end().signal == 9
    whole = Conversation(server.shim.Exec, pb.ExecRequest(start=pb.ExecRequest.Start(id="a", process=b'{"args": ["/bin/echo", "hi"], "cwd": "/"}')))
    assert whole.end().status == 0 and whole.data[pb.STDOUT] == b"hi\n"


def test_an_exec_with_a_terminal(server: Server, bundle: Bundle) -> None:
    server.run(bundle)
    here = execute(server, "sh", "-c", "stty size; read a; stty size; i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo $i; done", terminal=True, size=pb.Size(width=50, height=20))
    here.read(b"20 50")
    here.say(resize=pb.Size(width=60, height=21)).say(stdin=b"\n")
    assert here.end().status == 0
    assert b"21 60" in here.data[pb.STDOUT] and here.data[pb.STDOUT].endswith(b"499\r\n500\r\n")


def test_execs_that_are_refused(server: Server, bundle: Bundle) -> None:
    server.create(bundle)
    starts = pb.ExecRequest.Start
    for start, code in (
        (starts(id="nobody", args=["true"]), Code.NOT_FOUND),
        (starts(id="a", args=["true"]), Code.FAILED_PRECONDITION),
        (starts(id="a"), Code.INVALID_ARGUMENT),
        (starts(id="a", args=["true"], user="root"), Code.INVALID_ARGUMENT),
    ):
        assert refused(server.shim.Exec, iter([pb.ExecRequest(start=start)])).code == code
    server.shim.Start(pb.StartRequest(id="a"))
    for start in (starts(id="a", args=["/nowhere"]), starts(id="a", args=["true"], exec_id="a/b"), starts(id="a", process=b"[]"), starts(id="a", args=["true"], cwd="/nowhere")):
        assert refused(server.shim.Exec, iter([pb.ExecRequest(start=start)])).code not in (Code.INTERNAL, Code.OK)
    execute(server, "sleep", "1000", exec_id="e", detach=True).read()
    assert refused(server.shim.Exec, iter([pb.ExecRequest(start=starts(id="a", args=["true"], exec_id="e"))])).code == Code.ALREADY_EXISTS
    assert refused(server.shim.Exec, iter([pb.ExecRequest(resume=pb.ExecRequest.Resume(id="a", exec_id="f"))])).code == Code.NOT_FOUND
    assert [path.name for path in (server.data / "containers/a/execs").iterdir()] == ["e"]
    assert types(server)[-2:] == ["exec-added", "exec-started"]


def test_detached_resumed_deleted(server: Server, bundle: Bundle) -> None:
    server.run(bundle)
    assert execute(server, "sh", "-c", "echo hello; exit 4", exec_id="e", detach=True).read() == b""
    answer = server.shim.Wait(pb.WaitRequest(id="a", exec_id="e"), timeout=PATIENCE)
    assert answer.exit.status == 4 and answer.container.execs[0].exit.status == 4
    again = resume(server, "e")
    assert again.end().status == 4 and again.data[pb.STDOUT] == b"hello\n"
    server.until(lambda: not get(server).execs)
    execute(server, "sleep", "1000", exec_id="f", detach=True).read()
    assert server.shim.DeleteExec(pb.DeleteExecRequest(id="a", exec_id="f")).exit.signal == 9
    assert not get(server).execs and not list((server.data / "containers/a/execs").iterdir())


def test_a_timeout_ends_all_of_an_exec(server: Server, bundle: Bundle) -> None:
    server.run(bundle)
    here = execute(server, "sh", "-c", "sleep 999 & setsid sleep 998 & echo begun; wait")
    here.call.cancel()
    words = ["sh", "-c", "if [ -e /tmp/hang ]; then sleep 997 & (setsid sleep 996 &); fi; echo begun; wait"]
    assert execute(server, *words).end().status == 0, "whose plan is kept, and is not that of one with a timeout"
    (bundle.rootfs / "tmp/hang").write_text("")
    timeout = pb.ExecRequest.Start(id="a", args=words)
    timeout.timeout.FromMilliseconds(400)
    late = Conversation(server.shim.Exec, pb.ExecRequest(start=timeout))
    exit = late.end()
    assert exit.signal == 9 and late.data[pb.STDOUT] == b"begun\n"
    left = server.shim.Processes(pb.ProcessesRequest(id="a")).processes
    words = [Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in left]
    assert not [line for line in words if b"99" in line and (b"997" in line or b"996" in line)]


def test_attach_follows(server: Server, bundle: Bundle) -> None:
    """Into the runs that follow, where that is asked for: their output, stdin and its end, to the last exit. Else to the end of the run that it began with."""
    policy = pb.RestartPolicy(when=pb.RestartPolicy.ALWAYS, limit=2)
    policy.backoff.FromMilliseconds(200)
    server.create(bundle.shell("read word; echo got $word; cat >/dev/null; exit 5"), restart=policy, stdin=True)
    here, short = attach(server, follow=True), attach(server)
    server.shim.Start(pb.StartRequest(id="a"))
    here.say(stdin=b"one\n").read(b"got one\n")
    here.say(close_stdin=True)
    assert short.end().run == 1 and short.data[pb.STDOUT] == b"got one\n"
    here.say(stdin=b"two\n").read(b"got two\n")
    server.restart()
    again = attach(server, follow=True, stdout_offset=16)
    assert again.started.run == 2
    first = attach(server, run=1, stdout_offset=0)
    assert (first.end().run, first.data[pb.STDOUT]) == (1, b"got one\n"), "of a run that is over, also with another server"
    again.say(close_stdin=True).say(stdin=b"three\n").read(b"got three\n")
    again.say(close_stdin=True)
    assert (again.end().run, again.runs) == (3, [3])
    assert get(server).status == pb.STOPPED and [one.run for one in get(server).exits] == [3, 2, 1]


def test_what_outlives_a_client_and_a_server(server: Server, bundle: Bundle) -> None:
    """Output, end and stdin of an exec and of the container itself, without a server for a while."""
    server.run(bundle.shell("read a; echo $a; sleep 1; echo later; exit 2"), stdin=True)  # behind the exec, which would end with it
    first = attach(server)
    first.say(stdin=b"before\n").read(b"before\n")
    here = execute(server, "sh", "-c", "echo one; sleep 0.4; echo two; exit 7", exec_id="e")
    here.read(b"one\n")
    server.kill()
    time.sleep(1.6)
    server.start()
    again = resume(server, "e", stdout_offset=4)
    assert again.end().status == 7 and again.data[pb.STDOUT] == b"two\n"
    assert again.exit is not None and again.exit.exited_at.ToNanoseconds() < time.time_ns() - 400_000_000
    behind = attach(server, stdout_offset=7)
    assert behind.started.stdin_offset == 7
    assert behind.end().status == 2 and behind.data[pb.STDOUT] == b"later\n"
    kinds = types(server)
    assert kinds == ["created", "started", "exec-added", "exec-started", "exec-exit", "exit", "stopped"]


def test_many_execs_at_once(server: Server, bundle: Bundle) -> None:
    server.run(bundle)
    found: dict[int, tuple[bytes, int]] = {}

    def one(number: int) -> None:
        here = execute(server, "sh", "-c", f"seq 1 {number * 100}; exit {number}")
        status = here.end().status
        found[number] = (here.data[pb.STDOUT], status)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == {number: ("".join(f"{line}\n" for line in range(1, number * 100 + 1)).encode(), number) for number in range(1, 13)}
    assert [event.type for event in events(server)].count("exec-exit") == 12


def test_a_program_that_does_not_read(server: Server, bundle: Bundle) -> None:
    """More than a fifo holds waits in the client; nobody else is held up by it."""
    server.run(bundle.shell("sleep 0.5; cat | wc -c"), stdin=True)
    here = attach(server)
    for _ in range(40):
        here.say(stdin=b"x" * 30000)
    assert get(server).status == pb.RUNNING
    here.say(close_stdin=True)
    assert here.end().status == 0 and here.data[pb.STDOUT] == b"1200000\n"
    assert here.stdin_offset == 1200000


def test_descriptors_come_back(server: Server, bundle: Bundle, make_bundle: Callable[[], Bundle]) -> None:
    def count() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    server.run(bundle)
    execute(server, "true").end()
    before = count()
    for _ in range(10):
        execute(server, "sh", "-c", "echo x", stdin=True).end()
        cut = execute(server, "sleep", "1000", stdin=True)
        cut.call.cancel()
        server.shim.DeleteExec(pb.DeleteExecRequest(id="a", exec_id=cut.started.exec_id))
        follow = server.shim.Logs(pb.LogsRequest(id="a", follow=True))
        next(follow)
        follow.cancel()
    server.until(lambda: count() <= before + 3)  # the plans of two more kinds of exec are kept
