# SPDX-License-Identifier: Apache-2.0
"""Seccomp: actions, arguments, flags, order against no_new_privs, the listener, a real engine's profile."""

import json
import os
import platform
import select
import socket
from pathlib import Path
from typing import Any

import pytest

from harness.bundle import Bundle
from harness.requirements import SECCOMP_PROFILE
from harness.runtime import Runtime

pytestmark = pytest.mark.requires("containers")

MACHINE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}.get(platform.machine(), "")


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "architectures": [MACHINE], "syscalls": list(rules), **more}


def rule(name: str, action: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"names": [name], "action": action, **more}


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_refused_system_call(runtime: Runtime, bundle: Bundle, no_new_privileges: bool) -> None:
    bundle.linux["seccomp"] = profile(rule("mkdir"), rule("mkdirat"))
    bundle.process["noNewPrivileges"] = no_new_privileges
    out = runtime.output(bundle, "mkdir /made 2>&1; grep Seccomp: /proc/self/status")
    assert "Operation not permitted" in out
    assert out.split()[-1] == "2"


def test_given_errno(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = profile(rule("mkdir", errnoRet=28), rule("mkdirat", errnoRet=28))
    assert "No space left" in runtime.output(bundle, "mkdir /made 2>&1; true")


def test_kill(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = profile(rule("mkdir", "SCMP_ACT_KILL_PROCESS"), rule("mkdirat", "SCMP_ACT_KILL_PROCESS"))
    assert runtime.output(bundle, "mkdir /made; echo $?").split()[-1] == str(128 + 31)


def test_argument(runtime: Runtime, bundle: Bundle) -> None:
    """chmod to one mode is refused, to others not."""
    args = {"args": [{"index": 1, "value": 0o777, "op": "SCMP_CMP_EQ"}]}
    bundle.linux["seccomp"] = profile(rule("chmod", **args), rule("fchmodat", args=[{"index": 2, "value": 0o777, "op": "SCMP_CMP_EQ"}]))
    out = runtime.output(bundle, "touch /f; chmod 777 /f 2>/dev/null && echo done || echo refused; chmod 700 /f && echo done")
    assert out.split() == ["refused", "done"]


def test_masked_argument(runtime: Runtime, bundle: Bundle) -> None:
    args = [{"index": 1, "value": 0o002, "valueTwo": 0o002, "op": "SCMP_CMP_MASKED_EQ"}]
    at = [{**args[0], "index": 2}]
    bundle.linux["seccomp"] = profile(rule("chmod", args=args), rule("fchmodat", args=at))
    out = runtime.output(bundle, "touch /f; chmod 776 /f 2>/dev/null && echo done || echo refused; chmod 774 /f && echo done")
    assert out.split() == ["refused", "done"]


def test_unknown_system_calls_are_skipped(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = profile(rule("not_a_system_call"))
    assert runtime.run(bundle.args("true")).code == 0


@pytest.mark.ours
def test_newer_system_calls_give_enosys(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "crun":
        pytest.skip("crun has none of it")
    allowed = [rule(name, "SCMP_ACT_ALLOW") for name in OLD_ENOUGH]
    bundle.linux["seccomp"] = profile(*allowed, default="SCMP_ACT_ERRNO", defaultErrnoRet=1)
    assert runtime.output(bundle, "echo works") == "works"


OLD_ENOUGH = """execve exit exit_group write read brk mmap munmap mprotect arch_prctl set_tid_address set_robust_list rt_sigaction rt_sigprocmask
rt_sigreturn getpid getppid getuid geteuid getgid getegid close fstat newfstatat stat getcwd dup2 fcntl ioctl prlimit64 getrandom uname readlink
readlinkat openat open rseq prctl wait4 capset capget futex nanosleep getdents64 fchdir setgroups setuid setgid setresuid setresgid statfs fstatfs
sendto sendmsg recvmsg recvfrom chdir faccessat faccessat2 close_range lseek pidfd_send_signal pipe2 clone""".split()


@pytest.mark.parametrize("broken", [{"defaultAction": "SCMP_ACT_WEATHER"}, profile(rule("read", "SCMP_ACT_NOPE")), {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ABACUS"]}])
def test_broken_profiles_are_refused(runtime: Runtime, bundle: Bundle, broken: dict[str, Any]) -> None:
    bundle.linux["seccomp"] = broken
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert not container.exists()


def docker_profile() -> dict[str, Any]:
    """The engines' profile, as they write it into a configuration."""
    document = json.loads(SECCOMP_PROFILE.read_text())
    rules = []
    for one in document["syscalls"]:
        includes = one.get("includes") or {}
        if includes.get("caps") or (includes.get("arches") and "amd64" not in includes["arches"]):
            continue
        rules.append({key: one[key] for key in ("names", "action", "args", "errnoRet") if one.get(key)})
    return {"defaultAction": document["defaultAction"], "defaultErrnoRet": 1, "architectures": [MACHINE], "syscalls": rules}


@pytest.mark.requires("seccomp-profile")
@pytest.mark.v2
@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_profile_of_the_engines(runtime: Runtime, bundle: Bundle, no_new_privileges: bool) -> None:
    bundle.linux["seccomp"] = docker_profile()
    bundle.process["noNewPrivileges"] = no_new_privileges
    out = runtime.output(bundle, "ls / > /dev/null && echo ls; mkdir /made && echo mkdir; grep Seccomp: /proc/self/status")
    assert out.split() == ["ls", "mkdir", "Seccomp:", "2"]


@pytest.mark.requires("seccomp-profile")
def test_profile_with_an_ordinary_user_and_a_user_namespace(runtime: Runtime, bundle: Bundle) -> None:
    bundle.user_namespace().linux["seccomp"] = docker_profile()
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert runtime.output(bundle, "id -u") == "1000"


@pytest.mark.requires("seccomp-profile")
def test_two_containers_of_one_profile(runtime: Runtime, make_bundle) -> None:
    """The second one comes from the cache: same effect."""
    for _ in range(2):
        bundle = make_bundle()
        bundle.linux["seccomp"] = docker_profile()
        assert runtime.output(bundle, "grep Seccomp: /proc/self/status").split() == ["Seccomp:", "2"]


def test_listener(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    """The notify descriptor reaches listenerPath with the container process state."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(place / "listener"))
    server.listen(1)
    server.settimeout(10)
    bundle.linux["seccomp"] = profile(rule("mkdir", "SCMP_ACT_NOTIFY"), rule("mkdirat", "SCMP_ACT_NOTIFY"), listenerPath=str(place / "listener"), listenerMetadata="meta data")
    container = runtime.create(bundle.args("true"))
    container.start()
    connection, _ = server.accept()
    with connection, server:
        connection.settimeout(10)
        data, descriptors, _, _ = socket.recv_fds(connection, 65536, 2)
    document = json.loads(data)
    assert len(descriptors) == 1
    os.close(descriptors[0])
    assert document["fds"] == ["seccompFd"]
    assert document["metadata"] == "meta data"
    assert document["state"]["id"] == container.id
    assert document["pid"] > 0
    assert container.wait() == 0


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.ours
def test_listener_of_an_exec(runtime: Runtime, bundle: Bundle, place: Path, no_new_privileges: bool) -> None:
    """Each exec has a filter of its own, whose descriptor reaches the listener with the container's state; and the descriptor works."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(place / "listener"))
        server.listen(4)
        server.settimeout(10)
        names = [rule(name, "SCMP_ACT_NOTIFY") for name in ("mkdir", "mkdirat")]
        bundle.linux["seccomp"] = profile(*names, listenerPath=str(place / "listener"), listenerMetadata="meta data")
        bundle.process["noNewPrivileges"] = no_new_privileges
        container = runtime.start_new(bundle)
        os.close(told(server)[1])
        with runtime.popen("exec", container.id, "sh", "-c", "mkdir /made; echo $?") as process:
            document, descriptor = told(server)
            assert document["metadata"] == "meta data" and document["fds"] == ["seccompFd"]
            assert (document["state"]["id"], document["state"]["pid"], document["state"]["status"]) == (container.id, container.pid, "running")
            assert document["pid"] > 0 and document["pid"] != container.pid
            with select.epoll() as poll:
                poll.register(descriptor, select.EPOLLIN)
                assert poll.poll(10)  # the mkdir waits for an answer
            os.close(descriptor)  # nobody answers any more: ENOSYS
            out, err = process.communicate(timeout=10)
        assert out.strip() != "0" and "not implemented" in err


def told(server: socket.socket) -> tuple[Any, int]:
    """What a runtime sends to its listener: the process's state and the notify descriptor."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(10)
        data, descriptors, _, _ = socket.recv_fds(connection, 65536, 2)
    assert len(descriptors) == 1
    return json.loads(data), descriptors[0]


def test_missing_listener_of_an_exec_is_an_error(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(place / "listener"))
        server.listen(1)
        bundle.linux["seccomp"] = profile(rule("mkdir", "SCMP_ACT_NOTIFY"), listenerPath=str(place / "listener"))
        container = runtime.start_new(bundle)
    assert runtime("exec", container.id, "true", check=False).code != 0


def test_missing_listener_is_an_error(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    bundle.linux["seccomp"] = profile(rule("mkdir", "SCMP_ACT_NOTIFY"), listenerPath=str(place / "nobody"))
    result = runtime.run(bundle.args("true"), check=False)
    assert result.code != 0


def test_notify_as_default_action_is_refused(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    bundle.linux["seccomp"] = profile(default="SCMP_ACT_NOTIFY", listenerPath=str(place / "nobody"))
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert not container.exists()
