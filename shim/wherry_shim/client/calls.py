# SPDX-License-Identifier: Apache-2.0
"""Every call of wherry.shim.v1, as coroutines over a Transport: what aio.Client is, and what Client drives."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.message import Message

from wherry_shim.client import convert, types
from wherry_shim.client.again import Patience
from wherry_shim.client.convert import Document
from wherry_shim.client.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound, Refused
from wherry_shim.client.session import Attach, Execution
from wherry_shim.client.streams import Events, Logs, Samples
from wherry_shim.client.transport import Transport
from wherry_shim.proto import containerd_types_pb2
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

SAFE_SIGNALS = (0, 9, 15)  # twice is as good as once
SLICE = 200.0  # a Wait without end is asked in pieces: a server ends what has no deadline
SKEW = timedelta(seconds=5)  # between two hosts' clocks
KINDS = {"exit": pb.WaitRequest.EXIT, "stopped": pb.WaitRequest.STOPPED, "removed": pb.WaitRequest.REMOVED, "healthy": pb.WaitRequest.HEALTHY}


class Calls:
    """`timeout`: of each answer; `patience`: how long a server may be away before a call or a stream fails with Unavailable."""

    def __init__(self, transport: Transport, timeout: float, patience: float) -> None:
        self._transport, self._timeout, self._patience = transport, timeout, patience

    async def _ask(self, method: str, request: Message, *, service: str = "Shim", safe: bool = True, more: float | None = 0.0) -> Any:
        """`more`: seconds on top of the timeout; None: without end."""
        deadline = None if more is None else time.monotonic() + self._timeout + more
        patience = Patience(self._patience, self._transport.sleep, deadline)
        while True:
            try:
                return await self._transport.unary(service, method, request, patience.left())
            except grpc.RpcError as error:
                await patience.after(error, safe)

    # ---- containers

    async def create(
        self,
        id: str,
        *,
        bundle: str = "",
        config: Document | None = None,
        rootfs: Iterable[types.Mount] = (),
        stdin: bool = False,
        restart: types.RestartPolicy | None = None,
        probe: types.Probe | None = None,
        labels: Mapping[str, str] | None = None,
        log_bytes: int = 0,
        start: bool = False,
        auto_remove: bool = False,
    ) -> types.Container:
        request = pb.CreateRequest(
            id=id,
            bundle=bundle,
            config=b"" if config is None else convert.document(config),
            rootfs=[containerd_types_pb2.Mount(type=one.type, source=one.source, target=one.target, options=one.options) for one in rootfs],
            stdin=stdin,
            restart=convert.restart_there(restart),
            probe=convert.probe_there(probe),
            labels=labels,
            log=pb.LogLimit(bytes=log_bytes) if log_bytes else None,
            start=start and not auto_remove,
            auto_remove=auto_remove,
        )
        begun = datetime.now(UTC)
        try:
            made = convert.container(await self._ask("Create", request))
        except AlreadyExists as refusal:
            made = await self._made_by_us(request, begun, refusal)
        # what may have gone by the time that it is asked for again is begun by a call of its own: never twice
        return await self.start(id) if start and auto_remove else made

    async def _made_by_us(self, request: pb.CreateRequest, begun: datetime, refusal: Refused) -> types.Container:
        """The container, where a create that broke off has made it."""
        if not refusal.repeated:
            raise refusal
        there = await self.get(request.id)
        same = there.labels == dict(request.labels) and there.stdin >= request.stdin and (not request.bundle or there.bundle == request.bundle)
        if not same or there.created_at is None or there.created_at < begun - SKEW:
            raise refusal
        return await self.start(request.id) if request.start and there.status is types.Status.CREATED else there

    async def start(self, id: str) -> types.Container:
        there = await self.get(id)
        run = max(1, there.run) if there.status is types.Status.CREATED else there.run + 1  # named, it is begun once, however often it is asked for
        try:
            return convert.container(await self._ask("Start", pb.StartRequest(id=id, run=run)))
        except NotFound as refusal:  # it was begun, has ended and is gone, if we have asked before
            exit = await self._last_exit(id, run=run) if refusal.repeated and there.auto_remove else None
            if exit is None:
                raise
            return replace(there, status=types.Status.STOPPED, pid=0, run=run, exit=exit)

    async def stop(self, id: str, *, grace: timedelta | float | None = None, signal: int = 0) -> types.Container:
        wanted = convert.duration(grace)
        more = wanted.ToTimedelta().total_seconds() if wanted is not None else 10.0
        return convert.container(await self._ask("Stop", pb.StopRequest(id=id, grace=wanted, signal=signal), more=more))

    async def kill(self, id: str, signal: int = 0, *, exec_id: str = "", all: bool = False) -> None:
        """A signal, SIGKILL where none is named. A signal that may already have been delivered is sent again only where that is as good as once."""
        await self._ask("Kill", pb.KillRequest(id=id, exec_id=exec_id, signal=signal, all=all), safe=signal in SAFE_SIGNALS)

    async def pause(self, id: str) -> types.Container:
        return await self._to_state("Pause", pb.PauseRequest(id=id), types.Status.PAUSED)

    async def resume(self, id: str) -> types.Container:
        return await self._to_state("Resume", pb.ResumeRequest(id=id), types.Status.RUNNING)

    async def _to_state(self, method: str, request: Any, state: types.Status) -> types.Container:
        try:
            return convert.container(await self._ask(method, request))
        except FailedPrecondition as refusal:
            if refusal.repeated and (there := await self.get(request.id)).status is state:
                return there
            raise

    async def update(
        self,
        id: str,
        *,
        resources: Document | None = None,
        restart: types.RestartPolicy | None = None,
        probe: types.Probe | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> types.Container:
        """What is given is changed. A probe without args, and a label without a value, are taken away."""
        request = pb.UpdateRequest(
            id=id,
            resources=b"" if resources is None else convert.document(resources),
            restart=convert.restart_there(restart),
            probe=convert.probe_there(probe),
            labels=labels,
        )
        return convert.container(await self._ask("Update", request))

    async def delete(self, id: str, *, force: bool = False) -> types.Exit | None:
        try:
            return convert.exit_of(await self._ask("Delete", pb.DeleteRequest(id=id, force=force)))
        except NotFound as refusal:
            if refusal.repeated:
                return await self._last_exit(id)
            raise

    async def get(self, id: str) -> types.Container:
        return convert.container(await self._ask("Get", pb.GetRequest(id=id)))

    async def config(self, id: str) -> bytes:
        """Its config.json; nothing where that cannot be read any more."""
        reply = await self._ask("Get", pb.GetRequest(id=id, config=True))
        return bytes(reply.config)

    async def list(
        self, *, labels: Mapping[str, str] | None = None, statuses: Iterable[types.Status] = (), foreign: bool = False
    ) -> Sequence[types.Container]:
        """`foreign`: containerd's as well, to be looked at only. A label with an empty value: whatever its value."""
        numbers: list[Any] = [convert.STATUS_NUMBERS[types.Status(status)] for status in statuses]
        reply = await self._ask("List", pb.ListRequest(labels=labels, statuses=numbers, foreign=foreign))
        return [convert.container(one) for one in reply.containers]

    async def processes(self, id: str) -> Sequence[types.Process]:
        reply = await self._ask("Processes", pb.ProcessesRequest(id=id))
        return [types.Process(one.pid, one.exec_id) for one in reply.processes]

    # ---- ends

    async def wait(self, id: str, *, exec_id: str = "", run: int = 0, stopped: bool = False, timeout: float | None = None) -> types.Exit:
        """The end of the run that is under way or was the last; with `stopped` the one that no restart follows."""
        if not (run or stopped or exec_id):
            run = max(1, (await self.get(id)).run)  # so that another server is asked for the same one
        reply = await self._wait("stopped" if stopped else "exit", pb.WaitRequest(id=id, exec_id=exec_id, run=run), timeout)
        found = convert.exit_of(reply) if reply is not None else await self._last_exit(id, exec_id, run)
        if found is None:
            raise NotFound(f"{id} is gone, and how it ended is not kept any more", resource=id)
        return found

    async def wait_removed(self, id: str, *, timeout: float | None = None) -> types.Exit | None:
        reply = await self._wait("removed", pb.WaitRequest(id=id), timeout)
        return await self._last_exit(id) if reply is None else convert.exit_of(reply)

    async def wait_healthy(self, id: str, *, timeout: float | None = None) -> types.Container:
        reply = await self._wait("healthy", pb.WaitRequest(id=id), timeout)
        if reply is None:
            raise NotFound(f"{id} is gone", resource=id)
        return convert.container(reply.container)

    async def _wait(self, kind: str, request: pb.WaitRequest, timeout: float | None) -> Any:
        """None: it was there when it was first asked for, and is gone."""
        request.condition = KINDS[kind]
        end = None if timeout is None else time.monotonic() + timeout
        known = False
        while True:
            left = SLICE if end is None else end - time.monotonic()
            try:
                return await self._ask("Wait", request, more=min(left, SLICE) - self._timeout)
            except DeadlineExceeded:
                known = True
                if end is not None and time.monotonic() >= end:
                    raise
            except NotFound as refusal:
                if refusal.repeated or known:
                    return None
                raise

    async def _last_exit(self, id: str, exec_id: str = "", run: int = 0) -> types.Exit | None:
        """From the event log: of what is gone."""
        found = None
        async with self.subscribe(from_oldest=True, follow=False, ids=[id], types=["exit", "stopped", "exec-exit"]) as events:
            async for event in events:
                if event.exit is not None and event.exec_id == exec_id and run in (0, event.exit.run):
                    found = event.exit
        return found

    # ---- streams

    def subscribe(
        self,
        cursor: str = "",
        *,
        from_oldest: bool = False,
        ids: Iterable[str] = (),
        types: Iterable[str] = (),
        follow: bool = True,
    ) -> Events:
        """What happens from now on, or behind the cursor of the last event that was seen.

        `from_oldest`: everything that is kept. `follow=False` ends with the newest.
        """
        request = pb.SubscribeRequest(cursor=cursor, from_oldest=from_oldest and not cursor, ids=ids, types=types, no_follow=not follow)
        return Events(self._transport, self._patience, request)

    def logs(
        self,
        id: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        offsets: tuple[int | None, int | None] = (None, None),
        stdout: bool = True,
        stderr: bool = True,
    ) -> Logs:
        """Output that is kept, of all runs; `offsets` of stdout and stderr, where another reader has stopped."""
        request = pb.LogsRequest(
            id=id, follow=follow, tail=tail, stdout_offset=offsets[0], stderr_offset=offsets[1], no_stdout=not stdout, no_stderr=not stderr
        )
        return Logs(self._transport, self._patience, request)

    def stats(self, ids: Iterable[str] = (), *, interval: timedelta | float | None = None, once: bool = False) -> Samples:
        return Samples(self._transport, self._patience, pb.StatsRequest(ids=ids, interval=convert.duration(interval), once=once))

    def attach(self, id: str, *, offsets: tuple[int | None, int | None] = (None, None), follow: bool = False) -> Attach:
        """The streams of the first process, from now on where no offsets are given; to the end of this run, or (`follow`) of the last one."""
        return Attach(self._transport, self._patience, id, offsets, follow)

    async def run(self, id: str, *, bundle: str = "", config: Document | None = None, stdin: bool = False, labels: Mapping[str, str] | None = None) -> Attach:
        """Creates and starts a container, and streams with it from its first byte. It is there until delete()."""
        await self.create(id, bundle=bundle, config=config, stdin=stdin, labels=labels)
        session = self.attach(id, offsets=(0, 0))
        await session.open()
        await self.start(id)
        return session

    def exec(self, id: str, what: types.Exec | Sequence[str]) -> Execution:
        """Executes a program in a container, and streams with it."""
        return Execution(self._transport, self._patience, id, what if isinstance(what, types.Exec) else types.Exec(args=what))

    def exec_resume(self, id: str, exec_id: str) -> Execution:
        """All output of an exec that was detached, or whose client is gone."""
        return Execution(self._transport, self._patience, id, None, exec_id)

    async def exec_detached(self, id: str, what: types.Exec | Sequence[str]) -> str:
        """Its exec id, for wait(), exec_resume() and delete_exec()."""
        session = Execution(self._transport, self._patience, id, what if isinstance(what, types.Exec) else types.Exec(args=what), detach=True)
        await session.open()
        await session.close()
        return session.exec_id

    async def delete_exec(self, id: str, exec_id: str) -> types.Exit | None:
        return convert.exit_of(await self._ask("DeleteExec", pb.DeleteExecRequest(id=id, exec_id=exec_id)))

    # ---- before anything runs, and of the server

    async def validate(self, *, bundle: str = "", config: Document | None = None) -> Sequence[types.Finding]:
        reply = await self._ask("Validate", pb.ValidateRequest(bundle=bundle, config=b"" if config is None else convert.document(config)))
        return [convert.finding(one) for one in reply.findings]

    async def plan(self, *, bundle: str = "", config: Document | None = None) -> types.Plan:
        return convert.plan(await self._ask("Plan", pb.PlanRequest(bundle=bundle, config=b"" if config is None else convert.document(config))))

    async def version(self) -> types.Version:
        return convert.version(await self._ask("Version", pb.VersionRequest()))

    async def features(self) -> str:
        """JSON, as the runtime specification has it."""
        reply = await self._ask("Features", pb.FeaturesRequest())
        return str(reply.json, "utf-8")

    async def reload(self) -> None:
        """The server's program is executed anew; needs the role admin, as do the next two."""
        await self._ask("Reload", pb.ReloadRequest(), service="Admin", safe=False)

    async def shutdown(self) -> None:
        await self._ask("Shutdown", pb.ShutdownRequest(), service="Admin", safe=False)

    async def audit(self, count: int = 100) -> Sequence[types.AuditEntry]:
        reply = await self._ask("Audit", pb.AuditRequest(count=count), service="Admin")
        return [convert.audit_entry(one) for one in reply.entries]
