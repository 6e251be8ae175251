# SPDX-License-Identifier: Apache-2.0
"""The client against a server that breaks off wherever the test wants: what it asks again, and from where. Nothing here needs root."""

import asyncio
import inspect
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from wherry_shim.client import (
    AlreadyExists,
    Channel,
    Client,
    CursorTooOld,
    DeadlineExceeded,
    Exec,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Probe,
    Refused,
    RestartPolicy,
    Status,
    Unavailable,
    When,
    address,
    aio,
    blocking,
    calls,
    errors,
)
from wherry_shim.client.session import HELD, Typed
from wherry_shim.client.streams import Place
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .fake import Fake, Listening, refusal

STARTED = pb.ProcessOutput(started=pb.ProcessOutput.Started(pid=7))
EXIT = pb.ProcessOutput(exit=pb.Exit(run=1, status=5, reason="exited"))


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def listening(fake: Fake, tmp_path: Path) -> Iterator[Listening]:
    one = Listening(tmp_path / "s", fake)
    yield one
    one.stop()


@pytest.fixture
def client(listening: Listening) -> Iterator[Client]:
    with Client(listening.address, timeout=10, patience=10) as one:
        yield one


def said(data: bytes, offset: int, channel: Any = pb.STDOUT) -> pb.Output:
    return pb.Output(channel=channel, offset=offset, data=data)


def spoken(data: bytes, offset: int, channel: Any = pb.STDOUT) -> pb.ProcessOutput:
    return pb.ProcessOutput(output=said(data, offset, channel))


# ---- unary


def test_a_create_that_broke_off_is_asked_again_and_recognised(client: Client, fake: Fake) -> None:
    fake.breaks.add(("Create", 1))
    made = client.create("web", bundle="/b", labels={"app": "web"}, start=True)
    assert made.status is Status.RUNNING and made.labels == {"app": "web"}
    assert [name for name, _ in fake.calls] == ["Create", "Create", "Get"]


def test_an_id_that_another_has_taken_stays_taken(client: Client, fake: Fake) -> None:
    client.create("web", bundle="/b")
    with pytest.raises(AlreadyExists):
        client.create("web", bundle="/b")
    fake.containers["web"].created_at.FromDatetime(datetime.now(UTC) - timedelta(hours=1))
    fake.breaks.add(("Get", 1))
    fake.refusals["Create"] = (grpc.StatusCode.ALREADY_EXISTS, "taken", [])
    with pytest.raises(AlreadyExists):  # a break elsewhere makes it not ours
        client.create("web", bundle="/b")


def test_a_create_that_broke_off_is_not_mistaken_for_an_older_one(client: Client, fake: Fake) -> None:
    client.create("web", bundle="/b")
    fake.containers["web"].created_at.FromDatetime(datetime.now(UTC) - timedelta(hours=1))
    fake.calls.clear()

    def die_first(request: Any, context: grpc.ServicerContext) -> None:
        if len(fake.said("Create")) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    fake.before["Create"] = die_first
    with pytest.raises(AlreadyExists):
        client.create("web", bundle="/b")
    assert [name for name, _ in fake.calls] == ["Create", "Create", "Get"]


def test_start_delete_and_wait_go_on(client: Client, fake: Fake) -> None:
    fake.breaks |= {("Start", 1), ("Wait", 1), ("Delete", 1)}
    fake.scripts["Subscribe"] = [[pb.Event(cursor="9", id="web", type="exit", exit=pb.Exit(run=1, status=3))]]
    client.create("web", bundle="/b")
    assert client.start("web").status is Status.RUNNING
    assert [request.run for request in fake.said("Start")] == [1, 1]
    with pytest.raises(FailedPrecondition):
        client.start("web")
    assert client.wait("web").status == 3
    assert [request.run for request in fake.said("Wait")] == [1, 1]  # the run that was learned, not the one that is current then
    ended = client.delete("web")
    assert ended is not None and ended.status == 3  # from the event log: the first delete has done it


def test_what_was_waited_for_and_is_gone_is_found_in_the_event_log(client: Client, fake: Fake) -> None:
    client.create("web", bundle="/b", start=True)
    fake.scripts["Subscribe"] = [
        [
            pb.Event(cursor="1", id="web", type="exit", exit=pb.Exit(run=1, status=9)),
            pb.Event(cursor="2", id="web", type="exec-exit", exec_id="e", exit=pb.Exit(run=1, status=1)),
        ]
    ]

    def die_with_it(request: pb.WaitRequest, context: grpc.ServicerContext) -> None:
        if fake.containers.pop("web", None):
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    fake.before["Wait"] = die_with_it
    assert client.wait("web").status == 9
    with pytest.raises(NotFound):
        client.wait("web")


def test_a_signal_is_not_sent_twice_where_that_matters(client: Client, fake: Fake) -> None:
    fake.breaks |= {("Kill", 1), ("Kill", 2)}
    with pytest.raises(Unavailable):
        client.kill("web", signal.SIGHUP)
    assert len(fake.said("Kill")) == 1
    client.kill("web", signal.SIGTERM)
    assert len(fake.said("Kill")) == 3


def test_calls_wait_for_a_server_that_is_away(listening: Listening, client: Client) -> None:
    listening.stop()
    timer = threading.Timer(0.4, listening.start)
    timer.start()
    assert client.version().api == "wherry.shim.v1"
    client.kill("web", signal.SIGHUP)  # never sent, so safe
    timer.join()


def test_patience_and_deadlines_end(listening: Listening) -> None:
    listening.stop()
    with Client(listening.address, patience=0.3) as client, pytest.raises(Unavailable):
        client.version()
    with Client(listening.address, timeout=0.3, patience=60) as client, pytest.raises(DeadlineExceeded) as caught:
        client.version()
    assert isinstance(caught.value, TimeoutError)
    with Client(listening.address, patience=0.3) as client, pytest.raises(Unavailable):
        list(client.logs("web"))


# ---- errors


def test_rich_details(client: Client, fake: Fake) -> None:
    fake.refusals["List"] = (
        grpc.StatusCode.INVALID_ARGUMENT,
        "nothing may be mounted there",
        [
            refusal("WHERRY-CONFIG-MOUNT", pointer="/mounts/3/destination", remedy="mount it elsewhere"),
            error_details_pb2.BadRequest(field_violations=[error_details_pb2.BadRequest.FieldViolation(field="config")]),
            error_details_pb2.ResourceInfo(resource_name="web"),
        ],
    )
    with pytest.raises(InvalidArgument) as caught:
        client.list()
    error = caught.value
    assert (error.code, error.reason, error.pointer, error.remedy) == ("INVALID_ARGUMENT", "WHERRY-CONFIG-MOUNT", "/mounts/3/destination", "mount it elsewhere")
    assert (error.field, error.resource) == ("config", "web")
    assert str(error) == "/mounts/3/destination: nothing may be mounted there (mount it elsewhere)"


@pytest.mark.parametrize(
    ("code", "kind"),
    [(code, errors.KINDS[code.name]) for code in grpc.StatusCode if code.name in errors.KINDS and code.name != "UNAVAILABLE"] + [(grpc.StatusCode.DATA_LOSS, Refused)],
    ids=lambda value: getattr(value, "name", None),
)
def test_each_code_has_its_class(client: Client, fake: Fake, code: grpc.StatusCode, kind: type[Refused]) -> None:
    fake.refusals["Audit"] = (code, "no", [])
    with pytest.raises(kind) as caught:
        client.audit()
    assert type(caught.value) is kind and caught.value.code == code.name


def test_a_limit_with_a_delay_is_waited_for(client: Client, fake: Fake) -> None:
    fake.refusals["List"] = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too often", [error_details_pb2.RetryInfo(retry_delay=Duration(nanos=200_000_000))])
    timer = threading.Timer(0.1, fake.refusals.clear)
    timer.start()
    before = time.monotonic()
    assert client.list() == []
    assert time.monotonic() - before >= 0.2
    timer.join()


def test_details_that_are_no_details() -> None:
    assert errors.read_details(b"\xff\xff\xff") == {}


# ---- streams


def test_a_subscription_goes_on_behind_the_last_event(client: Client, fake: Fake) -> None:
    fake.scripts["Subscribe"] = [[pb.Event(cursor="1", id="a", type="created"), None], [None], [pb.Event(cursor="2", id="a", type="exit", exit=pb.Exit(status=1))]]
    with client.subscribe(from_oldest=True, ids=["a"]) as events:
        assert [(event.cursor, event.type) for event in events] == [("1", "created"), ("2", "exit")]
        assert events.cursor == "2"
    assert [(request.cursor, request.from_oldest) for request in fake.said("Subscribe")] == [("", True), ("1", False), ("1", False)]


def test_a_subscription_that_breaks_before_its_first_event_loses_none(client: Client, fake: Fake) -> None:
    fake.scripts["Subscribe"] = [[None], [pb.Event(cursor="5", id="a", type="created")]]
    assert [event.cursor for event in client.subscribe()] == ["5"]
    assert [request.cursor for request in fake.said("Subscribe")] == ["", "at-0"]


def test_who_was_too_slow_comes_back_with_the_cursor(client: Client, fake: Fake) -> None:
    fake.scripts["Subscribe"] = [[pb.Event(cursor="1"), grpc.StatusCode.RESOURCE_EXHAUSTED], [pb.Event(cursor="2")], [grpc.StatusCode.RESOURCE_EXHAUSTED]]
    assert [event.cursor for event in client.subscribe()] == ["1", "2"]
    with pytest.raises(Refused, match="cut off"):
        list(client.subscribe())


def test_a_cursor_that_is_too_old(client: Client, fake: Fake) -> None:
    fake.refusals["Subscribe"] = (grpc.StatusCode.OUT_OF_RANGE, "not kept any more", [refusal("WHERRY-STATE", oldest="77")])
    with pytest.raises(CursorTooOld) as caught:
        list(client.subscribe("1"))
    assert caught.value.oldest == "77"


def test_logs_go_on_at_their_offsets(client: Client, fake: Fake) -> None:
    fake.scripts["Logs"] = [
        [said(b"", 3), said(b"", 0, pb.STDERR), said(b"abc", 3), None],
        [said(b"bcd", 4), said(b"x", 0, pb.STDERR), None],  # it says more than it was asked for: what is known is not given twice
        [said(b"z", 20)],
    ]
    got = [(one.channel, one.offset, one.data) for one in client.logs("web", follow=True, tail=5)]
    assert got == [(Channel.STDOUT, 3, b"abc"), (Channel.STDOUT, 6, b"d"), (Channel.STDERR, 0, b"x"), (Channel.STDOUT, 20, b"z")]
    asked = [(request.HasField("tail"), request.stdout_offset, request.stderr_offset) for request in fake.said("Logs")]
    assert asked == [(True, 0, 0), (False, 6, 0), (False, 7, 1)]


def test_samples_go_on(client: Client, fake: Fake) -> None:
    fake.scripts["Stats"] = [[pb.Sample(id="a", cpu_usec=1), None], [pb.Sample(id="a", cpu_usec=2)]]
    assert [sample.cpu_usec for sample in client.stats(["a"], interval=0.1)] == [1, 2]


def test_a_place_knows_what_is_new() -> None:
    place = Place(10, None)
    assert place.accept(said(b"abc", 5)) is None
    assert place.accept(said(b"abcdefgh", 5)) == blocking.types.Output(Channel.STDOUT, 10, b"fgh")
    assert place.accept(said(b"e", 100, pb.STDERR)) == blocking.types.Output(Channel.STDERR, 100, b"e")
    assert place.offsets == {Channel.STDOUT: 13, Channel.STDERR: 101}


# ---- sessions


def test_an_exec_goes_on_with_what_was_typed(client: Client, fake: Fake) -> None:
    def take(count: int) -> Callable[[Any], Any]:
        """Takes so many messages, and tells how far stdin is."""

        def takes(requests: Any) -> Any:
            for _ in range(count):
                request = next(requests)
                fake.calls.append(("typed", request))
                fake.stdin += request.stdin
            fake.typed.set()
            return pb.ProcessOutput(stdin_offset=len(fake.stdin))

        return takes

    def lose(requests: Any) -> Any:
        """A message comes that is never written."""
        next(requests)

    def again(requests: Any) -> Any:
        return pb.ProcessOutput(started=pb.ProcessOutput.Started(pid=7, stdin_offset=len(fake.stdin)))

    fake.scripts["Exec"] = [
        [STARTED, take(1), spoken(b"one", 0), lose, None],
        [again, take(2), spoken(b"etwo", 2), EXIT],
    ]
    with client.exec("web", Exec(args=["sh"], stdin=True, size=(80, 24), exec_id="e")) as process:
        process.write(b"first")
        assert next(process).data == b"one"
        process.write(b"second")
        assert next(process).data == b"two"
        process.resize(100, 30)
        assert process.wait().status == 5
    assert fake.stdin == b"firstsecond" or fake.stdin == b"first"  # a resize may have been one of the two
    opened = fake.said("Exec")
    assert opened[0].start.exec_id == "e" and opened[0].start.size.width == 80
    assert (opened[1].resume.exec_id, opened[1].resume.stdout_offset) == ("e", 3)


def test_an_exec_whose_start_broke_off_is_looked_for_first(client: Client, fake: Fake) -> None:
    fake.scripts["Exec"] = [[None], [grpc.StatusCode.NOT_FOUND], [STARTED, EXIT]]
    with client.exec("web", ["true"]) as process:
        assert process.wait().status == 5
    kinds = [request.WhichOneof("message") for request in fake.said("Exec") if request.WhichOneof("message") in ("start", "resume")]
    assert kinds == ["start", "resume", "start"]


def test_an_exec_that_is_gone_is_said_to_be(client: Client, fake: Fake) -> None:
    fake.scripts["Exec"] = [[STARTED, None], [grpc.StatusCode.NOT_FOUND]]
    with client.exec("web", ["true"]) as process, pytest.raises(NotFound):
        process.wait()


def test_the_record_of_an_exec_goes_when_its_exit_has_come(client: Client, fake: Fake) -> None:
    fake.scripts["Exec"] = [[STARTED, spoken(b"x", 0), EXIT]]
    with client.exec("web", ["true"]) as process:
        done = process.communicate()
    assert (done.exit.status, done.stdout, done.stderr) == (5, b"x", b"")


def test_a_session_knows_where_it_began(client: Client, fake: Fake) -> None:
    begins = pb.ProcessOutput(started=pb.ProcessOutput.Started(pid=7, stdout_offset=100, stderr_offset=50))
    fake.scripts["Attach"] = [[begins, None], [begins, spoken(b"new", 100), EXIT]]
    with client.attach("web") as process:
        assert [one.data for one in process] == [b"new"]
        assert process.exit is not None and process.pid == 7
    opened = [request.open for request in fake.said("Attach") if request.WhichOneof("message") == "open"]
    assert not opened[0].HasField("stdout_offset")
    assert (opened[1].stdout_offset, opened[1].stderr_offset) == (100, 50)


def test_who_detaches_is_gone(client: Client, fake: Fake) -> None:
    fake.scripts["Attach"] = [[STARTED]]
    process = client.attach("web")
    closing = threading.Timer(0.2, process.close)
    closing.start()
    assert list(process) == [] and process.exit is None
    closing.join()


def test_what_is_typed_is_bounded_and_acknowledged() -> None:
    typed = Typed()
    assert typed.add(memoryview(b"x" * (HELD + 5))) == HELD
    typed.acknowledged(1000, again=True)
    assert len(typed.next()) == 32 << 10
    typed.acknowledged(1000 + 100)
    assert len(typed.data) == HELD - 100
    typed.acknowledged(1000 + 150, again=True)  # the server that died had written 50 more
    assert len(typed.data) == HELD - 150 and typed.sent == 0


# ---- asyncio, and both alike


def test_asyncio(fake: Fake, listening: Listening) -> None:
    fake.breaks.add(("Create", 1))
    fake.scripts["Subscribe"] = [[pb.Event(cursor="1"), None], [pb.Event(cursor="2")]]
    fake.scripts["Exec"] = [[STARTED, spoken(b"a", 0), None], [STARTED, spoken(b"b", 1), EXIT]]

    async def main() -> None:
        async with aio.Client(listening.address, patience=10) as client:
            assert (await client.create("web", bundle="/b")).id == "web"
            assert [event.cursor async for event in client.subscribe(from_oldest=True)] == ["1", "2"]
            done = await aio.communicate(client.exec("web", ["x"]), b"input")
            assert (done.stdout, done.exit.status) == (b"ab", 5)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(hang(client), 0.3)
            await impatient(client)
            fake.scripts["Attach"] = [[STARTED]]
            session = client.attach("web")
            await session.open()
            asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(session.close()))
            assert [one async for one in session] == []

    async def impatient(client: aio.Client) -> None:
        """A wait that was cancelled has cost nothing."""
        fake.scripts["Subscribe"] = [[pb.Event(cursor="7"), slow], [pb.Event(cursor="8")]]
        async with client.subscribe() as events:
            assert (await events.next()).cursor == "7"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(events.next(), 0.2)
            assert (await events.next()).cursor == "8"
        assert fake.said("Subscribe")[-1].cursor == "7"

    def slow() -> None:
        time.sleep(1)

    async def hang(client: aio.Client) -> None:
        fake.scripts["Attach"] = [[STARTED]]
        async with client.attach("web") as session:
            await session.wait()

    asyncio.run(main())


def test_both_clients_are_the_same() -> None:
    """The blocking one is written by hand, for the sake of its types: names and parameters agree."""
    for name, method in inspect.getmembers(calls.Calls, inspect.isfunction):
        if not name.startswith("_"):
            there, here = inspect.signature(method), inspect.signature(getattr(Client, name))
            assert list(there.parameters.values()) == list(here.parameters.values()), name
    assert inspect.signature(Client) == inspect.signature(aio.Client)


def test_every_method_of_the_interface_has_a_call(client: Client, fake: Fake) -> None:
    methods = {method.name.lower() for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods}
    names = {name.replace("_", "") for name, _ in inspect.getmembers(calls.Calls, inspect.isfunction)}
    assert methods <= names


# ---- what is given and where


def test_policies_and_probes_go_there_and_come_back(client: Client, fake: Fake) -> None:
    policy = RestartPolicy(When.ON_FAILURE, limit=3, backoff=timedelta(seconds=0.5))
    client.create("web", config={"ociVersion": "1.0.2"}, restart=policy, probe=Probe(("true",), interval=timedelta(seconds=1)))
    request = fake.said("Create")[0]
    assert request.config == b'{"ociVersion": "1.0.2"}' and request.probe.args == ["true"] and not request.probe.HasField("timeout")
    assert client.get("web").restart == policy


def test_metadata_goes_with_each_call(listening: Listening, fake: Fake) -> None:
    with Client(listening.address, metadata=lambda: [("traceparent", "00-1-2-01")]) as client:
        client.version()
    assert ("traceparent", "00-1-2-01") in [tuple(pair) for pair in fake.metadata[0]]


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address.target("/run/x") == ("unix:/run/x", True) == address.target("unix:///run/x")
    assert address.target("tcp://host:1") == ("dns:///host:1", False) == address.target("host:1")
    for wrong in ("unix://run/x", "host", "tcp://:1", ""):
        with pytest.raises(ValueError, match=r"absolute|neither"):
            address.target(wrong)
    with pytest.raises(ValueError, match="mutual TLS"):
        Client("tcp://host:1")
    monkeypatch.setenv("WHERRY_SHIM_ADDRESS", "unix:///x")
    assert address.default() == "unix:///x"


def test_a_request_that_is_too_big_is_refused_here(client: Client) -> None:
    with pytest.raises(Refused) as caught:
        client.validate(config=b"x" * (5 << 20))
    assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_other_refusals_are_not_repeated(client: Client, fake: Fake) -> None:
    fake.refusals["List"] = (grpc.StatusCode.PERMISSION_DENIED, "no", [])
    with pytest.raises(PermissionDenied):
        client.list()
    fake.refusals["Pause"] = (grpc.StatusCode.FAILED_PRECONDITION, "no", [])
    with pytest.raises(FailedPrecondition):
        client.pause("web")
    assert len(fake.calls) == 2
