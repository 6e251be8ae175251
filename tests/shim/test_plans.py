# SPDX-License-Identifier: Apache-2.0
"""Plans of execs in memory, and what they hold for; the loop's afterwards, which serves who waits first."""

import os
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.kernel import native
from wherry_shim import plans
from wherry_shim.loop import Loop
from wherry_shim.plans import Facts, Plans


@pytest.fixture
def inits() -> Iterator[list[int]]:
    running = [subprocess.Popen(["sleep", "1000"]) for _ in range(2)]
    yield [one.pid for one in running]
    for one in running:
        one.kill()
        one.wait()


def process(init: int, spec: bytes = b"{}", adopts: bool = False) -> types.SimpleNamespace:
    container = types.SimpleNamespace(init=types.SimpleNamespace(pid=init))
    return types.SimpleNamespace(container=container, spec=spec, adopts=adopts)


def plan() -> int:
    return os.memfd_create("plan", os.MFD_CLOEXEC)


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_a_plan_is_of_one_process_in_one_world(inits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    facts, kept = Facts(), Plans()
    first, second = plan(), plan()
    kept.keep(process(inits[0]), facts, first)
    kept.keep(process(inits[0], adopts=True), facts, second)
    assert kept.find(process(inits[0]), facts) == first
    assert kept.find(process(inits[0], adopts=True), facts) == second
    assert kept.find(process(inits[0], b"{ }"), facts) == -1
    assert kept.find(process(inits[1]), facts) == -1  # another first process
    assert not is_open(first)
    monkeypatch.setattr(facts, "key", lambda: "another host")
    assert kept.find(process(inits[0], adopts=True), facts) == -1
    assert not is_open(second)


def test_namespaces_that_init_shares_with_us_are_part_of_it(inits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    facts, kept, links = Facts(), Plans(), {}
    monkeypatch.setattr(plans, "_namespace", lambda process, name: links.get((process, name), f"{name}:[1]"))
    links[inits[0], "net"] = "net:[2]"
    file = plan()
    kept.keep(process(inits[0]), facts, file)
    links[inits[0], "net"] = "net:[3]"  # joined by its path, wherever that leads
    assert kept.find(process(inits[0]), facts) == file
    links[inits[0], "mnt"] = "mnt:[4]"  # not joined
    assert kept.find(process(inits[0]), facts) == -1


def test_an_init_that_has_gone(inits: list[int]) -> None:
    kept, late = Plans(), plan()
    with pytest.raises(OSError):
        kept.keep(process(1 << 22), Facts(), late)
    assert not is_open(late)


def test_few_are_kept_and_none_after_the_end(inits: list[int]) -> None:
    facts, kept = Facts(), Plans()
    given = [plan() for _ in range(plans.MOST + 1)]
    for number, one in enumerate(given):
        kept.keep(process(inits[0], b"%d" % number), facts, one)
    assert [is_open(one) for one in given] == [False] + [True] * plans.MOST
    kept.close()
    late = plan()
    kept.keep(process(inits[0]), facts, late)
    assert not any(is_open(one) for one in (*given, late))


@pytest.mark.requires("root")
def test_facts_are_read_again_when_something_was_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(native, "facts_key", lambda: looks.append(1) or "key")
    facts = Facts()
    assert [facts.key() for _ in range(3)] == ["key"] * 3 and len(looks) == 1
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        facts.key()
        facts.key()
        assert len(looks) == 2
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    facts.key()
    assert len(looks) == 3
    whole = facts.whole()
    assert facts.whole() is whole and whole.cgroup_mode
    monkeypatch.setattr(native, "facts_key", lambda: "another")
    assert facts.look() == facts.key() == facts.whole().key == "another"
    assert facts.whole() is not whole


def test_facts_of_the_zygote_are_ours_where_their_key_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Facts, "ours", None)
    Facts.gather()
    assert Facts.ours is not None and Facts().whole() is Facts.ours
    monkeypatch.setattr(native, "facts_key", lambda: "another")
    assert Facts().whole() is not Facts.ours


def test_afterwards_comes_when_nobody_waits(request: pytest.FixtureRequest) -> None:
    loop, order = Loop(), []
    request.addfinalizer(loop.close)
    reading, writing = os.pipe()
    left = [3]

    def serve(_: int) -> None:
        order.append("served")
        left[0] -= 1
        if not left[0]:
            os.read(reading, 1)

    loop.watch(reading, serve)
    os.write(writing, b"x")
    loop.afterwards(lambda: order.append("afterwards"))
    while len(order) < 4:
        loop.step(1)
    assert order == ["served"] * 3 + ["afterwards"]
    os.close(writing)  # its end is told in each round, for ever
    left[0] = -1
    order.clear()
    loop.afterwards(lambda: order.append("afterwards"))
    while "afterwards" not in order:
        loop.step(1)
    assert 2 < len(order) < 20
    loop.unwatch(reading)
    os.close(reading)


def test_afterwards_from_outside_is_not_waited_for(request: pytest.FixtureRequest) -> None:
    loop, order = Loop(), []
    request.addfinalizer(loop.close)
    loop.afterwards(lambda: loop.afterwards(lambda: order.append("second")))
    for _ in range(2):
        loop.step(5)
    assert order == ["second"]
