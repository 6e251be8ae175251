# SPDX-License-Identifier: Apache-2.0
"""The client for programs that block; see transport.py for how it shares everything with aio.

    with Client() as client:
        client.create("web", bundle="/srv/web", start=True)
        for output in client.logs("web", follow=True):
            sys.stdout.buffer.write(output.data)
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Generic, Self, TypeVar

from wherry_shim.client import session, streams, types
from wherry_shim.client.calls import Calls
from wherry_shim.client.convert import Document
from wherry_shim.client.transport import Blocking, Metadata, Place, drive

T = TypeVar("T")
S = TypeVar("S", bound=session.Session)


class Stream(Generic[T]):
    """To be iterated over. A stream that is not read to its end is closed, by `with` or close()."""

    def __init__(self, stream: "streams.Stream[T]") -> None:
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            return drive(self._stream.next())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        drive(self._stream.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Events(Stream[types.Event]):
    @property
    def cursor(self) -> str:
        """Of the last event that was seen: what to go on with, in another process."""
        assert isinstance(self._stream, streams.Events)
        return self._stream.cursor


class Process(Generic[S]):
    """The streams of a process: iterate over it for its output; another thread may write to it meanwhile. `exit` is there at the end."""

    def __init__(self, session: S) -> None:
        self.session = session
        drive(session.open())

    @property
    def pid(self) -> int:
        return self.session.pid

    @property
    def exit(self) -> types.Exit | None:
        return self.session.exit

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> types.Output:
        try:
            return drive(self.session.next())
        except StopAsyncIteration:
            raise StopIteration from None

    def write(self, data: bytes) -> None:
        drive(self.session.write(data))

    def close_stdin(self) -> None:
        drive(self.session.close_stdin())

    def resize(self, width: int, height: int) -> None:
        drive(self.session.resize(width, height))

    def signal(self, number: int) -> None:
        drive(self.session.signal(number))

    def wait(self) -> types.Exit:
        """Until it has ended. What it writes meanwhile is dropped."""
        return drive(self.session.wait())

    def communicate(self, input: bytes = b"") -> types.Completed:
        """Writes the input, closes it, reads all output, which is kept in memory, and waits for the end."""

        def write() -> None:
            try:
                self.write(input)
                self.close_stdin()
            except BrokenPipeError:
                pass  # it did not want to read all

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        kept = {types.Channel.STDOUT: bytearray(), types.Channel.STDERR: bytearray()}
        for output in self:
            kept[output.channel] += output.data
        thread.join()
        return types.Completed(self.wait(), bytes(kept[types.Channel.STDOUT]), bytes(kept[types.Channel.STDERR]))

    def close(self) -> None:
        """Leaves the process to itself."""
        drive(self.session.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Exec(Process[session.Execution]):
    @property
    def exec_id(self) -> str:
        return self.session.exec_id


class Client:
    """Asks the server at `address`, by default at $WHERRY_SHIM_ADDRESS or where one listens by default.

    `timeout`: of each answer. `patience`: how long a server may be away before a call or a stream fails with Unavailable.
    `metadata`: asked for what goes with each call, such as traceparent. Any number of threads may use one client.
    """

    def __init__(
        self, address: str | None = None, *, tls: types.TLS | None = None, timeout: float = 30.0, patience: float = 30.0, metadata: Metadata | None = None
    ) -> None:
        place = Place(address, tls, metadata)
        self.address = place.address
        self._transport = Blocking(place)
        self._calls = Calls(self._transport, timeout, patience)

    def close(self) -> None:
        drive(self._transport.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def create(
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
        return drive(
            self._calls.create(
                id, bundle=bundle, config=config, rootfs=rootfs, stdin=stdin, restart=restart, probe=probe, labels=labels,
                log_bytes=log_bytes, start=start, auto_remove=auto_remove
            )
        )

    def start(self, id: str) -> types.Container:
        return drive(self._calls.start(id))

    def stop(self, id: str, *, grace: timedelta | float | None = None, signal: int = 0) -> types.Container:
        return drive(self._calls.stop(id, grace=grace, signal=signal))

    def kill(self, id: str, signal: int = 0, *, exec_id: str = "", all: bool = False) -> None:
        """A signal, SIGKILL where none is named. A signal that may already have been delivered is sent again only where that is as good as once."""
        drive(self._calls.kill(id, signal, exec_id=exec_id, all=all))

    def pause(self, id: str) -> types.Container:
        return drive(self._calls.pause(id))

    def resume(self, id: str) -> types.Container:
        return drive(self._calls.resume(id))

    def update(
        self,
        id: str,
        *,
        resources: Document | None = None,
        restart: types.RestartPolicy | None = None,
        probe: types.Probe | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> types.Container:
        """What is given is changed. A probe without args, and a label without a value, are taken away."""
        return drive(self._calls.update(id, resources=resources, restart=restart, probe=probe, labels=labels))

    def delete(self, id: str, *, force: bool = False) -> types.Exit | None:
        return drive(self._calls.delete(id, force=force))

    def get(self, id: str) -> types.Container:
        return drive(self._calls.get(id))

    def config(self, id: str) -> bytes:
        """Its config.json; nothing where that cannot be read any more."""
        return drive(self._calls.config(id))

    def list(
        self, *, labels: Mapping[str, str] | None = None, statuses: Iterable[types.Status] = (), foreign: bool = False
    ) -> Sequence[types.Container]:
        """`foreign`: containerd's as well, to be looked at only. A label with an empty value: whatever its value."""
        return drive(self._calls.list(labels=labels, statuses=statuses, foreign=foreign))

    def processes(self, id: str) -> Sequence[types.Process]:
        return drive(self._calls.processes(id))

    def wait(self, id: str, *, exec_id: str = "", run: int = 0, stopped: bool = False, timeout: float | None = None) -> types.Exit:
        """The end of the run that is under way or was the last; with `stopped` the one that no restart follows."""
        return drive(self._calls.wait(id, exec_id=exec_id, run=run, stopped=stopped, timeout=timeout))

    def wait_removed(self, id: str, *, timeout: float | None = None) -> types.Exit | None:
        return drive(self._calls.wait_removed(id, timeout=timeout))

    def wait_healthy(self, id: str, *, timeout: float | None = None) -> types.Container:
        return drive(self._calls.wait_healthy(id, timeout=timeout))

    def subscribe(
        self, cursor: str = "", *, from_oldest: bool = False, ids: Iterable[str] = (), types: Iterable[str] = (), follow: bool = True
    ) -> Events:
        """What happens from now on, or behind the cursor of the last event that was seen.

        `from_oldest`: everything that is kept. `follow=False` ends with the newest.
        """
        events = Events(self._calls.subscribe(cursor, from_oldest=from_oldest, ids=ids, types=types, follow=follow))
        drive(events._stream.open())
        return events

    def logs(
        self,
        id: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        offsets: tuple[int | None, int | None] = (None, None),
        stdout: bool = True,
        stderr: bool = True,
    ) -> Stream[types.Output]:
        """Output that is kept, of all runs; `offsets` of stdout and stderr, where another reader has stopped."""
        return Stream(self._calls.logs(id, follow=follow, tail=tail, offsets=offsets, stdout=stdout, stderr=stderr))

    def stats(self, ids: Iterable[str] = (), *, interval: timedelta | float | None = None, once: bool = False) -> Stream[types.Sample]:
        return Stream(self._calls.stats(ids, interval=interval, once=once))

    def attach(self, id: str, *, offsets: tuple[int | None, int | None] = (None, None), follow: bool = False) -> Process[session.Attach]:
        """The streams of the first process, from now on where no offsets are given; to the end of this run, or (`follow`) of the last one."""
        return Process(self._calls.attach(id, offsets=offsets, follow=follow))

    def run(
        self, id: str, *, bundle: str = "", config: Document | None = None, stdin: bool = False, labels: Mapping[str, str] | None = None
    ) -> Process[session.Attach]:
        """Creates and starts a container, and streams with it from its first byte. It is there until delete()."""
        return Process(drive(self._calls.run(id, bundle=bundle, config=config, stdin=stdin, labels=labels)))

    def exec(self, id: str, what: types.Exec | Sequence[str]) -> Exec:
        """Executes a program in a container, and streams with it."""
        return Exec(self._calls.exec(id, what))

    def exec_resume(self, id: str, exec_id: str) -> Exec:
        """All output of an exec that was detached, or whose client is gone."""
        return Exec(self._calls.exec_resume(id, exec_id))

    def exec_detached(self, id: str, what: types.Exec | Sequence[str]) -> str:
        """Its exec id, for wait(), exec_resume() and delete_exec()."""
        return drive(self._calls.exec_detached(id, what))

    def delete_exec(self, id: str, exec_id: str) -> types.Exit | None:
        return drive(self._calls.delete_exec(id, exec_id))

    def validate(self, *, bundle: str = "", config: Document | None = None) -> Sequence[types.Finding]:
        return drive(self._calls.validate(bundle=bundle, config=config))

    def plan(self, *, bundle: str = "", config: Document | None = None) -> types.Plan:
        return drive(self._calls.plan(bundle=bundle, config=config))

    def version(self) -> types.Version:
        return drive(self._calls.version())

    def features(self) -> str:
        """JSON, as the runtime specification has it."""
        return drive(self._calls.features())

    def reload(self) -> None:
        """The server's program is executed anew; needs the role admin, as do the next two."""
        drive(self._calls.reload())

    def shutdown(self) -> None:
        drive(self._calls.shutdown())

    def audit(self, count: int = 100) -> Sequence[types.AuditEntry]:
        return drive(self._calls.audit(count))
