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
    container = types.SimpleNamespace(init=types.SimpleNamespace(pid=init), root="/nowhere", id="none")
    return types.SimpleNamespace(container=container, spec=spec, adopts=adopts)


def plan() -> int:
    return os.memfd_create("plan", os.MFD_CLOEXEC)


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


class Kept(Plans):
    """As a server asks: on what they stand, and then for one."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = Facts()

    def look(self, process: types.SimpleNamespace) -> int:
        self.ground(process.container, self.facts)
        return self.find(process)


def test_a_plan_is_of_one_process_in_one_world(inits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    first, second, third = plan(), plan(), plan()
    assert kept.look(process(inits[0])) == -1
    kept.keep(process(inits[0]), first)
    kept.keep(process(inits[0], adopts=True), second)
    assert kept.look(process(inits[0])) == first
    assert kept.look(process(inits[0], adopts=True)) == second
    assert kept.look(process(inits[0], b"{ }")) == -1
    assert kept.look(process(inits[1])) == -1  # another first process
    assert not is_open(first) and not is_open(second)
    kept.keep(process(inits[1]), third)
    assert kept.look(process(inits[1])) == third
    monkeypatch.setattr(kept.facts, "key", lambda: "another host")
    assert kept.look(process(inits[1])) == -1
    assert not is_open(third)


def test_namespaces_that_init_shares_with_us_are_part_of_it(inits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    kept, links = Kept(), {}
    monkeypatch.setattr(plans, "_namespace", lambda process, name: links.get((process, name), f"{name}:[1]"))
    links[inits[0], "net"] = "net:[2]"
    assert kept.look(process(inits[0])) == -1 and kept.may_keep()
    file = kept.keep(process(inits[0]), plan())
    links[inits[0], "net"] = "net:[3]"  # joined by its path, wherever that leads
    assert kept.look(process(inits[0])) == file and kept.may_keep()
    links[inits[0], "net"] = "net:[1]"  # which is no longer so for one that is compiled now
    assert kept.look(process(inits[0])) == file and not kept.may_keep()
    links[inits[0], "net"], links[inits[0], "mnt"] = "net:[2]", "mnt:[4]"  # not joined
    assert not kept.may_keep()
    assert kept.look(process(inits[0])) == -1 and not is_open(file)


def test_an_init_that_has_gone(inits: list[int]) -> None:
    kept = Kept()
    with pytest.raises(OSError):
        kept.look(process(1 << 22))
    kept.foresee(process(1 << 22).container, kept.facts)
    assert kept.stands_on is None and not kept.may_keep()


def test_few_are_kept_and_none_after_the_end(inits: list[int]) -> None:
    kept = Kept()
    kept.look(process(inits[0]))
    given = [kept.keep(process(inits[0], b"%d" % number), plan()) for number in range(plans.MOST + 1)]
    assert all(map(is_open, given))  # one may be on its way
    kept.trim()
    assert [is_open(one) for one in given] == [False] + [True] * plans.MOST
    kept.drop(process(inits[0], b"1"))
    assert not is_open(given[1])
    kept.close()
    assert not any(map(is_open, given)) and not kept.may_keep()
    kept.foresee(process(inits[0]).container, kept.facts)
    assert kept.stands_on is None


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
