# SPDX-License-Identifier: Apache-2.0
"""The loop's order: who waits first, what is behind his answer then, and timers when they are due. What a monitor is told keeps its place as well."""

import os
import socket
import time

import pytest

from wherry_shim import monitor
from wherry_shim.loop import Loop


@pytest.fixture
def order() -> list[str]:
    return []


def test_what_is_behind_an_answer_comes_before_who_is_next(loop: Loop, order: list[str]) -> None:
    fds = [os.eventfd(1) for _ in range(2)]

    def serve(fd: int) -> None:
        loop.behind(lambda: order.append("behind"))
        os.eventfd_read(fd)
        order.append("answer")

    for fd in fds:
        loop.watch(fd, lambda _, fd=fd: serve(fd))
    loop.step(0)
    assert order == ["answer", "behind"] * 2
    assert not loop.pending
    for fd in fds:
        os.close(fd)


def test_behind_a_timer_and_behind_nothing(loop: Loop, order: list[str]) -> None:
    loop.behind(lambda: order.append("nothing"))
    assert loop.pending
    loop.step(0)
    loop.timer(0, lambda: loop.behind(lambda: order.append("timer")))
    loop.step(0)
    assert order == ["nothing", "timer"]


def test_a_failure_behind_stops_nothing(loop: Loop, order: list[str]) -> None:
    def fail() -> None:
        raise IndexError

    loop.on_error = lambda error: order.append(type(error).__name__)
    loop.behind(fail)
    loop.behind(lambda: order.append("second"))
    loop.step(0)
    assert order == ["IndexError", "second"]


def test_timers(loop: Loop, order: list[str]) -> None:
    loop.timer(0.03, lambda: order.append("late"))
    first = loop.timer(0.001, lambda: (order.append("first"), second.cancel()))
    second = loop.timer(0.002, lambda: order.append("second"))
    gone = loop.timer(0.0005, lambda: order.append("gone"))
    gone.cancel()
    gone.cancel()
    assert len(loop.timers()) == 3
    time.sleep(0.005)  # two are due in one round
    while len(order) < 2:
        loop.step(1)
    first.cancel()
    assert order == ["first", "late"]
    assert not loop.timers()


def test_a_cancelled_timer_wakes_nobody(loop: Loop) -> None:
    loop.timer(0.001, lambda: None).cancel()
    began = time.monotonic()
    loop.step(0.1)
    assert time.monotonic() - began >= 0.09


def kinds(peer: socket.socket) -> list[int]:
    found: list[int] = []
    while True:
        try:
            data = peer.recv(monitor.MAX_MESSAGE)
        except BlockingIOError:
            return found
        if not data:
            return found
        found.append(monitor.Report(data, []).kind)


def test_what_a_monitor_is_told_goes_behind_an_answer_and_before_a_question(loop: Loop) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    one = monitor.Monitor(loop, ours)
    one.tell(monitor.RELEASE, 1)
    assert kinds(theirs) == []
    loop.step(0)
    assert kinds(theirs) == [monitor.RELEASE]
    one.tell(monitor.RELEASE, 2)
    one.ask(monitor.EXEC, 3)
    assert kinds(theirs) == [monitor.RELEASE, monitor.EXEC]
    loop.step(0)
    one.tell(monitor.RELEASE, 4)
    one.close()
    assert kinds(theirs) == [monitor.RELEASE]
    one.tell(monitor.RELEASE, 5)  # to nobody
    loop.step(0)
    theirs.close()
