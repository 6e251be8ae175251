# SPDX-License-Identifier: Apache-2.0
"""Between a person's terminal (or pipes) and a process: raw mode, size, signals, keys that leave it, all taken back on every way out."""

import asyncio
import contextlib
import os
import select
import signal
import termios
import threading
import tty
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field

import click

from wherry_shim.client.session import Session
from wherry_shim.client.types import Channel, Exit

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
PIECE = select.PIPE_BUF  # what a pipe that can be written to takes at once
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
GIVE_UP = 3  # interrupts, where the process does not end of them


def keys(words: str) -> bytes:
    """ctrl-p,ctrl-q; a letter stands for itself; nothing: no keys."""
    made = bytearray()
    for word in filter(None, words.split(",")):
        if word.lower().startswith("ctrl-") and len(word) == 6:
            code = ord(word[5].upper()) ^ 0x40
            if code < 32:
                made.append(code)
                continue
        elif len(word) == 1 and word.isascii():
            made += word.encode()
            continue
        raise click.BadParameter(f"{word!r} is neither a letter nor ctrl-LETTER", param_hint="--detach-keys")
    return bytes(made)


class Keys:
    """Looks for a sequence in what is typed; its beginning is held back until it is known what it becomes."""

    def __init__(self, sequence: bytes) -> None:
        self.sequence, self.held = sequence, b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is for the process, and whether the sequence is complete."""
        if not self.sequence:
            return data, False
        data, self.held = self.held + data, b""
        found = data.find(self.sequence)
        if found >= 0:
            return data[:found], True
        for length in range(min(len(self.sequence) - 1, len(data)), 0, -1):
            if data.endswith(self.sequence[:length]):
                self.held = data[-length:]
                return data[:-length], False
        return data, False


@contextlib.contextmanager
def raw(wanted: bool) -> Iterator[None]:
    """The terminal as the process's: no echo, no line, no signals made of keys."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)
        yield
    finally:
        with contextlib.suppress(termios.error):  # it has gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def terminal_size() -> tuple[int, int] | None:
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(fd)
            return size.columns, size.lines
    return None


class Writer:
    """Writes to a descriptor that may block, without blocking the loop."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    async def write(self, data: bytes) -> None:
        while data:
            await self._ready()
            data = data[os.write(self.fd, data[:PIECE]) :]

    async def _ready(self) -> None:
        if select.select([], [self.fd], [], 0)[1]:
            return
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self.fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self.fd)


@dataclass
class Conversation:
    session: Session
    stdin: bool
    terminal: bool  # the process has one
    detach: bytes
    forward: bool = True
    interrupts: int = 0
    ended_by: int = 0  # a signal that was for us
    left: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Future[None]] = field(default_factory=set)

    async def talk(self) -> Exit | None:
        """How the process has ended; None: it was left, by the keys or by a signal (`ended_by`)."""
        ours = self.terminal and self.stdin and os.isatty(0)
        if self.terminal and (size := terminal_size()) and self.session.size is None:
            self.session.size = size
        await self.session.open()
        with raw(ours):
            async with self._signals(ours):
                if self.stdin:
                    threading.Thread(target=self._read, args=(asyncio.get_running_loop(), Keys(self.detach if ours else b""), ours), daemon=True).start()
                await self._until_left()
        if self.session.exit is None:
            await self.session.close()
        return self.session.exit

    async def _until_left(self) -> None:
        printing = asyncio.ensure_future(self._print())
        leaving = asyncio.ensure_future(self.left.wait())
        try:
            await asyncio.wait((printing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if printing.done():
                printing.result()
        finally:
            for task in (printing, leaving):
                task.cancel()
            await asyncio.gather(printing, leaving, return_exceptions=True)

    async def _print(self) -> None:
        writers = {Channel.STDOUT: Writer(1), Channel.STDERR: Writer(2)}
        async for output in self.session:
            await writers[output.channel].write(output.data)

    # ---- stdin: a thread, since a file or /dev/null cannot be waited for in a loop

    def _read(self, loop: asyncio.AbstractEventLoop, keys: Keys, ours: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            while True:
                try:
                    data = os.read(0, 32 << 10)
                except OSError:  # the terminal has gone
                    data = b""
                asyncio.run_coroutine_threadsafe(self._typed(data, keys, ours), loop).result()
                if not data or self.left.is_set():
                    return

    async def _typed(self, data: bytes, keys: Keys, ours: bool) -> None:
        passed, leave = keys.feed(data)
        with contextlib.suppress(BrokenPipeError):  # it has ended
            if passed:
                await self.session.write(passed)
            if not data and not ours:
                await self.session.close_stdin()
        if leave or (ours and not data):
            self.left.set()

    # ---- signals

    @contextlib.asynccontextmanager
    async def _signals(self, ours: bool) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        there = list(FORWARDED if self.forward else ENDING)
        for number in there:
            loop.add_signal_handler(number, self._forward if self.forward else self._end, number)
        if self.terminal:
            there.append(signal.SIGWINCH)
            loop.add_signal_handler(signal.SIGWINCH, self._resize)
        try:
            yield
        finally:
            for number in there:
                loop.remove_signal_handler(number)

    def _forward(self, number: int) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
            if self.interrupts >= GIVE_UP:
                self.left.set()
                return
        self._soon(self.session.signal(number))

    def _end(self, number: int) -> None:
        """Not at once: the terminal is given back first."""
        self.ended_by = number
        self.left.set()

    def _resize(self) -> None:
        if size := terminal_size():
            self._soon(self.session.resize(*size))

    def _soon(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def refuse_without_terminal(stdin: bool, terminal: bool) -> None:
    if stdin and terminal and not os.isatty(0):
        raise click.UsageError("-t wants a terminal, and the standard input is none: leave -t out")
