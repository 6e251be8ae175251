# SPDX-License-Identifier: Apache-2.0
"""Between the messages of wherry.shim.v1 and the dataclasses. Nobody else in the client touches a message's fields."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from wherry_shim.client import types
from wherry_shim.proto import wherry_shim_v1_pb2 as pb


@runtime_checkable
class HasJson(Protocol):
    """wherry.Config, for one."""

    def to_json(self) -> str: ...


Document = bytes | str | Mapping[str, object] | HasJson

STATUSES = {number: types.Status(name.lower()) for name, number in pb.Status.items() if number}
HEALTHS = {number: types.Health(name.lower()) for name, number in pb.Health.items() if number}
WHENS = {number: types.When(name.lower().replace("_", "-")) for name, number in pb.RestartPolicy.When.items()}
CHANNELS = {number: types.Channel(name.lower()) for name, number in pb.Channel.items() if number}
STATUS_NUMBERS = {status: number for number, status in STATUSES.items()}


def document(value: Document) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return value.to_json().encode() if isinstance(value, HasJson) else json.dumps(value).encode()


def time_of(message: Message, name: str) -> datetime | None:
    value = getattr(message, name)
    assert isinstance(value, Timestamp)
    return value.ToDatetime(tzinfo=UTC) if message.HasField(name) else None


def span_of(message: Message, name: str) -> timedelta | None:
    value = getattr(message, name)
    assert isinstance(value, Duration)
    return value.ToTimedelta() if message.HasField(name) else None


def duration(value: timedelta | float | None) -> Duration | None:
    if value is None:
        return None
    made = Duration()
    made.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    return made


# ---- there


def restart_there(value: types.RestartPolicy | None) -> pb.RestartPolicy | None:
    if value is None:
        return None
    return pb.RestartPolicy(
        when=types.When(value.when).name,
        limit=value.limit,
        backoff=duration(value.backoff),
        backoff_limit=duration(value.backoff_limit),
        reset_after=duration(value.reset_after),
    )


def probe_there(value: types.Probe | None) -> pb.Probe | None:
    if value is None:
        return None
    return pb.Probe(
        args=value.args,
        interval=duration(value.interval),
        timeout=duration(value.timeout),
        start_period=duration(value.start_period),
        retries=value.retries,
        restart=value.restart,
    )


def size_there(value: tuple[int, int] | None) -> pb.Size | None:
    return None if value is None else pb.Size(width=value[0], height=value[1])


def exec_there(id: str, value: types.Exec, exec_id: str, detach: bool) -> pb.ExecRequest.Start:
    return pb.ExecRequest.Start(
        id=id,
        exec_id=exec_id,
        process=b"" if value.process is None else document(value.process),
        args=value.args,
        env=value.env,
        cwd=value.cwd,
        user=value.user,
        terminal=value.terminal,
        stdin=value.stdin,
        size=size_there(value.size),
        timeout=duration(value.timeout),
        detach=detach,
    )


# ---- back


def exit_of(message: Message, name: str = "exit") -> types.Exit | None:
    return exited(getattr(message, name)) if message.HasField(name) else None


def exited(one: pb.Exit) -> types.Exit:
    return types.Exit(one.run, one.status, one.signal, one.oom, one.reason, time_of(one, "started_at"), time_of(one, "exited_at"))


def restart_back(one: pb.RestartPolicy) -> types.RestartPolicy:
    return types.RestartPolicy(WHENS[one.when], one.limit, span_of(one, "backoff"), span_of(one, "backoff_limit"), span_of(one, "reset_after"))


def probe_back(one: pb.Probe) -> types.Probe:
    return types.Probe(tuple(one.args), span_of(one, "interval"), span_of(one, "timeout"), span_of(one, "start_period"), one.retries, one.restart)


def exec_state(one: pb.ExecState) -> types.ExecState:
    return types.ExecState(one.exec_id, one.pid, status_of(one.status), exit_of(one), tuple(one.args), one.terminal)


def status_of(number: int) -> types.Status:
    return STATUSES.get(number, types.Status.UNKNOWN)


def container(one: pb.Container) -> types.Container:
    return types.Container(
        id=one.id,
        bundle=one.bundle,
        status=status_of(one.status),
        pid=one.pid,
        created_at=time_of(one, "created_at"),
        started_at=time_of(one, "started_at"),
        restart_at=time_of(one, "restart_at"),
        run=one.run,
        exit=exit_of(one),
        restart=restart_back(one.restart),
        restarts=one.restarts,
        probe=probe_back(one.probe) if one.HasField("probe") else None,
        health=HEALTHS.get(one.health, types.Health.NONE),
        labels=dict(one.labels),
        terminal=one.terminal,
        stdin=one.stdin,
        execs=tuple(exec_state(state) for state in one.execs),
        owner=one.owner,
        auto_remove=one.auto_remove,
        args=tuple(one.args),
        exits=tuple(map(exited, one.exits)),
        last_probe=probe_result(one.last_probe) if one.HasField("last_probe") else None,
        probe_failures=one.probe_failures,
    )


def probe_result(one: pb.ProbeResult) -> types.ProbeResult:
    return types.ProbeResult(time_of(one, "began_at"), span_of(one, "took"), one.status, one.error)


def event(one: pb.Event) -> types.Event:
    return types.Event(
        cursor=one.cursor,
        time=time_of(one, "time"),
        id=one.id,
        type=one.type,
        run=one.run,
        exec_id=one.exec_id,
        pid=one.pid,
        exit=exit_of(one),
        health=HEALTHS.get(one.health, types.Health.NONE),
        restart_at=time_of(one, "restart_at"),
        trace=one.trace,
    )


def output(one: pb.Output) -> types.Output:
    return types.Output(CHANNELS.get(one.channel, types.Channel.STDOUT), one.offset, one.data)


SAMPLE = [field.name for field in pb.Sample.DESCRIPTOR.fields if field.name not in ("id", "time")]


def sample(one: pb.Sample) -> types.Sample:
    return types.Sample(id=one.id, time=time_of(one, "time"), **{name: getattr(one, name) for name in SAMPLE})


def finding(one: pb.Finding) -> types.Finding:
    return types.Finding(one.pointer, one.code, one.message, one.remedy, one.warning)


def plan(one: pb.PlanResponse) -> types.Plan:
    steps = tuple(types.Step(step.executor, step.operation, step.text, step.pointer) for step in one.steps)
    return types.Plan(steps, tuple(finding(warning) for warning in one.warnings))


def version(one: pb.VersionResponse) -> types.Version:
    return types.Version(one.version, one.build_id, one.specification, one.api, one.server_pid, time_of(one, "started_at"), one.role)


def audit_entry(one: pb.AuditResponse.Entry) -> types.AuditEntry:
    return types.AuditEntry(time_of(one, "time"), one.caller, one.role, one.method, one.id, one.status, one.duration.ToTimedelta())
