# SPDX-License-Identifier: Apache-2.0
"""wherry.shim.v1.Shim: messages to calls of the supervisor, nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from wherry.errors import WherryError
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto.wherry_shim_v1_pb2_grpc import ShimServicer
from wherry_shim.serve import foreign, identity, messages, refusals, stats, trace
from wherry_shim.serve.event_log import too_slow
from wherry_shim.serve.guard import cutter
from wherry_shim.serve.identity import Role
from wherry_shim.serve.managed import Managed, config_bytes
from wherry_shim.serve.process_streams import ProcessStreams
from wherry_shim.serve.supervisor import Supervisor

API = "wherry.shim.v1"
_SIGKILL, _SIGTERM, _SIGNALS = 9, 15, 64
_CONDITIONS = {pb.WaitRequest.EXIT: "exit", pb.WaitRequest.STOPPED: "stopped", pb.WaitRequest.REMOVED: "removed", pb.WaitRequest.HEALTHY: "healthy"}
_CACHED = 2048
_LONGEST_CONFIG = 8 << 20


class ShimService(ShimServicer):
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor, self._engine = supervisor, supervisor.engine
        self._streams = ProcessStreams(supervisor)
        self._started = time.time_ns()
        self._messages: dict[int, Any] = {}
        """The last few events as they are sent, for who comes next for the same."""

    # ---- a container's life

    async def Create(self, request: Any, context: Any) -> Any:
        one = await self._supervisor.create(messages.new_of(request))
        return messages.container_message(one, one.begun)

    async def Start(self, request: Any, context: Any) -> Any:
        one = self._supervisor.ours(request.id)
        await self._supervisor.start_container(one, request.run)
        return messages.container_message(one, one.begun)

    async def Stop(self, request: Any, context: Any) -> Any:
        one = self._supervisor.ours(request.id)
        grace = messages.seconds_of(request, "grace", 10.0)
        await self._supervisor.stop_container(one, grace, _signal(request.signal, _SIGTERM))
        return messages.container_message(one)

    async def Kill(self, request: Any, context: Any) -> Any:
        one, signal = self._supervisor.get(request.id), _signal(request.signal, _SIGKILL)
        if request.exec_id:
            await self._supervisor.execs.kill(one, request.exec_id, signal)
        else:
            await self._engine.call("Kill", {"id": one.id, "signal": signal, "all": request.all})
        return pb.KillResponse()

    async def Pause(self, request: Any, context: Any) -> Any:
        one = self._supervisor.ours(request.id)
        await self._supervisor.pause(one)
        return messages.container_message(one)

    async def Resume(self, request: Any, context: Any) -> Any:
        one = self._supervisor.ours(request.id)
        await self._supervisor.resume(one)
        return messages.container_message(one)

    async def Update(self, request: Any, context: Any) -> Any:
        one = self._supervisor.ours(request.id)
        policy = messages.policy_of(request.restart) if request.HasField("restart") else None
        probe = messages.probe_of(request.probe) if request.HasField("probe") else None
        await self._supervisor.update(one, request.resources, policy, probe, messages.labels_of(request.labels, one.asked.labels))
        return messages.container_message(one)

    async def Delete(self, request: Any, context: Any) -> Any:
        exit = await self._supervisor.delete(self._supervisor.ours(request.id), request.force)
        return pb.DeleteResponse(exit=messages.exit_message(exit))

    # ---- what there is

    async def Get(self, request: Any, context: Any) -> Any:
        one = self._supervisor.get(request.id)
        answer = messages.container_message(one)
        if request.config and one.asked.bundle:
            identity.check(identity.of(context), Role.RUN, "Get with the configuration")
            answer.config = await asyncio.to_thread(_config_to_show, one.asked.bundle)
        return answer

    async def List(self, request: Any, context: Any) -> Any:
        wanted, statuses = dict(request.labels), set(request.statuses)
        found = [messages.container_message(one) for one in self._supervisor.table.values() if _labelled(one, wanted)]
        if request.foreign and not wanted:
            found += await asyncio.to_thread(foreign.containers)
        return pb.ListResponse(containers=[one for one in found if not statuses or one.status in statuses])

    async def Wait(self, request: Any, context: Any) -> Any:
        if request.exec_id:
            return await self._wait_exec(request)
        exit, one = await self._supervisor.wait(request.id, _CONDITIONS.get(request.condition, "exit"), request.run)
        container = messages.container_message(one) if one is not None else None
        return pb.WaitResponse(exit=messages.exit_message(exit), container=container)

    async def _wait_exec(self, request: Any) -> Any:
        one = self._supervisor.readable(request.id)
        run = self._supervisor.execs.get(one, request.exec_id)
        while not run.ended:
            if one.gone:
                raise refusals.no_exec(one.id, request.exec_id)
            await run.changed()
            if run.id not in one.execs and not run.ended:
                raise refusals.no_exec(one.id, request.exec_id)
        return pb.WaitResponse(exit=messages.exit_message(run.record.exit), container=messages.container_message(one))

    async def Processes(self, request: Any, context: Any) -> Any:
        one = self._supervisor.get(request.id)
        answer = await self._engine.call("Pids", {"id": one.id})
        names = {run.record.pid: run.id for run in one.execs.values() if not run.ended}
        processes = [pb.ProcessesResponse.Process(pid=found["pid"], exec_id=names.get(found["pid"], "")) for found in answer["processes"]]
        return pb.ProcessesResponse(processes=processes)

    # ---- events

    async def Subscribe(self, request: Any, context: Any) -> AsyncIterator[Any]:
        log = self._supervisor.events
        after = log.position(request.cursor) if request.cursor else log.oldest if request.from_oldest else log.newest
        ids, types = set(request.ids), set(request.types)
        subscription, cut = log.subscribe(after), cutter()
        subscription.on_slow = lambda: cut(too_slow())
        try:
            await context.send_initial_metadata(((trace.KEY, trace.current()), ("wherry-cursor", log.cursor(after))))
            async for sequence, line in subscription.follow(wait=not request.no_follow):
                message = self._event(sequence, line)
                if (not ids or message.id in ids) and (not types or message.type in types):
                    yield message
        finally:
            subscription.close()

    def _event(self, sequence: int, line: bytes) -> Any:
        message = self._messages.get(sequence)
        if message is None:
            message = self._messages[sequence] = messages.event_message(line, self._supervisor.events.cursor(sequence))
            if len(self._messages) > _CACHED:
                del self._messages[next(iter(self._messages))]
        return message

    # ---- streams

    async def Logs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for message in self._streams.logs(request):
            yield message

    async def Attach(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for message in self._streams.attach(requests):
            yield message

    async def Exec(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for message in self._streams.exec(requests):
            yield message

    async def DeleteExec(self, request: Any, context: Any) -> Any:
        one = self._supervisor.ours(request.id)
        exit = await self._supervisor.through(self._supervisor.execs.delete(one, request.exec_id))
        return pb.DeleteExecResponse(exit=messages.exit_message(exit))

    async def Stats(self, request: Any, context: Any) -> AsyncIterator[Any]:
        interval = max(messages.seconds_of(request, "interval", 1.0), 0.1)
        for id in request.ids:
            self._supervisor.get(id)
        while True:
            ids = [id for id in request.ids or list(self._supervisor.table) if (one := self._supervisor.table.get(id)) and one.running]
            for sample in await asyncio.to_thread(stats.samples, self._engine.directory(""), ids, bool(request.ids)):
                yield sample
            if request.once or (request.ids and not any(id in self._supervisor.table for id in request.ids)):
                return
            await asyncio.sleep(interval)

    # ---- before anything runs; of the server

    async def Validate(self, request: Any, context: Any) -> Any:
        from wherry.oci.validate import validate

        data = await asyncio.to_thread(_config_of, request, "Validate")
        result = await asyncio.to_thread(validate, data, "config.json", Path(request.bundle) if request.bundle else None)
        findings = [
            pb.Finding(pointer=one.pointer, code=one.code, message=one.message, remedy=one.remedy or "", warning=one.severity == "warning")
            for one in result.findings
        ]
        return pb.ValidateResponse(findings=findings)

    async def Plan(self, request: Any, context: Any) -> Any:
        data = await asyncio.to_thread(_config_of, request, "Plan")
        return await asyncio.to_thread(_plan, request.bundle or "/", data)

    async def Version(self, request: Any, context: Any) -> Any:
        from wherry.cli.version import release
        from wherry.kernel import native
        from wherry.oci.default import VERSION

        return pb.VersionResponse(
            version=release(),
            build_id=native.build_id().hex(),
            specification=VERSION,
            api=API,
            server_pid=os.getpid(),
            started_at=messages.timestamp(self._started),
            role=identity.of(context).role.name.lower(),
        )

    async def Features(self, request: Any, context: Any) -> Any:
        from wherry.cli.features import features

        return pb.FeaturesResponse(json=json.dumps(await asyncio.to_thread(features)).encode())


def _signal(number: int, default: int) -> int:
    if number > _SIGNALS:
        raise refusals.bad("signal", f"there is no signal {number}", f"1 to {_SIGNALS}")
    return number or default


def _labelled(one: Managed, wanted: dict[str, str]) -> bool:
    labels = one.asked.labels
    return all(name in labels and (not value or labels[name] == value) for name, value in wanted.items())


def _config_to_show(bundle: str) -> bytes:
    """Nothing where it cannot be read any more, or is too much for an answer."""
    try:
        data = config_bytes(bundle)
    except OSError:
        return b""
    return data if len(data) <= _LONGEST_CONFIG else b""


def _config_of(request: Any, method: str) -> bytes:
    """A bundle is read with the server's rights: for those only who could as well make a container that reads it."""
    if bool(request.bundle) == bool(request.config):
        raise refusals.bad("bundle", "exactly one of bundle and config is needed")
    if request.config:
        return bytes(request.config)
    if not request.bundle.startswith("/"):
        raise refusals.bad("bundle", f"{request.bundle[:300]!r} is not an absolute path")
    identity.check(identity.of(None), Role.RUN, f"{method} of a bundle")
    try:
        return config_bytes(request.bundle)
    except OSError as error:
        raise refusals.no_bundle(request.bundle, error) from error


def _plan(bundle: str, data: bytes) -> Any:
    from wherry.container.create import compile_plan
    from wherry.container.options import CreateOptions, default_root
    from wherry.plan.describe import Plan

    options = CreateOptions(default_root(), "plan", bundle)
    options.attached = True
    try:
        plan, warnings = compile_plan(options, data, [])
    except OSError as error:
        raise WherryError(f"{error.filename or bundle}: {(error.strerror or '').lower()}", code="WHERRY-HOST") from error
    steps = [pb.PlanResponse.Step(executor=step.executor, operation=step.name.lower(), text=step.text, pointer=step.place) for step in Plan(plan).steps]
    return pb.PlanResponse(steps=steps, warnings=[pb.Finding(message=text, warning=True) for text in warnings])
