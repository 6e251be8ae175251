# SPDX-License-Identifier: Apache-2.0
"""fuzz_shim.py [SECONDS [TARGET...]]: the shim's readers of foreign bytes, guided by the lines that an input reaches (60 s each).

    decode   a message of any table: read as the protobuf library reads it, or refused with DecodeError
    frames   a stream cut anywhere gives the same frames; of one that is too long nothing is kept
    server   a connection that says anything costs the server nothing: the next client is answered

What is interesting stays in build/fuzz/corpus/shim-TARGET and is where the next run begins; what breaks something is build/fuzz/found-shim-TARGET.
"""

import _socket
import hashlib
import os
import random
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parents[1]
sys.path.insert(0, str(HERE))

from shim import test_wire  # noqa: E402
from wherry_shim import ttrpc, wire  # noqa: E402
from wherry_shim.loop import Later, Loop  # noqa: E402

WATCHED = ("wherry_shim/wire.py", "wherry_shim/ttrpc.py", "wherry_shim/containerd.py")
GOLDEN = [bytes.fromhex(text) for text in ("0a0374743412022f6218072002520b088092b8c398feffffff01", "0889ae011089011a0b08f1cf88d80610bfbe841c", "7b8401", "0c")]
CALL = ttrpc.frame(1, ttrpc.REQUEST, ttrpc.request("s", "Echo", b"a"), 1)


def decode(data: bytes) -> None:
    if not data:
        return
    name = test_wire.NAMES[data[0] % len(test_wire.NAMES)]
    try:
        wire.decode(name, data[1:])
    except wire.DecodeError as error:
        if "no field has this number" in str(error):  # Go refuses it as well; the library lets a 0 pass in some messages
            return
    test_wire.compare(name, data[1:])


def frames(data: bytes) -> None:
    whole = list(ttrpc.Frames().feed(data))
    reader, parts, at = ttrpc.Frames(), [], 0
    while at < len(data):
        size = 1 + data[at] % 23
        parts += reader.feed(data[at : at + size])
        at += size
    assert parts == whole, (parts, whole)
    assert len(reader._have) <= len(data)


class Echo:
    """A server in this process, that one input after the other is given to."""

    def __init__(self) -> None:
        self.loop, self.errors = Loop(), []
        self.errors: list[BaseException]
        self.loop.on_error = self.errors.append
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        listener.bind(f"\0wherry-fuzz-{os.getpid()}")
        listener.listen(8)
        self.server = ttrpc.Server(self.loop, listener, {"s": self.answer})

    def answer(self, method: str, payload: bytes) -> Later:
        later = Later()
        if method != "Wait":
            later.set(payload)
        return later

    def __call__(self, data: bytes) -> None:
        assert self.say(data) is not None
        answer = self.say(CALL)
        assert list(ttrpc.Frames().feed(answer)) == [(1, ttrpc.RESPONSE, ttrpc.response(b"a"))], answer
        assert not self.errors and not self.server.connections, (self.errors, self.server.connections)

    def say(self, data: bytes) -> bytes:
        ours, theirs = socket.socketpair()
        connection = ttrpc.Connection(self.server, _socket.socket(fileno=theirs.detach()))
        self.server.connections.add(connection)
        with ours:
            ours.setblocking(False)
            ours.send(data)
            ours.shutdown(socket.SHUT_WR)
            for _ in range(8):
                self.loop.step(0)
            got = b""
            try:
                while more := ours.recv(1 << 16):
                    got += more
            except (BlockingIOError, ConnectionResetError):
                pass
        return got


TARGETS: dict[str, tuple[Callable[[], Callable[[bytes], None]], list[bytes]]] = {
    "decode": (lambda: decode, [bytes([index]) + data for index in range(len(test_wire.NAMES)) for data in GOLDEN]),
    "frames": (lambda: frames, [CALL, CALL * 3, ttrpc.HEADER.pack(ttrpc.LARGEST + 1, 1, 1, 0) + CALL]),
    "server": (Echo, [CALL, CALL + ttrpc.frame(3, 1, ttrpc.request("s", "Wait", b"", 0.001)), ttrpc.frame(3, ttrpc.DATA, b"x", 5)]),
}


def mutated(corpus: list[bytes], chance: random.Random) -> bytes:
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at, kind = chance.randrange(len(data) + 1), chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 3:
            del data[at : at + chance.randrange(1, 9)]
        elif kind == 4:
            other = chance.choice(corpus)
            data[at:] = other[chance.randrange(len(other) + 1) :]
        else:
            data[at:at] = data[max(0, at - chance.randrange(1, 17)) : at]
    return bytes(data[:4096])


class Lines:
    """Which line was reached after which, in the watched files."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int, int]] = set()
        self.fresh = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if event != "call" or not frame.f_code.co_filename.endswith(WATCHED):
            return None
        last, code = 0, id(frame.f_code)

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            step = (code, last, frame.f_lineno)
            last = frame.f_lineno
            if step not in self.seen:
                self.seen.add(step)
                self.fresh = True
            return line

        return line


def run(name: str, seconds: float) -> bool:
    make, seeds = TARGETS[name]
    target, lines, chance = make(), Lines(), random.Random()
    place = Path("build/fuzz/corpus") / f"shim-{name}"
    place.mkdir(parents=True, exist_ok=True)
    corpus = [*seeds, *(path.read_bytes() for path in place.iterdir())]
    waiting, until, runs = list(corpus), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = waiting.pop() if waiting else mutated(corpus, chance)
        lines.fresh = False
        sys.settrace(lines)
        try:
            target(data)
        except BaseException:
            sys.settrace(None)
            Path(f"build/fuzz/found-shim-{name}").write_bytes(data)
            traceback.print_exc()
            return False
        sys.settrace(None)
        runs += 1
        if lines.fresh and data not in corpus:
            corpus.append(data)
            (place / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"-- shim-{name}: {runs} inputs, {len(lines.seen)} steps, corpus {len(corpus)}")
    return True


def main() -> int:
    seconds, names = float(sys.argv[1] if len(sys.argv) > 1 else 60), sys.argv[2:] or list(TARGETS)
    failed = [name for name in names if not run(name, seconds)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
