# SPDX-License-Identifier: Apache-2.0
"""Events on their way to containerd: in their order, each until it has been taken, over any restart of containerd.

One coroutine sends, over one connection that is made anew whenever it breaks. Nothing in a call of the service waits for it. While containerd is
away the queue grows to its bound; then what a client can do without goes first, an exit or an OOM never. An event that is sent and not
answered is sent again: containerd may see one twice, never not at all.
"""

import _socket
import posix
import time
from _collections import deque  # type: ignore[import-not-found]

from wherry_shim import ttrpc, wire
from wherry_shim.containerd import table_of
from wherry_shim.errors import CANCELED, DEADLINE_EXCEEDED, UNAVAILABLE, UNKNOWN, ShimError
from wherry_shim.loop import EPOLLIN, EPOLLOUT, Later, Loop
from wherry_shim.service import EVENTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE, METHOD = "containerd.services.events.ttrpc.v1.Events", "Forward"
BOUND = 2048
PATIENCE = 5.0  # seconds for one answer
PAUSES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
TRIES = 5  # of an event that containerd answers with an error which may pass
PRECIOUS = ("/tasks/exit", "/tasks/oom")
_TABLES = {topic: table_of(name) for topic, name in EVENTS.items()}
_PASSING = (CANCELED, UNKNOWN, DEADLINE_EXCEEDED, UNAVAILABLE)


def packed(topic: str, event: "wire.Values") -> "wire.Values":
    """An Any of the fields that the service gives."""
    return {"type_url": EVENTS[topic], "value": wire.encode(_TABLES[topic], event)}


def envelope(namespace: str, topic: str, event: "wire.Values", at: int) -> bytes:
    """A ForwardRequest. at: nanoseconds of 1970."""
    stamp = {"seconds": at // 1_000_000_000, "nanos": at % 1_000_000_000}
    fields = {"timestamp": stamp, "namespace": namespace, "topic": topic, "event": packed(topic, event)}
    return wire.encode("forward.ForwardRequest", {"envelope": fields})


class Publisher:
    """put() queues an event as the service gives it; the rest happens in the loop, once it has served who waits. address: containerd's ttrpc socket,
    "" = there is none and events are dropped."""

    def __init__(self, loop: Loop, address: str, namespace: str) -> None:
        self.loop, self.address, self.namespace = loop, address, namespace
        self.log: "Callable[[str, str], None]" = lambda level, text: None
        self.dropped = 0
        self._queue: "deque[tuple[str, wire.Values, int]]" = deque()
        self.sending = False
        self._answer: Later | None = None  # to what is on its way
        self._unsent, self._events = b"", EPOLLIN
        # The request of a Forward without its payload: before that, and behind it.
        self._before = wire.encode("ttrpc.Request", {"service": SERVICE, "method": METHOD})
        metadata = [{"key": "containerd-namespace-ttrpc", "value": namespace}]
        self._after = wire.encode("ttrpc.Request", {"timeout_nano": int(PATIENCE * 1e9), "metadata": metadata})
        self._pause: Later | None = None
        self._peer: "_socket.socket | None" = None
        self._stream = 1
        self._frames = ttrpc.Frames()
        self.waiters: list[Later] = []

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, topic: str, event: "wire.Values") -> None:
        if not self.address:
            return
        if len(self._queue) >= BOUND:
            self._make_room()
        self._queue.append((topic, event, time.time_ns()))
        if not self.sending:
            self.sending = True
            self.loop.afterwards(self._begin)

    def _begin(self) -> None:
        self.loop.start(self._send_all())

    def _make_room(self) -> None:
        """The first one may be on its way."""
        for place in range(1, len(self._queue)):
            if self._queue[place][0] not in PRECIOUS:
                del self._queue[place]
                self.dropped += 1
                return

    def hurry(self) -> None:
        """containerd is back: no more waiting."""
        if self._pause is not None:
            self._pause.set()

    def drained(self, seconds: float) -> Later:
        """There when the queue is empty, or so many seconds have gone."""
        return _drained(self, seconds)

    async def _send_all(self) -> None:
        failures = refusals = 0
        while self._queue:
            topic, event, at = self._queue[0]
            try:
                await self._forward(envelope(self.namespace, topic, event, at))
            except ShimError as error:
                refusals += 1
                if error.code in _PASSING and refusals < TRIES:
                    await self._wait(PAUSES[min(refusals, len(PAUSES) - 1)])
                    continue
                self.log("warning", f"containerd refused {topic}: {error}")
            except (OSError, wire.DecodeError):
                self.close()
                await self._wait(PAUSES[min(failures, len(PAUSES) - 1)])
                failures += 1
                continue
            failures = refusals = 0
            self._queue.popleft()
            if self._queue:
                turn = Later()
                self.loop.afterwards(turn.set)
                await turn
        self.sending = False
        _tell(self)

    async def _wait(self, seconds: float) -> None:
        self._pause = pause = Later()
        timer = self.loop.timer(seconds, pause.set)
        await pause
        timer.cancel()
        self._pause = None

    async def _forward(self, body: bytes) -> None:
        """One event, on the connection that is there; where that one has died meanwhile, on a new one."""
        reused = self._peer is not None
        try:
            await self._exchange(body)
        except OSError:
            if not reused:
                raise
            self.close()
            await self._exchange(body)

    async def _exchange(self, body: bytes) -> None:
        if self._peer is None:
            self._peer = ttrpc.connect(self.address, 0)  # a unix socket: at once, or not now
            self._stream, self._frames, self._events = 1, ttrpc.Frames(), EPOLLIN
            self.loop.watch(self._peer.fileno(), self._stirred)
        self._answer = answer = Later()
        timer = self.loop.timer(PATIENCE, lambda: answer.fail(TimeoutError("containerd does not answer")))
        request = self._before + wire.encode("ttrpc.Request", {"payload": body}) + self._after
        self._unsent = ttrpc.frame(self._stream, ttrpc.REQUEST, request, 1)
        try:
            self._flush()
            ttrpc.payload_of(await answer)
        finally:
            timer.cancel()
            self._answer = None
            self._stream += 2

    def _flush(self) -> None:
        """What the kernel takes now, the rest when it takes more."""
        assert self._peer is not None
        try:
            self._unsent = self._unsent[self._peer.send(self._unsent) :]
        except BlockingIOError:
            pass
        wanted = EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN
        if wanted != self._events:
            self._events = wanted
            self.loop.change(self._peer.fileno(), wanted)

    def _stirred(self, events: int) -> None:
        """Its connection. Where nobody has asked anything that is its end."""
        answer = self._answer
        if answer is None:
            self.close()
            return
        try:
            if events & EPOLLOUT:
                self._flush()
            if events & ~EPOLLOUT:
                self._read(answer)
        except OSError as error:
            answer.fail(error)

    def _read(self, answer: Later) -> None:
        assert self._peer is not None
        data = self._peer.recv(ttrpc.CHUNK)
        if not data:
            raise ConnectionResetError("ttrpc: closed")
        for number, kind, body in self._frames.feed(data):
            if number == self._stream and kind == ttrpc.RESPONSE and body is not None:
                answer.set(body)

    def fileno(self) -> int:
        """Of its connection, -1 where there is none; a server that sleeps does without."""
        return -1 if self._peer is None else self._peer.fileno()

    def close(self) -> None:
        if self._peer is not None:
            self.loop.unwatch(self._peer.fileno())
            self._peer.close()
            self._peer = None


def _drained(publisher: "Publisher | Command", seconds: float) -> Later:
    later = Later()
    if not publisher.sending:
        later.set()
        return later
    publisher.waiters.append(later)
    timer = publisher.loop.timer(seconds, later.set)
    later.then(lambda _: timer.cancel())
    return later


def _tell(publisher: "Publisher | Command") -> None:
    waiters, publisher.waiters = publisher.waiters, []
    for later in waiters:
        later.set()


class Command:
    """For engines without such a socket: a command of theirs for each event. It may not know how; then nothing is said, nothing is kept."""

    def __init__(self, loop: Loop, binary: str, address: str, namespace: str) -> None:
        self.loop, self.namespace = loop, namespace
        self._argv = [binary, "--address", address, "publish", "--namespace", namespace, "--topic"]
        self._queue: "deque[tuple[str, bytes]]" = deque(maxlen=BOUND)
        self.sending = False
        self.waiters: list[Later] = []

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, topic: str, event: "wire.Values") -> None:
        self._queue.append((topic, wire.encode("any.Any", packed(topic, event))))
        if not self.sending:
            self.sending = True
            self.loop.start(self._send_all())

    async def _send_all(self) -> None:
        while self._queue:
            await self._publish(*self._queue.popleft())
        self.sending = False
        _tell(self)

    def _publish(self, topic: str, body: bytes) -> Later:
        return self.loop.in_thread(lambda: _publish([*self._argv, topic], body))

    def hurry(self) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def drained(self, seconds: float) -> Later:
        return _drained(self, seconds)

    def close(self) -> None:
        pass


def _publish(argv: "list[str]", body: bytes) -> None:
    reading, writing = posix.pipe()
    try:
        posix.write(writing, body)  # less than what a pipe holds
        posix.close(writing)
        writing = -1
        quiet = [(posix.POSIX_SPAWN_OPEN, fd, "/dev/null", posix.O_RDWR, 0) for fd in (1, 2)]
        pid = posix.posix_spawn(argv[0], argv, dict(posix.environ), file_actions=[(posix.POSIX_SPAWN_DUP2, reading, 0), *quiet])
        for _ in range(100):
            if posix.waitpid(pid, posix.WNOHANG)[0]:
                return
            time.sleep(0.05)
        posix.kill(pid, 9)
        posix.waitpid(pid, 0)
    except OSError:
        pass
    finally:
        for fd in (reading, writing):
            if fd >= 0:
                posix.close(fd)
