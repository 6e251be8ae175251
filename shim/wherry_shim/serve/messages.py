# SPDX-License-Identifier: Apache-2.0
"""Between the messages of wherry.shim.v1 and what the supervisor knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.serve import probes, records, refusals
from wherry_shim.serve.managed import Managed, ManagedExec
from wherry_shim.serve.records import Exit, Policy, Probe, Probed, Run
from wherry_shim.serve.supervisor import New

STATUSES = {
    records.CREATING: pb.CREATING,
    records.CREATED: pb.CREATED,
    records.RUNNING: pb.RUNNING,
    records.PAUSED: pb.PAUSED,
    records.ENDED: pb.STOPPED,
    records.WAITING: pb.WAITING,
    records.RESTARTING: pb.WAITING,
    records.STOPPED: pb.STOPPED,
}
HEALTH = {probes.STARTING: pb.STARTING, probes.HEALTHY: pb.HEALTHY, probes.UNHEALTHY: pb.UNHEALTHY}
POLICIES = {pb.RestartPolicy.NO: records.NO, pb.RestartPolicy.ON_FAILURE: records.ON_FAILURE, pb.RestartPolicy.ALWAYS: records.ALWAYS}
_POLICY_NUMBERS = {name: number for number, name in POLICIES.items()}
_SECOND = 1_000_000_000
_LONGEST_S = 10 * 366 * 86400
MOST_LABELS = 64
MOST_MOUNTS = 256


# ---- times


def timestamp(nanoseconds: int) -> Timestamp | None:
    if not nanoseconds:
        return None
    seconds, nanos = divmod(nanoseconds, _SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def duration(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(int(seconds * _SECOND))
    return message


def seconds_of(message: Message, name: str, default: float, least: float = 0.0) -> float:
    """A field of a duration; what is not given has its default."""
    if not message.HasField(name):
        return default
    value = getattr(message, name)
    seconds = float(value.seconds + value.nanos / _SECOND)
    if not least <= seconds <= _LONGEST_S:
        raise refusals.bad(name, f"{seconds:g} s is not between {least:g} s and ten years")
    return seconds


# ---- from requests


def policy_of(message: Any) -> Policy:
    if message.when not in POLICIES:
        raise refusals.bad("restart.when", f"there is no {message.when}", "NO, ON_FAILURE or ALWAYS")
    base = Policy()
    backoff = seconds_of(message, "backoff", base.backoff)
    return Policy(
        POLICIES[message.when],
        message.limit,
        backoff,
        max(seconds_of(message, "backoff_limit", base.backoff_limit), backoff),
        seconds_of(message, "reset_after", base.reset_after),
    )


def probe_of(message: Any) -> Probe:
    base = Probe()
    return Probe(
        list(message.args),
        seconds_of(message, "interval", base.interval, 0.05) or base.interval,
        seconds_of(message, "timeout", base.timeout, 0.01) or base.timeout,
        seconds_of(message, "start_period", base.start_period),
        message.retries or base.retries,
        message.restart,
    )


def labels_of(labels: Any, there: Mapping[str, str] | None = None) -> dict[str, str]:
    """there: those that it has already, and keeps."""
    found = dict(labels)
    together = {**(there or {}), **found}
    if len(together) > MOST_LABELS or sum(len(name) + len(value) for name, value in together.items()) > MOST_LABELS * 256:
        raise refusals.bad("labels", f"more than {MOST_LABELS}, or more than {MOST_LABELS * 256} letters")
    if "" in found:
        raise refusals.bad("labels", "a label has no name")
    return found


def new_of(request: Any) -> New:
    if bool(request.bundle) == bool(request.config):
        raise refusals.bad("bundle", "exactly one of bundle and config is needed")
    if request.bundle and not request.bundle.startswith("/"):
        raise refusals.bad("bundle", f"{request.bundle[:300]!r} is not an absolute path")
    if len(request.rootfs) > MOST_MOUNTS:
        raise refusals.bad("rootfs", f"more than {MOST_MOUNTS} mounts")
    mounts = [{"type": one.type, "source": one.source, "target": one.target, "options": list(one.options)} for one in request.rootfs]
    return New(
        request.id,
        request.bundle.rstrip("/") or request.bundle,
        request.config,
        mounts,
        request.stdin,
        policy_of(request.restart),
        probe_of(request.probe),
        labels_of(request.labels),
        request.log.bytes,
        request.start,
        request.auto_remove,
    )


# ---- to answers


def exit_message(exit: Exit | None) -> Any:
    if exit is None:
        return None
    return pb.Exit(
        run=exit.run,
        status=exit.status,
        signal=exit.signal,
        oom=exit.oom,
        started_at=timestamp(exit.started),
        exited_at=timestamp(exit.exited),
        reason=exit.reason,
    )


def policy_message(policy: Policy) -> Any:
    return pb.RestartPolicy(
        when=_POLICY_NUMBERS.get(policy.when, pb.RestartPolicy.NO),
        limit=policy.limit,
        backoff=duration(policy.backoff),
        backoff_limit=duration(policy.backoff_limit),
        reset_after=duration(policy.reset_after),
    )


def probe_message(probe: Probe) -> Any:
    if not probe.args:
        return None
    return pb.Probe(
        args=probe.args,
        interval=duration(probe.interval),
        timeout=duration(probe.timeout),
        start_period=duration(probe.start_period),
        retries=probe.retries,
        restart=probe.restart,
    )


def probe_result(probed: Probed | None) -> Any:
    if probed is None:
        return None
    return pb.ProbeResult(began_at=timestamp(probed.at), took=duration(probed.seconds), status=probed.status, error=probed.error)


def exec_message(run: ManagedExec) -> Any:
    record = run.record
    phases = {records.CREATED: pb.CREATED, records.RUNNING: pb.RUNNING, records.ENDED: pb.STOPPED}
    return pb.ExecState(
        exec_id=record.id,
        pid=record.pid,
        status=phases.get(record.phase, pb.STATUS_UNSPECIFIED),
        exit=exit_message(record.exit),
        args=record.args,
        terminal=record.terminal,
    )


def container_message(one: Managed, at: Run | None = None) -> Any:
    """at: as it was then."""
    asked, run = one.asked, at or one.run
    return pb.Container(
        id=asked.id,
        bundle=asked.bundle,
        status=STATUSES[run.phase],
        pid=run.pid,
        created_at=timestamp(asked.created),
        started_at=timestamp(run.started),
        restart_at=timestamp(run.restart_at),
        run=run.run,
        exit=exit_message(run.exit),
        restart=policy_message(asked.policy),
        restarts=run.restarts,
        probe=probe_message(asked.probe),
        health=HEALTH.get(run.health, pb.HEALTH_UNSPECIFIED),
        labels=asked.labels,
        terminal=asked.terminal,
        stdin=asked.stdin or asked.terminal,
        execs=[exec_message(each) for each in one.execs.values()],
        owner=one.owner,
        auto_remove=asked.auto_remove,
        args=asked.args,
        exits=[exit_message(exit) for exit in run.exits],
        last_probe=probe_result(run.probed),
        probe_failures=run.failures,
    )


def event_message(line: bytes, cursor: str) -> Any:
    event = json.loads(line)
    exit = event.get("exit")
    return pb.Event(
        cursor=cursor,
        time=timestamp(event["time"]),
        id=event["id"],
        type=event["type"],
        run=event.get("run", 0),
        exec_id=event.get("exec_id", ""),
        pid=event.get("pid", 0),
        exit=exit_message(records.from_dict(Exit, exit)) if exit else None,
        health=HEALTH.get(event.get("health", ""), pb.HEALTH_UNSPECIFIED),
        restart_at=timestamp(event.get("restart_at", 0)),
        trace=event.get("trace", ""),
    )
