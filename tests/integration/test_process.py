# SPDX-License-Identifier: Apache-2.0
"""The process of a container: identity, capabilities, limits, environment, working directory, what it inherits."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime

pytestmark = pytest.mark.requires("containers")

CAPS = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_NET_BIND_SERVICE": 10, "CAP_SYS_ADMIN": 21, "CAP_AUDIT_WRITE": 29}


def status(runtime: Runtime, bundle: Bundle) -> dict[str, str]:
    text = runtime.output(bundle.args("cat", "/proc/self/status"), "exec cat /proc/self/status")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def mask(*names: str) -> int:
    return sum(1 << CAPS[name] for name in names)


@pytest.mark.requires("root")
def test_user_and_groups(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [10, 20, 1001]}
    seen = status(runtime, bundle)
    assert seen["Uid"].split() == ["1000"] * 4
    assert seen["Gid"].split() == ["1001"] * 4
    assert sorted(map(int, seen["Groups"].split())) == [10, 20, 1001]


@pytest.mark.requires("root")
def test_no_groups_of_the_caller(runtime: Runtime, bundle: Bundle) -> None:
    assert status(runtime, bundle)["Groups"].split() == []


def test_capability_sets(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
    }
    bundle.process["user"] = {"uid": 0, "gid": 0}
    bundle.process["noNewPrivileges"] = False
    seen = status(runtime, bundle)
    assert int(seen["CapBnd"], 16) == mask("CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE")
    assert int(seen["CapInh"], 16) == mask("CAP_KILL")
    assert int(seen["CapAmb"], 16) == 0


@pytest.mark.requires("root")
def test_ambient_capabilities_of_an_ordinary_user(runtime: Runtime, bundle: Bundle) -> None:
    names = ["CAP_NET_BIND_SERVICE", "CAP_KILL"]
    bundle.process["capabilities"] = {kind: names for kind in ("bounding", "permitted", "effective", "inheritable", "ambient")}
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    seen = status(runtime, bundle)
    for row in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
        assert int(seen[row], 16) == mask(*names), row


@pytest.mark.requires("root")
def test_ordinary_user_without_ambient_has_no_capabilities(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    seen = status(runtime, bundle)
    assert int(seen["CapEff"], 16) == int(seen["CapPrm"], 16) == int(seen["CapAmb"], 16) == 0


@pytest.mark.ours
def test_no_capabilities_object_means_none(runtime: Runtime, bundle: Bundle) -> None:
    del bundle.process["capabilities"]
    seen = status(runtime, bundle)
    for row in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
        assert int(seen[row], 16) == 0, row


@pytest.mark.ours
def test_unknown_capability_is_a_warning(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["capabilities"]["bounding"] = ["CAP_CHOWN", "CAP_NOT_YET_INVENTED"]
    assert runtime.run(bundle.args("true")).code == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges(runtime: Runtime, bundle: Bundle, wanted: bool) -> None:
    bundle.process["noNewPrivileges"] = wanted
    assert status(runtime, bundle)["NoNewPrivs"] == str(int(wanted))


def test_rlimits(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_FSIZE", "soft": 100000, "hard": 200000},
    ]
    text = runtime.output(bundle, "cat /proc/self/limits")
    rows = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
    assert rows["Max open files"] == ["512", "1024"]
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max file size"] == ["100000", "200000"]


@pytest.mark.requires("root")
@pytest.mark.ours
def test_tiny_rlimits_do_not_break_the_creation(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3},
        {"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NPROC", "soft": 1, "hard": 1},
    ]
    # the kernel counts a user's processes on the whole machine: of this one nobody else has any
    bundle.process["user"] = {"uid": 10_000_000 + os.getpid(), "gid": 1000}
    container = runtime.start_new(bundle.args("true"))
    assert container.wait() == 0


@pytest.mark.requires("root")
@pytest.mark.ours
def test_a_user_with_too_many_processes(runtime: Runtime, bundle: Bundle) -> None:
    """Those outside of the container count, and two of them are more than one. Its execve is what fails, and `start` says with what."""
    user = 20_000_000 + os.getpid()
    others = [subprocess.Popen(["sleep", "1000"], user=user) for _ in range(2)]
    try:
        bundle.process["rlimits"] = [{"type": "RLIMIT_NPROC", "soft": 1, "hard": 1}]
        bundle.process["user"] = {"uid": user, "gid": 1000}
        refused = runtime.create(bundle.args("true")).start(check=False)
        assert refused.code == 1 and "resource temporarily unavailable" in refused.err.lower()
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_rlimits_that_are_not_named_are_inherited(runtime: Runtime, bundle: Bundle) -> None:
    text = runtime.output(bundle, "ulimit -S -n; ulimit -H -n")
    assert [int(word) for word in text.split()] == list(resource.getrlimit(resource.RLIMIT_NOFILE))


@pytest.mark.requires("hard-rlimits")
def test_rlimit_above_the_callers(runtime: Runtime, bundle: Bundle) -> None:
    above = resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": above, "hard": above}]
    assert runtime.output(bundle, "ulimit -n") == str(above)


@pytest.mark.parametrize(
    "rlimits",
    [
        [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}, {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        [{"type": "RLIMIT_WEATHER", "soft": 1, "hard": 2}],
    ],
)
def test_bad_rlimits_are_refused(runtime: Runtime, bundle: Bundle, rlimits: list[dict[str, object]]) -> None:
    bundle.process["rlimits"] = rlimits
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert not container.exists()


def test_environment_is_exactly_the_given_one(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["env"] = ["PATH=/bin", "EMPTY=", "A=b=c", "HOME=/somewhere", "LONG=" + "x" * 5000]
    text = runtime.output(bundle.args("env"), "exec env")
    assert sorted(line for line in text.splitlines() if not line.startswith(("PWD=", "SHLVL=", "_="))) == sorted(bundle.process["env"])


@pytest.mark.requires("root")
def test_home_comes_from_the_containers_passwd(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert runtime.output(bundle, "echo $HOME") == "/home/user"


@pytest.mark.parametrize("uid", [0, pytest.param(4242, marks=pytest.mark.requires("root"))])
def test_home_of_root_and_of_an_unknown_user(runtime: Runtime, bundle: Bundle, uid: int) -> None:
    bundle.process["user"] = {"uid": uid, "gid": 0}
    assert runtime.output(bundle, "echo $HOME") == {0: "/root", 4242: "/"}[uid]


def test_working_directory(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["cwd"] = "/home/user"
    assert runtime.output(bundle, "pwd") == "/home/user"


def test_missing_working_directory_is_made(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["cwd"] = "/srv/new/place"
    assert runtime.output(bundle, "pwd; stat -c %a .").split() == ["/srv/new/place", "755"]


@pytest.mark.requires("root")
def test_private_working_directory_of_another_user(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "home/user").chmod(0o700)
    bundle.process.update({"cwd": "/home/user", "user": {"uid": 1000, "gid": 1000}})
    assert runtime.output(bundle, "pwd") == "/home/user"


@pytest.mark.parametrize("cwd", ["relative/path", ""])
def test_relative_working_directory_is_refused(runtime: Runtime, bundle: Bundle, cwd: str) -> None:
    bundle.process["cwd"] = cwd
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert "wd" in container.stderr.lower()


def test_default_umask(runtime: Runtime, bundle: Bundle) -> None:
    before = os.umask(0o077)
    try:
        assert int(status(runtime, bundle)["Umask"], 8) == 0o022
    finally:
        os.umask(before)


@pytest.mark.ours
def test_given_umask(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["user"]["umask"] = 0o027
    assert int(status(runtime, bundle)["Umask"], 8) == 0o027


def test_oom_score_adj(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = 321
    assert runtime.output(bundle, "cat /proc/self/oom_score_adj") == "321"


@pytest.mark.requires("root")
def test_oom_score_adj_in_a_user_namespace(runtime: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace().process["oomScoreAdj"] = 654
    assert runtime.output(bundle, "cat /proc/self/oom_score_adj") == "654"


@pytest.mark.ours
@pytest.mark.parametrize(("scheduler", "policy"), [({"policy": "SCHED_BATCH", "nice": 7}, "3"), ({"policy": "SCHED_IDLE"}, "5"), ({"policy": "SCHED_OTHER", "nice": 3}, "0")])
def test_scheduler(runtime: Runtime, bundle: Bundle, scheduler: dict[str, object], policy: str) -> None:
    bundle.process["scheduler"] = scheduler
    fields = runtime.output(bundle, "cat /proc/self/stat").rpartition(")")[2].split()
    assert fields[38] == policy
    assert fields[16] == str(scheduler.get("nice", 0))


@pytest.mark.requires("linux32")
@pytest.mark.ours
def test_personality(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["personality"] = {"domain": "LINUX32"}
    assert runtime.output(bundle, "uname -m") == "i686"


def test_affinity_of_the_caller_is_not_inherited(runtime: Runtime, bundle: Bundle) -> None:
    mine = os.sched_getaffinity(0)
    if len(mine) < 2:
        pytest.skip("requires two processors")
    os.sched_setaffinity(0, {min(mine)})
    try:
        seen = status(runtime, bundle)["Cpus_allowed_list"]
    finally:
        os.sched_setaffinity(0, mine)
    assert seen != str(min(mine))


def test_stdin_reaches_the_program(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime.run(bundle.args("cat"), input="one\ntwo\n").out == "one\ntwo\n"


def test_stdout_and_stderr_are_apart(runtime: Runtime, bundle: Bundle) -> None:
    result = runtime.run(bundle.shell("echo out; echo err >&2"))
    assert (result.out, result.err) == ("out\n", "err\n")


def test_preserved_descriptors(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    (place / "given").write_text("through descriptor 3\n")
    with open(place / "given") as given:
        container = runtime.create(bundle.shell("cat <&3"), "--preserve-fds", "1", preexec_fn=lambda: os.dup2(given.fileno(), 3), close_fds=False)
    container.start()
    assert container.wait() == 0
    assert container.stdout == "through descriptor 3\n"


@pytest.mark.parametrize("meant", [True, False])
def test_socket_activation(runtime: Runtime, bundle: Bundle, place: Path, meant: bool) -> None:
    """Descriptors that a service manager has passed go on into the container, where they are meant for us; --preserve-fds come after."""
    (place / "given").write_text("through a socket of systemd\n")

    script = "echo $LISTEN_FDS $LISTEN_PID; cat <&3"
    with open(place / "given") as given:
        command = ["/bin/sh", "-c", 'LISTEN_PID=${WANTED:-$$} exec "$@"', "sh"]
        bundle.shell(script).save()
        env = {**runtime.env, "LISTEN_FDS": "1", **({} if meant else {"WANTED": "1"})}
        argv = [*command, *runtime.argv("run", "--bundle", bundle.path, runtime.new_id())]
        move = lambda: os.dup2(given.fileno(), 3)  # noqa: E731
        done = subprocess.run(argv, preexec_fn=move, close_fds=False, env=env, capture_output=True, text=True, timeout=20, check=False)
    if meant:
        assert (done.returncode, done.stdout) == (0, "1 1\nthrough a socket of systemd\n"), done.stderr
    else:
        assert done.returncode != 0
        assert done.stdout == "\n"


def test_other_descriptors_stay_outside(runtime: Runtime, bundle: Bundle) -> None:
    with open("/etc/hostname") as secret:
        container = runtime.create(bundle.shell("ls /proc/self/fd"), preexec_fn=lambda: os.dup2(secret.fileno(), 9), close_fds=False)
    container.start()
    container.wait()
    assert "9" not in container.stdout.split()


def test_yes_into_head_ends(runtime: Runtime, bundle: Bundle) -> None:
    """SIGPIPE is not ignored in a container."""
    assert runtime.output(bundle, "yes | head -n 1") == "y"


@pytest.mark.requires("apparmor")
@pytest.mark.v2
def test_apparmor_profile(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["apparmorProfile"] = "unconfined"
    assert runtime.output(bundle, "cat /proc/self/attr/current").startswith("unconfined")


PROFILE = """
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  file,
  capability,
  network,
  signal,
  unix,
  ptrace,
  deny /secret r,
}}
"""


@pytest.fixture
def confined(place: Path) -> Iterator[str]:
    """A profile of AppArmor that may do everything but read /secret."""
    name = f"wherry-{place.name}"
    (place / "profile").write_text(PROFILE.format(name=name))
    subprocess.run(["apparmor_parser", "-K", "-a", place / "profile"], check=True)
    yield name
    subprocess.run(["apparmor_parser", "-R", place / "profile"], check=True)


@pytest.mark.requires("apparmor", "command:apparmor_parser", "root")
@pytest.mark.v2
@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_apparmor_profile_is_in_force(runtime: Runtime, bundle: Bundle, confined: str, no_new_privileges: bool) -> None:
    (bundle.rootfs / "secret").write_text("hidden")
    bundle.process["apparmorProfile"] = confined
    bundle.process["noNewPrivileges"] = no_new_privileges
    look = "cat /proc/self/attr/current; cat /secret || echo refused"
    assert runtime.output(bundle, look).split() == [confined, "(enforce)", "refused"]
    container = runtime.start_new(bundle.args("sleep", "1000"))
    assert runtime("exec", container.id, "sh", "-c", look).out.split() == [confined, "(enforce)", "refused"]
    assert runtime("exec", "--apparmor", "unconfined", container.id, "sh", "-c", look).out.split() == ["unconfined", "hidden"]


def test_missing_apparmor_profile_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["apparmorProfile"] = "no-such-profile-anywhere"
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert not container.exists()
