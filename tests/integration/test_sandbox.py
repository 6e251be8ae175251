# SPDX-License-Identifier: Apache-2.0
"""wherry.Sandbox and wherry.aio: walls that hold, results that tell, and nothing that is left after hundreds of them."""

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.census import Census, children
from harness.everybody import USER, install
from wherry import Result, Sandbox, aio
from wherry.api import layers
from wherry.errors import HostError, LaunchError, UsageError

pytestmark = [pytest.mark.requires("root", "userns", "controller:memory", "controller:pids", "controller:cpu"), pytest.mark.ours]

COUNT, THREADS = 200, 8
Make = Callable[..., Sandbox]


def descriptors() -> dict[str, str]:
    """Ours, and what each is; not the directory that this call itself opens."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture
def make(bundle: Bundle, place: Path, session_directory: Path) -> Iterator[Make]:
    """Makes sandboxes whose remains the census finds: state, cgroups, processes, mounts; descriptors are counted, too."""
    tag = f"{session_directory.name}-{place.name}"
    census = Census(tag, [place / "root"])

    def sandbox(**choices: Any) -> Sandbox:
        return Sandbox(bundle.rootfs, root=place / "root", name=tag, **choices)

    sandbox(timeout=20).run(["true"])  # what is opened once for the life of the process: the program's memfd
    before = descriptors()
    yield sandbox
    assert census.leftovers() == []
    assert descriptors() == before


# ---- results


@pytest.mark.v2
def test_result(make: Make) -> None:
    result = make().run(["sh", "-c", "cat; echo $WHO >&2; exit 3"], input=b"given", env={"WHO": "me"})
    assert (result.code, result.signal, result.out, result.err) == (3, None, b"given", b"me\n")
    assert not (result.ok or result.timed_out or result.oom or result.truncated)
    assert result.wall > 0 and result.usage.max_rss > 0 and (result.memory_peak or 0) > 0
    assert result.args[0] == "sh"


def test_a_signal_is_told(make: Make) -> None:
    result = make().run(["sh", "-c", "sh -c 'kill -TERM $$'; echo $?"])
    assert result.text == "143\n"
    assert make().run(["sleep", "100"], timeout=0.2).signal == 9


def test_usage_counts_what_was_waited_for(make: Make) -> None:
    result = make().run(["sh", "-c", "timeout 0.3 sh -c 'while :; do :; done'; true"], timeout=30)
    assert result.usage.user + result.usage.system > 0.05


@pytest.mark.v2
def test_timeout_ends_all(make: Make) -> None:
    result = make().run(["sh", "-c", "sleep 1000 & sleep 1000 & echo begun; wait"], timeout=0.5)
    assert result.timed_out and result.code == 137 and result.out == b"begun\n"


def test_timeout_while_output_flows(make: Make) -> None:
    result = make(max_output=10).run(["yes"], timeout=0.3)
    assert result.timed_out and result.out == b"y\n" * 5 and result.truncated


@pytest.mark.v2
def test_oom_is_told(make: Make) -> None:
    result = make(memory="16M").run(["tail", "-c", "100m", "/dev/zero"], timeout=30)
    assert result.oom and result.signal == 9 and not result.timed_out


@pytest.mark.v2
def test_refused_forks_are_told(make: Make) -> None:
    result = make(pids=5).run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done"], timeout=30)
    assert result.denied["pids"] > 0


def test_a_program_that_is_not_there(make: Make) -> None:
    with pytest.raises(LaunchError):
        make().run(["no-such-program"])


@pytest.mark.parametrize("args", [[], "sh -c true"])
def test_args_are_a_list(make: Make, args: Any) -> None:
    with pytest.raises(UsageError):
        make().run(args)


# ---- walls


SCRIPTS = {
    "root filesystem": "touch /x",
    "other namespaces": "unshare -r true",
    "mounts": "mount -t tmpfs none /mnt",
    "devices": "mknod /tmp/null c 1 3",
    "the host's network": "ifconfig lo 10.0.0.1 up",
    "the host's names": "hostname other",
    "kernel settings": "echo 1 >/proc/sys/kernel/panic",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_walls(make: Make, script: str) -> None:
    result = make().run(["sh", "-c", f"{script} 2>/dev/null && echo done || echo refused"])
    assert result.text == "refused\n"


def test_no_privileges(make: Make) -> None:
    status = dict(line.split(":\t") for line in make().run(["cat", "/proc/self/status"]).text.splitlines() if ":\t" in line)
    assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "0" * 16, "1", "2")


def test_nobody_on_the_host(make: Make) -> None:
    """Its root is an id that nobody on the host has."""
    assert int(make().run(["sh", "-c", "set -- $(cat /proc/self/uid_map); echo $2"]).text) >= 1 << 30


def test_paths_of_the_host(make: Make, place: Path) -> None:
    (place / "in").mkdir()
    (place / "in/file").write_text("shown\n")
    (place / "out").mkdir()
    (place / "out").chmod(0o777)
    box = make(readable={"/mnt": place / "in"}, writable={"/home/user": place / "out"})
    result = box.run(["sh", "-c", "cat /mnt/file; echo kept >/home/user/file; touch /mnt/x 2>/dev/null || echo refused"])
    assert result.text == "shown\nrefused\n"
    assert (place / "out/file").read_text() == "kept\n"


def test_layers_are_told(make: Make) -> None:
    result = make(cpus=None, network=True).run(["true"])
    assert result.layers["memory"] == result.layers["seccomp"] == "applied"
    assert result.layers["cpu"] == result.layers["network"] == "off"


def test_never_silently_weaker(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "available", lambda facts: {"pids", "cpu", "user namespace"})
    with pytest.raises(HostError, match="memory") as caught:
        make()
    assert caught.value.facts["missing"] == ["memory"]
    result = make(allow_missing={"memory"}).run(["true"])
    assert result.ok and result.layers["memory"] == "missing" and result.memory_peak is None


def test_without_a_user_namespace(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "available", lambda facts: {"memory", "pids", "cpu"})
    result = make(allow_missing={"user namespace"}).run(["sh", "-c", "set -- $(cat /proc/self/uid_map); echo $2"])
    assert result.text == "0\n" and result.layers["user namespace"] == "missing"


def test_the_last_word(make: Make) -> None:
    assert make(configure=lambda config: config.hostname("mine")).run(["hostname"]).text == "mine\n"


def test_layers_are_those_of_the_last_word(make: Make) -> None:
    box = make(memory=None, configure=lambda config: config.seccomp(None).capabilities("CAP_KILL").memory("32M"))
    assert (box.layers["seccomp"], box.layers["no capabilities"], box.layers["memory"]) == ("off", "off", "applied")


def test_warnings_are_told(make: Make) -> None:
    flags = {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}
    result = make(configure=lambda config: config.set("/linux/personality", flags)).run(["true"])
    assert [warning.pointer for warning in result.warnings] == ["/linux/personality/flags"]
    assert make().run(["true"]).warnings == ()


# ---- streams


def test_output_as_it_comes(make: Make) -> None:
    seen: list[tuple[str, bytes]] = []
    result = make().run(["sh", "-c", "echo a; sleep 0.2; echo b >&2"], on_output=lambda name, data: seen.append((name, data)))
    assert seen == [("stdout", b"a\n"), ("stderr", b"b\n")]
    assert (result.out, result.err) == (b"a\n", b"b\n")


def test_an_exception_ends_the_program(make: Make) -> None:
    def angry(name: str, data: bytes) -> None:
        raise KeyError(name)

    with pytest.raises(KeyError):
        make().run(["sh", "-c", "echo a; sleep 1000"], on_output=angry)


def test_leaving_a_stream_early(make: Make) -> None:
    for _, data in make().stream(["sh", "-c", "echo a; sleep 1000"]):
        assert data == b"a\n"
        break


def test_stream_with_a_result(make: Make) -> None:
    with make().stream(["sh", "-c", "echo a; exit 4"]) as stream:
        assert list(stream) == [("stdout", b"a\n")]
        assert stream.result.code == 4


def test_a_stream_that_nobody_read(make: Make) -> None:
    stream = make().stream(["sleep", "1000"])
    stream.close()
    with pytest.raises(UsageError, match="no result"):
        _ = stream.result


# ---- many


def check(results: list[Result]) -> None:
    assert [result.text for result in results] == [f"{number}\n" for number in range(COUNT)]
    assert all(result.ok for result in results)
    assert children() == []


def program(number: int) -> list[str]:
    return ["sh", "-c", f"echo {number}"]


def test_many_from_threads(make: Make) -> None:
    box = make(timeout=50)
    with ThreadPoolExecutor(THREADS) as pool:
        check(list(pool.map(lambda number: box.run(program(number)), range(COUNT))))


@pytest.mark.v2
def test_many_from_asyncio(make: Make) -> None:
    async def main(box: aio.Sandbox) -> list[Result]:
        return await asyncio.gather(*(box.run(program(number)) for number in range(COUNT)))

    check(asyncio.run(main(aio.Sandbox.of(make(timeout=50)))))


def test_threads_while_others_start_programs(make: Make) -> None:
    """What subprocess starts meanwhile holds no pipe of a sandbox open."""
    box, stop = make(timeout=50), threading.Event()

    def others() -> None:
        while not stop.is_set():
            subprocess.run(["/bin/sh", "-c", "sleep 0.05"], close_fds=False, check=True)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        assert all(box.run(["true"]).ok for _ in range(20))
    finally:
        stop.set()
        thread.join()


# ---- asyncio


def test_aio_result(make: Make) -> None:
    seen: list[bytes] = []
    box = aio.Sandbox.of(make())
    result = asyncio.run(box.run(["sh", "-c", "cat; exit 3"], input=b"given", on_output=lambda name, data: seen.append(data)))
    assert (result.code, result.out, seen) == (3, b"given", [b"given"])
    assert box.layers["seccomp"] == "applied"


def test_aio_timeout(make: Make) -> None:
    result = asyncio.run(aio.Sandbox.of(make()).run(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.3))
    assert result.timed_out and result.code == 137


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02, 0.3])
def test_aio_cancelled(make: Make, delay: float) -> None:
    async def main(box: aio.Sandbox) -> None:
        task = asyncio.create_task(box.run(["sleep", "1000"]))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main(aio.Sandbox.of(make())))


def test_aio_stream(make: Make) -> None:
    async def main(box: aio.Sandbox) -> tuple[list[tuple[str, bytes]], Result]:
        async with box.stream(["sh", "-c", "echo a; sleep 0.2; echo b >&2; exit 4"]) as stream:
            return [chunk async for chunk in stream], await stream.result()

    chunks, result = asyncio.run(main(aio.Sandbox.of(make())))
    assert chunks == [("stdout", b"a\n"), ("stderr", b"b\n")] and result.code == 4


def test_aio_stream_killed_or_left(make: Make) -> None:
    async def main(box: aio.Sandbox) -> Result:
        async with box.stream(["sh", "-c", "echo a; sleep 1000"]) as stream:
            async for _ in stream:
                break
        async with box.stream(["sh", "-c", "echo a; sleep 1000"]) as stream:
            async for _ in stream:
                stream.kill()
            return await stream.result()

    assert asyncio.run(main(aio.Sandbox.of(make()))).signal == 9


def test_aio_one_of_many_fails(make: Make) -> None:
    """asyncio.run then cancels all others, those too that a thread is making this moment."""
    box = aio.Sandbox.of(make())

    async def main() -> None:
        await asyncio.gather(*(box.run(["no-such-program" if number == 3 else "sleep", "1000"]) for number in range(30)))

    with pytest.raises(LaunchError):
        asyncio.run(main())


def test_keyrings_are_out_of_reach(make: Make) -> None:
    """By the filter, or by one of its own where there is no filter."""
    session = make(seccomp=False).begin(["true"])
    try:
        assert session.new_keyring
    finally:
        session.close()
    session = make().begin(["true"])
    try:
        assert not session.new_keyring
        calls = {name for rule in session_filter(make()) for name in rule["names"]}
        assert not calls & {"keyctl", "add_key", "request_key"}
    finally:
        session.close()


def session_filter(box: Sandbox) -> list[Any]:
    found: list[Any] = box.config.get("/linux/seccomp/syscalls")
    return found


# ---- Landlock


@pytest.mark.requires("landlock")
def test_landlock_holds_where_a_mount_does_not(make: Make) -> None:
    script = "touch /tmp/a && cat /tmp/a && echo x >/dev/null && mv /tmp/a /tmp/b; touch /dev/new; echo 1 >/proc/self/oom_score_adj"
    result = make().run(["sh", "-c", script])
    assert result.layers["landlock"].startswith("applied, ABI ")
    assert result.err.count(b"ermission denied") == 2 and result.code
    open_box = make(landlock=False)
    result = open_box.run(["sh", "-c", script])
    assert (open_box.layers["landlock"], result.err) == ("off", b"")


@pytest.mark.requires("landlock")
def test_landlock_of_ones_own(make: Make) -> None:
    box = make(configure=lambda config: config.landlock(read=["/bin"]))
    result = box.run(["sh", "-c", "read line </proc/version || echo none; touch /tmp/a"])
    assert result.out == b"none\n" and result.err.count(b"ermission denied") == 2
    with pytest.raises(LaunchError, match=r"allow /nowhere by landlock: no such file") as caught:
        make(configure=lambda config: config.landlock(read=["/nowhere"])).run(["true"])
    assert caught.value.pointer == "/annotations/org.wherry.landlock"


def test_a_kernel_without_landlock(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherry.kernel.hostfacts.landlock_abi", lambda: 0)
    assert make().run(["true"]).layers["landlock"] == "not supported"
    with pytest.raises(HostError, match="landlock"):
        make(landlock=True)
    assert make(landlock=True, allow_missing={"landlock"}).run(["true"]).layers["landlock"] == "missing"


# ---- an ordinary user

AS_A_USER = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from wherry import Sandbox, run
from wherry.errors import HostError, LaunchError

rootfs, root = sys.argv[1:]
told = {}
told["run"] = run(rootfs, ["id", "-u"], root=root).out.decode()
try:
    Sandbox(rootfs, root=root)
except HostError as error:
    told["missing"], told["remedy"] = error.facts["missing"], error.remedy
box = Sandbox(rootfs, root=root, allow_missing={"memory", "pids", "cpu"})
told["walls"] = [box.run(["sh", "-c", script + " 2>/dev/null && echo done || echo refused"]).text.strip() for script in json.loads(sys.stdin.read())]
told["layers"] = box.layers
before = len(os.listdir("/proc/self/fd"))
with ThreadPoolExecutor(8) as pool:
    told["many"] = list(pool.map(lambda number: box.run(["sh", "-c", f"echo {number}"]).text.strip(), range(40)))
told["leaked"] = len(os.listdir("/proc/self/fd")) - before
told["children"] = open(f"/proc/self/task/{os.getpid()}/children").read()
told["left"] = [name for name in os.listdir(root) if not name.startswith("@")]
try:
    Sandbox(rootfs + "/nowhere", root=root, memory=None, pids=None, cpus=None).run(["true"])
except LaunchError as error:
    told["rootfs"] = [error.pointer, error.remedy]
print(json.dumps(told))
"""


def test_an_ordinary_user(command: str, bundle: Bundle, place: Path, session_directory: Path) -> None:
    """Never weaker than asked for without a word; the same walls, and nothing that is left."""
    install(command, session_directory / "everybody")
    (site,) = (session_directory / "everybody/lib").glob("python3*/site-packages")
    (place / "root").mkdir(mode=0o700)
    os.chown(place / "root", USER, USER)
    python = Path(command).resolve().with_name("python").resolve()
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site)}
    argv = [str(python), "-c", AS_A_USER, str(bundle.rootfs), str(place / "root")]
    done = subprocess.run(
        ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *argv],
        input=json.dumps(list(SCRIPTS.values())), capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["run"] == "0\n"
    assert told["missing"] == ["memory", "pids", "cpu"] and "allow_missing" in told["remedy"]
    assert told["walls"] == ["refused"] * len(SCRIPTS)
    layers = told["layers"]
    assert {name for name, how in layers.items() if how == "missing"} == {"memory", "pids", "cpu"} and layers["devices"] == "not supported"
    assert {"user namespace", "pid namespace", "network", "read-only root", "seccomp", "no capabilities", "no new privileges"} <= {
        name for name, how in layers.items() if how == "applied"
    }
    assert told["many"] == [str(number) for number in range(40)]
    assert (told["leaked"], told["children"], told["left"]) == (0, "", [])
    assert told["rootfs"] == ["/root/path", "it must be the directory of the container's files; a relative one is below the bundle"]
