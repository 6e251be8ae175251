# SPDX-License-Identifier: Apache-2.0
"""Plans of execs that containers of one kind share: each has its own process, cgroups and texts in it, and what is of no kind does not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.runtime import Container, Runtime, wait_until
from wherry.container import exec_cache, execute, lifecycle
from wherry.container.execute import ExecOptions
from wherry.kernel import native
from wherry.kernel.kinds import NAMESPACES, Foreseen, Kind
from wherry.plan.describe import Plan

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours, pytest.mark.v2, pytest.mark.one_way]

Make = Callable[[], Bundle]
LOOK = "hostname; echo $OWN; /bin/busybox cmp /proc/self/cgroup /proc/1/cgroup && readlink /proc/self/ns/uts"


def one_of_a_kind(make_bundle: Make, name: str) -> Bundle:
    bundle = make_bundle()
    bundle.config["hostname"] = name
    bundle.process["env"].append(f"OWN={name}")
    bundle.config["annotations"] = {"io.kubernetes.cri.container-name": name}
    return bundle


def process(**more: Any) -> bytes:
    return json.dumps({"args": ["sh", "-c", LOOK], "cwd": "/", "env": ["PATH=/bin", "OWN=file"], "user": {"uid": 0, "gid": 0}, **more}).encode()


def options(container: Container, text: bytes = b"", **more: Any) -> ExecOptions:
    result = ExecOptions(str(container.runtime.root), container.id)
    result.__dict__.update({"process": text or process(), "attached": True, **more})
    return result


def compiled(asked: ExecOptions) -> bytes:
    planned = execute.prepare(asked)
    os.close(planned.pidfd)
    return planned.plan


def keep(asked: ExecOptions) -> None:
    planned = execute.prepare(asked)
    os.close(planned.pidfd)
    execute.keep(asked, planned)


def leave(container: Container, *args: str) -> None:
    """What a server of the shim leaves at once, and who waits for its command when it comes again."""
    keep(options(container, process=None, args=list(args)))


def known(asked: ExecOptions) -> bytes | None:
    """As the front looks for it. Who has known the container before finds the same, where that has none of its own."""
    text, alone = exec_cache.asked(asked) or b"", os.path.exists(f"{asked.root}/{asked.id}/@plans")
    with lifecycle.opened(asked.root, asked.id) as container:
        plan, pid = native.exec_plan(container, asked.root, asked.process is not None, text), container.pid
        try:
            foreseen = Foreseen(container, native.facts_key())
        except OSError:  # of no kind
            assert plan is None or alone
            return plan
    assert foreseen.others == [name for name in NAMESPACES if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")]
    assert asked.process is None or alone or [foreseen.plan(asked.root, text) for _ in range(2)] == [plan, plan]
    return plan


def own(container: Container) -> str:
    """What LOOK prints in it, where that is in the cgroups of its init, behind its name and the variable."""
    return os.readlink(f"/proc/{container.pid}/ns/uts") + "\n"


def test_without_python_in_a_new_container(alone: Runtime, runtime: Runtime, make_bundle: Make) -> None:
    first, second = (runtime.start_new(one_of_a_kind(make_bundle, name)) for name in ("first", "second"))
    assert runtime("exec", first.id, "sh", "-c", LOOK).out == "first\nfirst\n" + own(first)
    assert "wherry-python" in alone("exec", second.id, "sh", "-c", LOOK, check=False).err  # the first of a kind may be the only one
    third = runtime.start_new(one_of_a_kind(make_bundle, "third"))
    assert runtime("exec", third.id, "sh", "-c", LOOK).out == "third\nthird\n" + own(third)
    assert not (runtime.root / third.id / "@plans").exists()
    assert alone("exec", second.id, "sh", "-c", LOOK).out == "second\nsecond\n" + own(second)
    assert alone("exec", first.id, "sh", "-c", "echo other").out == "other\n"
    file = runtime.root / "process.json"
    file.write_bytes(process())
    keep(options(second))
    assert alone("exec", "--process", file, first.id).out == "first\nfile\n" + own(first)
    file.unlink()


def test_two_of_a_kind_by_turns_and_one_that_comes_again(alone: Runtime, runtime: Runtime, make_bundle: Make) -> None:
    bundles = [one_of_a_kind(make_bundle, name) for name in ("first", "second")]
    first, second = (runtime.start_new(bundle) for bundle in bundles)
    leave(first, "sh", "-c", LOOK)
    for _ in range(3):
        for name, container in (("first", first), ("second", second)):
            assert alone("exec", container.id, "sh", "-c", LOOK).out == f"{name}\n{name}\n" + own(container)
    before = first.pid
    first.kill("KILL")
    first.wait()
    assert "wherry-python" in alone("exec", first.id, "sh", "-c", LOOK, check=False).err  # it has stopped
    first.delete()
    assert alone("exec", second.id, "sh", "-c", LOOK).out == "second\nsecond\n" + own(second)
    assert alone("exec", first.id, "true", check=False).code != 0
    again = runtime.start_new(bundles[0], id=first.id)
    assert again.pid != before
    for name, container in (("first", again), ("second", second)) * 2:
        assert alone("exec", container.id, "sh", "-c", LOOK).out == f"{name}\n{name}\n" + own(container)


def test_a_plan_is_of_this_process(runtime: Runtime, make_bundle: Make) -> None:
    """Its cgroups are those of the container that it was filled for; where that has gone there is none."""
    containers = [runtime.start_new(one_of_a_kind(make_bundle, name)) for name in ("first", "second")]
    keep(options(containers[0]))
    plans = [known(options(container)) for container in containers]
    for container, other, plan in zip(containers, reversed(containers), plans, strict=True):
        assert plan is not None
        text = json.dumps(Plan(plan).document())
        assert f"/proc/{container.pid}/" not in text and f"/proc/{other.pid}/" not in text  # it is named by a pidfd alone
        assert container.bundle.linux["cgroupsPath"] in text and other.bundle.linux["cgroupsPath"] not in text
    containers[0].kill("KILL")
    containers[0].wait()
    with lifecycle.opened(str(runtime.root), containers[0].id) as gone, pytest.raises(OSError, match="not supported"):
        Kind(gone, b"{}", process(), True, native.facts_key())
    assert known(options(containers[0])) is None


def shared_pid(bundle: Bundle, _: str) -> None:
    bundle.without_namespace("pid")


def few_namespaces(bundle: Bundle, _: str) -> None:
    for kind in ("network", "ipc", "uts"):
        bundle.without_namespace(kind)
    del bundle.config["hostname"]


def more_namespaces(bundle: Bundle, _: str) -> None:
    bundle.namespace("cgroup").namespace("time")


def joined(bundle: Bundle, path: str) -> None:
    for kind, file in (("network", "net"), ("ipc", "ipc"), ("uts", "uts")):
        bundle.namespace(kind, f"{path}/{file}")
    del bundle.config["hostname"]


def restricted(bundle: Bundle, _: str) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    bundle.process["oomScoreAdj"] = 100
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}]}


@pytest.mark.parametrize("change", [None, shared_pid, few_namespaces, more_namespaces, joined, restricted], ids=lambda change: change.__name__ if change else "usual")
def test_what_is_filled_in_is_what_would_be_compiled(runtime: Runtime, make_bundle: Make, change: "Callable[[Bundle, str], None] | None") -> None:
    lends = runtime.start_new(make_bundle()) if change is joined else None
    containers = []
    for name in ("first", "second"):
        bundle = one_of_a_kind(make_bundle, name)
        if change:
            change(bundle, f"/proc/{lends.pid}/ns" if lends else "")
        containers.append(runtime.start_new(bundle))
    words = {"process": None, "args": ["sh", "-c", LOOK], "env": ["A=b"], "cwd": "/tmp", "uid": 5}
    for more in ({}, {"text": process(terminal=True)}, {"adopts": True}, words, {"text": process(noNewPrivileges=False, capabilities={"bounding": ["CAP_KILL"]})}):
        keep(options(containers[0], **more))
        for container in containers:
            asked = options(container, **more)
            plan = known(asked)
            assert plan is not None, more
            assert Plan(plan).document() == Plan(compiled(asked)).document()
        assert known(options(containers[1], text=process(umask=7))) is None


def user_namespace(bundle: Bundle) -> None:
    bundle.user_namespace()


def without_a_namespace(bundle: Bundle) -> None:
    bundle.without_namespace("ipc")


def capabilities(bundle: Bundle) -> None:
    bundle.process["capabilities"]["bounding"] = ["CAP_KILL"]


def setting(bundle: Bundle) -> None:
    bundle.config["annotations"]["org.wherry.anything"] = "first"


def path(bundle: Bundle) -> None:
    bundle.process["env"][0] = "PATH=/bin"


@pytest.mark.parametrize("change", [user_namespace, without_a_namespace, capabilities, setting, path], ids=lambda change: change.__name__)
def test_another_kind(runtime: Runtime, make_bundle: Make, change: Callable[[Bundle], None]) -> None:
    usual, other = one_of_a_kind(make_bundle, "first"), one_of_a_kind(make_bundle, "first")
    change(other)
    keep(options(runtime.start_new(usual)))
    container = runtime.start_new(other)
    assert known(options(container)) is None
    keep(options(container))
    assert known(options(container)) is not None
    assert (runtime.root / container.id / "@plans").exists() == (change is user_namespace)


def test_options_of_the_create_make_another_kind(runtime: Runtime, make_bundle: Make) -> None:
    keep(options(runtime.start_new(one_of_a_kind(make_bundle, "first"))))
    assert known(options(runtime.start_new(one_of_a_kind(make_bundle, "second"), "--no-new-keyring"))) is None
    assert known(options(runtime.start_new(one_of_a_kind(make_bundle, "third")))) is not None


def test_an_init_that_has_left_its_namespaces(runtime: Runtime, make_bundle: Make) -> None:
    """It lives where it lives: what it had in common with us is not in common any more."""
    first, second = one_of_a_kind(make_bundle, "first"), one_of_a_kind(make_bundle, "second")
    for bundle in (first, second):
        bundle.without_namespace("ipc")
        for kind in ("bounding", "effective", "permitted"):
            bundle.process["capabilities"][kind] = [*bundle.process["capabilities"][kind], "CAP_SYS_ADMIN"]
    second.shell("exec /bin/busybox unshare -i sleep 1000")
    first.shell("exec sleep 1000")
    keep(options(runtime.start_new(first)))
    leaves = runtime.start_new(second)
    wait_until(lambda: os.readlink(f"/proc/{leaves.pid}/ns/ipc") != os.readlink("/proc/self/ns/ipc"), "its own namespace")
    assert known(options(leaves)) is None


@pytest.mark.parametrize("text", [native.BLANK.decode() + "00}", "@\\u007bwherry:00}"])
def test_a_text_that_looks_like_a_mark_stays(runtime: Runtime, make_bundle: Make, text: str) -> None:
    """Also where it is no blank, because of an escape."""
    container = runtime.start_new(one_of_a_kind(make_bundle, "first"))
    asked = options(container, text=process().replace(b"OWN=file", b"OWN=" + text.encode()))
    keep(asked)
    plan = known(asked)
    assert plan is None or Plan(plan).document() == Plan(compiled(asked)).document()


def test_who_is_not_in_its_own_cgroup_keeps_its_plan(runtime: Runtime, make_bundle: Make) -> None:
    container = runtime.start_new(one_of_a_kind(make_bundle, "first"))
    asked = options(container)
    planned = execute.prepare(asked)
    os.close(planned.pidfd)
    planned.elsewhere = True
    execute.keep(asked, planned)
    assert (runtime.root / container.id / "@plans").exists()
    assert known(options(runtime.start_new(one_of_a_kind(make_bundle, "second")))) is None


def test_what_is_written_by_another_build_is_of_no_kind(runtime: Runtime, make_bundle: Make) -> None:
    first, second = (runtime.start_new(one_of_a_kind(make_bundle, name)) for name in ("first", "second"))
    keep(options(first))
    record = runtime.root / second.id / "record"
    data = bytearray(record.read_bytes())
    data[16] ^= 1  # build_id
    record.write_bytes(data)
    asked = options(second)
    with lifecycle.opened(asked.root, asked.id) as container:
        assert execute.known(container, asked) is None
        keep(asked)
        assert execute.known(container, asked) is not None
    assert (runtime.root / second.id / "@plans").exists()
    shutil.rmtree(runtime.root / second.id / "@plans")
    data[16] ^= 1
    record.write_bytes(data)
    assert known(options(second)) is not None


def test_what_is_foreseen_is_of_nothing_that_is_open_and_is_freed(runtime: Runtime, make_bundle: Make) -> None:
    first, second = (runtime.start_new(one_of_a_kind(make_bundle, name)) for name in ("first", "second"))
    keep(options(first))
    asked, key = options(second), native.facts_key()

    def foreseen() -> Foreseen:
        with lifecycle.opened(asked.root, asked.id) as container:
            return Foreseen(container, key)

    def size() -> tuple[int, int]:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096, len(os.listdir("/proc/self/fd"))

    kept = [foreseen() for _ in range(100)]
    plan = known(asked)
    assert plan is not None and {one.plan(asked.root, process()) for one in kept} == {plan}
    before = size()
    for _ in range(2000):
        foreseen().plan(asked.root, process())
    after = size()
    assert after[1] == before[1] and after[0] - before[0] < 2 << 20  # 2.5 KiB each
