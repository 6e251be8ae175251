# SPDX-License-Identifier: Apache-2.0
"""Filters, compiled for real by libseccomp and run by an interpreter of classic BPF; the cache; the flags."""

import os
from pathlib import Path
from struct import iter_unpack, unpack_from

import pytest

pytest.importorskip("pyseccomp")
from wherry.errors import ConfigError
from wherry.seccomp import cache
from wherry.seccomp import compile as compiler

X86_64 = 0xC000003E
I386 = 0x40000003
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
READ, SOCKET, PERSONALITY, CLONE3 = 0, 41, 135, 435

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")


def run(program: bytes, number: int, *arguments: int, arch: int = X86_64) -> int:
    """The filter's answer (SECCOMP_RET_*) to one system call; struct seccomp_data of seccomp(2)."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = number.to_bytes(4, "little") + arch.to_bytes(4, "little") + bytes(8) + b"".join(value.to_bytes(8, "little") for value in padded)
    code = list(iter_unpack("<HBBI", program))
    at = accumulator = 0
    scratch = [0] * 16
    while True:
        operation, true, false, value = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = unpack_from("<I", data, value)
        elif operation == 0x06:
            return value
        elif operation == 0x05:
            at += value
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x02:
            scratch[value] = accumulator
        elif operation == 0x60:
            accumulator = scratch[value]
        elif operation in (0x15, 0x25, 0x35, 0x45):
            truth = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value, 0x45: accumulator & value}[operation]
            at += true if truth else false
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")


def section(*rules: dict, **more: object) -> dict:
    return {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": list(rules), **more}


def allow(*names: str, **more: object) -> dict:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def test_rules_default_and_unknown_names() -> None:
    program = compiler.compile_section(section(allow("read", "no_such_call", "openat2"), defaultErrnoRet=7))
    assert run(program, READ) == ALLOW
    assert run(program, SOCKET) == ERRNO | 7


def test_calls_newer_than_the_profile_are_answered_with_enosys() -> None:
    program = compiler.compile_section(section(allow("read", "personality")))
    assert run(program, SOCKET) == ERRNO | 1
    assert run(program, PERSONALITY) == ALLOW
    assert run(program, PERSONALITY + 1) == ERRNO | 38
    assert run(program, CLONE3) == ERRNO | 38


def test_newness_is_counted_for_each_architecture() -> None:
    profile = section(allow("read", "clone3"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    program = compiler.compile_section(profile)
    assert run(program, CLONE3) == ALLOW
    assert run(program, 436) == ERRNO | 38
    assert run(program, 3, arch=I386) == ALLOW  # read
    assert run(program, 436, arch=I386) == ERRNO | 38
    assert run(program, 0x40000000 | READ) == ALLOW
    assert run(program, 0x40000000 | 1000) == ERRNO | 38
    assert run(program, 0x40000000 | SOCKET) == ERRNO | 1


@pytest.mark.parametrize("action", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"])
def test_a_lenient_default_needs_no_enosys(action: str) -> None:
    program = compiler.compile_section({"defaultAction": action, "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_KILL_PROCESS"}]})
    assert run(program, 5000) in (ALLOW, 0x7FFC0000)
    assert run(program, SOCKET) == KILL_PROCESS


def test_arguments() -> None:
    rules = [allow("personality", args=[{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]) for value in (0, 8)]
    masked = allow("socket", args=[{"index": 0, "value": 0xF0, "valueTwo": 0x10, "op": "SCMP_CMP_MASKED_EQ"}, {"index": 1, "value": 5, "op": "SCMP_CMP_LT"}])
    program = compiler.compile_section(section(*rules, masked))
    assert run(program, PERSONALITY, 0) == run(program, PERSONALITY, 8) == ALLOW
    assert run(program, PERSONALITY, 1) == ERRNO | 1
    assert run(program, SOCKET, 0x1F, 4) == ALLOW
    assert run(program, SOCKET, 0x2F, 4) == run(program, SOCKET, 0x1F, 5) == ERRNO | 1


def test_two_comparisons_of_one_argument_mean_either() -> None:
    either = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]
    program = compiler.compile_section(section(allow("personality", args=either)))
    assert [run(program, PERSONALITY, value) for value in (1, 2, 3)] == [ALLOW, ALLOW, ERRNO | 1]


def test_many_argument_rules_are_compiled_elsewhere_and_give_the_same() -> None:
    rules = [allow("personality", args=[{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]) for value in range(9)]
    profile = section(*rules)
    assert compiler._is_heavy(profile)
    assert compiler.compile_section(profile) == compiler._compile(profile)


def test_a_profile_that_does_not_come_to_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "DEADLINE", 0.0)
    rules = [allow("personality", args=[{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]) for value in range(9)]
    with pytest.raises(ConfigError) as caught:
        compiler.compile_section(section(*rules))
    assert caught.value.code == "WHERRY-SECCOMP-COMPILE"


def test_a_section_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = section(allow("read"))
    first = cache.filter_of(profile, str(tmp_path / "root"))
    monkeypatch.setattr(compiler, "compile_section", lambda _: pytest.fail("compiled again"))
    assert cache.filter_of(profile, str(tmp_path / "root")) == first
    (file,) = (tmp_path / "root" / "@seccomp").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("spoil", ["writable", "short", "empty", "link"])
def test_a_spoilt_cache_file_is_not_used(tmp_path: Path, spoil: str) -> None:
    profile = section(allow("read"))
    first = cache.filter_of(profile, str(tmp_path))
    (file,) = (tmp_path / "@seccomp").iterdir()
    if spoil == "writable":
        file.write_bytes(b"\x06\0\0\0\0\0\xff\x7f")
        file.chmod(0o666)
    elif spoil == "link":
        file.rename(tmp_path / "other")
        file.symlink_to(tmp_path / "other")
    else:
        file.write_bytes(b"abc" if spoil == "short" else b"")
    assert cache.filter_of(profile, str(tmp_path)) == first


def test_a_cache_that_cannot_be_written_costs_only_time() -> None:
    assert cache.filter_of(section(allow("read")), "/proc/nowhere")


@pytest.mark.parametrize(
    ("flags", "bits"),
    [
        (None, 4),
        ([], 0),
        (["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"], 2),
        (["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], 32),
    ],
)
def test_flags(flags: list[str] | None, bits: int) -> None:
    assert cache.flags_of(section() if flags is None else section(flags=flags)) == bits


def test_flags_with_a_listener() -> None:
    notify = {"names": ["socket"], "action": "SCMP_ACT_NOTIFY"}
    assert cache.uses_notify(section(notify))
    assert cache.flags_of(section(notify, flags=["SECCOMP_FILTER_FLAG_TSYNC"])) == 8
