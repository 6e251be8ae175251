# SPDX-License-Identifier: Apache-2.0
"""The transport, with a service that is made for it: frames, stream ids, deadlines, clients that vanish, whatever else comes down a socket."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry_shim import ttrpc, wire
from wherry_shim.errors import NOT_FOUND, ShimError
from wherry_shim.loop import Later, Loop, Task

EMPTY = "000000000000000102 00".replace(" ", "")


class Example:
    """Echo answers, Wait waits for a Release, Slow takes half a second in a thread, Fail fails, Crash crashes, Big is too big."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.released, self.cancelled, self.finished = loop, Later(), 0, 0

    def __call__(self, method: str, payload: bytes) -> Later:
        return self.loop.start(getattr(self, method.lower())(payload))

    async def echo(self, payload: bytes) -> bytes:
        return payload

    async def wait(self, payload: bytes) -> bytes:
        try:
            await self.released
        except BaseException:
            self.cancelled += 1
            raise
        return b"released"

    async def release(self, payload: bytes) -> bytes:
        self.released.set()
        return b""

    async def slow(self, payload: bytes) -> bytes:
        await self.loop.in_thread(lambda: time.sleep(0.5))
        self.finished += 1
        return b"slow"

    async def fail(self, payload: bytes) -> bytes:
        raise ShimError(NOT_FOUND, "container not created")

    async def crash(self, payload: bytes) -> bytes:
        raise ZeroDivisionError("a bug")

    async def big(self, payload: bytes) -> bytes:
        return bytes(ttrpc.LARGEST + 1)


class Running:
    def __init__(self, path: str) -> None:
        self.path, self.loop, self.errors = path, Loop(), []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(16)
        self.service = Example(self.loop)
        self.server = ttrpc.Server(self.loop, listener, {"s": self.service})
        self.loop.on_error = self.errors.append
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def stop(self) -> None:
        def end() -> None:
            self.server.close()
            self.loop.stop()

        self.loop.soon(end)
        self.thread.join(10)
        assert not self.errors


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(str(tmp_path / "s"))
    yield one
    one.stop()
    one.loop.close()


@pytest.fixture
def client(running: Running) -> Iterator[ttrpc.Client]:
    with ttrpc.Client(running.path) as one:
        yield one


def raw(path: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(10)
    peer.connect(path)
    return peer


def read_frame(peer: socket.socket) -> tuple[int, int, bytes]:
    length, stream, kind, _ = struct.unpack(">IIBB", exactly(peer, 10))
    return stream, kind, exactly(peer, length)


def exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        assert more, "the server closed the connection"
        data += more
    return data


def status(data: bytes) -> int:
    answer = wire.decode("ttrpc.Response", data)["status"]
    return answer["code"] if answer else 0


def code(client: ttrpc.Client, *call: object, **more: object) -> int:
    with pytest.raises(ShimError) as caught:
        client.call(*call, **more)
    return caught.value.code


def test_echo(client: ttrpc.Client) -> None:
    for size in (0, 1, 127, 128, 70000, ttrpc.LARGEST - 100):
        assert client.call("s", "Echo", b"x" * size) == b"x" * size


def test_golden_frames() -> None:
    data = ttrpc.request("containerd.task.v2.Task", "Connect", b"\x0a\x03tt4")
    assert ttrpc.frame(3, ttrpc.REQUEST, data, 0).hex() == "00000029000000030100" "0a17636f6e7461696e6572642e7461736b2e76322e5461736b1207436f6e6e6563741a050a03747434"
    data = ttrpc.request("containerd.task.v2.Task", "Connect", b"\x0a\x03t2 ", None, [("containerd-namespace-ttrpc", "default")])
    assert data.hex().endswith("2a250a1a636f6e7461696e6572642d6e616d6573706163652d7474727063120764656661756c74")
    assert ttrpc.request("a", "State", b"\x0a\x03tt4", 2).hex() == "0a0161" "120553746174651a050a03747434" "2080a8d6b907"
    assert ttrpc.frame(3, ttrpc.RESPONSE, ttrpc.response(bytes.fromhex("08cfad011089ae01"))).hex() == "0000000a000000030200" "120808cfad011089ae01"
    assert ttrpc.frame(1, ttrpc.RESPONSE, ttrpc.response(b"")).hex() == "00000000000000010200"
    assert ttrpc.failure(5, "container not created: not found").hex() == "0a2408051220636f6e7461696e6572206e6f7420637265617465643a206e6f7420666f756e64"


def test_an_empty_reply_is_a_header_alone(running: Running) -> None:
    peer = raw(running.path)
    peer.sendall(ttrpc.frame(1, ttrpc.REQUEST, ttrpc.request("s", "Release", b"")))
    assert peer.recv(100).hex() == "00000000000000010200"
    peer.close()


def test_codes(client: ttrpc.Client) -> None:
    assert code(client, "s", "Fail", b"") == 5
    assert code(client, "s", "Crash", b"") == 2
    assert code(client, "s", "Big", b"") == 8
    assert code(client, "nobody", "Echo", b"") == 12
    assert client.call("s", "Echo", b"still there") == b"still there"


def test_the_text_of_an_error(client: ttrpc.Client) -> None:
    with pytest.raises(ShimError, match=r"^container not created: not found$"):
        client.call("s", "Fail", b"")


def test_calls_run_side_by_side(running: Running, client: ttrpc.Client) -> None:
    waiting = [client.send("s", "Wait", b"") for _ in range(3)]
    slow = client.send("s", "Slow", b"")
    assert client.call("s", "Echo", b"at once") == b"at once"
    assert running.service.finished == 0
    client.call("s", "Release", b"")
    assert [client.receive(stream, 10) for stream in waiting] == [b"released"] * 3
    assert client.receive(slow, 10) == b"slow"


def test_a_deadline(running: Running, client: ttrpc.Client) -> None:
    stream = client.send("s", "Wait", b"", timeout=0.1)
    with pytest.raises(ShimError, match="deadline exceeded") as caught:
        client.receive(stream, 10)
    assert caught.value.code == 4
    assert client.call("s", "Echo", b"on") == b"on"
    assert running.service.cancelled == 1


def test_a_client_that_vanishes(running: Running) -> None:
    """What waits ends with it; what does something is done all the same."""
    client = ttrpc.Client(running.path)
    client.send("s", "Wait", b"")
    client.send("s", "Echo", b"")
    client.close()
    deadline = time.monotonic() + 10
    while running.service.cancelled < 1 or running.server.connections:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("stream", "expected"), [(2, 3), (0, 3)])
def test_stream_ids_that_a_client_must_not_use(running: Running, stream: int, expected: int) -> None:
    peer = raw(running.path)
    peer.sendall(ttrpc.frame(stream, ttrpc.REQUEST, ttrpc.request("s", "Echo", b"")))
    number, kind, data = read_frame(peer)
    assert (number, kind, status(data)) == (stream, ttrpc.RESPONSE, expected)
    peer.close()


def test_a_stream_id_is_used_once(running: Running) -> None:
    peer = raw(running.path)
    for stream, expected in ((5, 0), (5, 3), (3, 3), (7, 0)):
        peer.sendall(ttrpc.frame(stream, ttrpc.REQUEST, ttrpc.request("s", "Echo", b"")))
        number, _, data = read_frame(peer)
        assert (number, status(data)) == (stream, expected)
    peer.close()


def test_data_for_a_stream_that_is_not_there(running: Running) -> None:
    peer = raw(running.path)
    peer.sendall(ttrpc.frame(1, ttrpc.DATA, b"x"))
    assert status(read_frame(peer)[2]) == 3
    peer.close()


def test_other_frames_are_dropped(running: Running) -> None:
    peer = raw(running.path)
    peer.sendall(ttrpc.frame(1, ttrpc.RESPONSE, b"x") + ttrpc.frame(1, 77, b"x") + ttrpc.frame(1, ttrpc.REQUEST, ttrpc.request("s", "Echo", b"a")))
    assert read_frame(peer) == (1, ttrpc.RESPONSE, ttrpc.response(b"a"))
    peer.close()


def test_a_frame_that_is_too_long(running: Running) -> None:
    peer = raw(running.path)
    size = ttrpc.LARGEST + 1
    peer.sendall(struct.pack(">IIBB", size, 1, ttrpc.REQUEST, 0))
    for _ in range(size // 65536 + 1):
        peer.sendall(bytes(min(65536, size)))
        size -= min(65536, size)
    number, _, data = read_frame(peer)
    assert (number, status(data)) == (1, 8)
    peer.sendall(ttrpc.frame(3, ttrpc.REQUEST, ttrpc.request("s", "Echo", b"a")))
    assert read_frame(peer) == (3, ttrpc.RESPONSE, ttrpc.response(b"a"))
    peer.close()


def test_a_request_that_is_none(running: Running) -> None:
    peer = raw(running.path)
    peer.sendall(ttrpc.frame(1, ttrpc.REQUEST, b"\xff\xff"))
    assert status(read_frame(peer)[2]) == 3
    peer.close()


def test_a_frame_in_single_bytes(running: Running) -> None:
    peer = raw(running.path)
    for byte in ttrpc.frame(1, ttrpc.REQUEST, ttrpc.request("s", "Echo", b"a")):
        peer.sendall(bytes([byte]))
    assert read_frame(peer) == (1, ttrpc.RESPONSE, ttrpc.response(b"a"))
    peer.close()


def test_a_client_that_does_not_read_blocks_nobody(running: Running, client: ttrpc.Client) -> None:
    greedy = raw(running.path)
    greedy.settimeout(0.2)
    sent = 0
    with contextlib.suppress(TimeoutError):
        for number in range(64):
            greedy.sendall(ttrpc.frame(2 * number + 1, ttrpc.REQUEST, ttrpc.request("s", "Echo", bytes(1 << 20))))
            sent += 1
    assert 8 <= sent < 64  # from here its requests wait, and our memory does not grow
    assert client.call("s", "Echo", b"a") == b"a"
    greedy.settimeout(20)
    for number in range(sent):
        stream, _, data = read_frame(greedy)
        assert (stream, len(data)) == (2 * number + 1, len(ttrpc.response(bytes(1 << 20))))
    greedy.close()


def test_a_client_that_does_not_read_and_goes(running: Running, client: ttrpc.Client) -> None:
    greedy = raw(running.path)
    greedy.sendall(ttrpc.frame(1, ttrpc.REQUEST, ttrpc.request("s", "Echo", bytes(3 << 20))))
    greedy.close()
    assert client.call("s", "Echo", b"a") == b"a"


def test_too_many_calls_at_one_time(running: Running, client: ttrpc.Client) -> None:
    for _ in range(ttrpc.MOST_STREAMS):
        client.send("s", "Wait", b"")
    assert code(client, "s", "Wait", b"") == 8


def test_another_user_is_refused(running: Running) -> None:
    if os.getuid():
        pytest.skip("SKIPPED, LOUDLY: only root can be somebody else")
    os.chmod(running.path, 0o777)
    for directory in Path(running.path).parents:
        if not directory.stat().st_mode & 0o001:
            os.chmod(directory, directory.stat().st_mode & 0o777 | 0o011)
    script = f"import os, socket; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect({running.path!r}); s.settimeout(10); print(s.recv(1))"
    import subprocess

    assert subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True, timeout=30).stdout == "b''\n"


NOISE = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(ttrpc.frame, st.integers(0, 9), st.integers(0, 4), st.binary(max_size=20), st.integers(0, 255)),
        st.builds(lambda stream, data: ttrpc.frame(stream, 1, ttrpc.request("s", "Echo", data)), st.integers(0, 9), st.binary(max_size=9)),
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(noise=NOISE)
def test_noise_harms_nobody(running: Running, client: ttrpc.Client, noise: list[bytes]) -> None:
    peer = raw(running.path)
    peer.sendall(b"".join(noise))
    peer.close()
    assert client.call("s", "Echo", b"a") == b"a"
    assert running.thread.is_alive() and not running.errors


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.binary(max_size=30)), max_size=6), st.lists(st.integers(1, 40), max_size=20))
def test_frames_do_not_depend_on_how_they_come(frames: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(ttrpc.frame(*one) for one in frames)
    reader, got = ttrpc.Frames(), []
    for cut in [*cuts, len(stream)]:
        got.extend(reader.feed(stream[:cut]))
        stream = stream[cut:]
    assert got == frames


def test_what_is_loaded(loaded_modules) -> None:
    free = {"_socket", "select", "_struct", "errno", "posix", "time"}
    ours = {name for name in loaded_modules("import wherry_shim.ttrpc") if not name.startswith("wherry_shim")}
    assert ours <= free


def test_a_task_is_what_a_handler_returns() -> None:
    assert issubclass(Task, Later)
