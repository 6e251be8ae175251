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


X32 = 0x40000000
ARM64 = 0xC00000B7
BOUNDS = sorted({*range(5), *(near + step for near in (3, 16, 54, 435, 514, 1000, X32, I386, X32 | 16, X32 | 514, 1 << 31, (1 << 32) - 2) for step in (-1, 0, 1))})


@pytest.mark.parametrize(
    "names",
    [
        {"X86_64": 16, "X86": 54, "X32": 514},  # ioctl: each architecture has another number
        {"X86_64": 16, "X32": 514, "X86": 54},
        {"X86_64": 16, "X86": 54},
        {"X86_64": 16},
        {"X86_64": 16, "X32": 514, "AARCH64": 63},
    ],
)
def test_what_is_newer_has_no_answer_but_enosys(names: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number near a bound, of each architecture: ENOSYS where it is above the newest one that is named, else what libseccomp says."""
    profile = section(allow("read", "ioctl"), architectures=[f"SCMP_ARCH_{name}" for name in names])
    program = compiler.compile_section(profile)
    monkeypatch.setattr(compiler, "_unknown_calls", lambda *_: b"")
    plain = compiler.compile_section(profile)
    assert len(program) > len(plain)
    seen = set()
    for arch in (X86_64, I386, ARM64, 0):
        for number in BOUNDS:
            name = {X86_64: "X32" if number >= X32 else "X86_64", I386: "X86", ARM64: "AARCH64", 0: ""}[arch]
            newer = name in names and number & ~(X32 if name == "X32" else 0) > names[name]
            answer = run(program, number, arch=arch)
            assert answer == (ERRNO | 38 if newer else run(plain, number, arch=arch)), f"{name or 'none'} {number:#x}"
            seen.add(answer)
    assert {ALLOW, ERRNO | 1, ERRNO | 38} < seen


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


@pytest.mark.parametrize(
    ("operator", "allowed"), [("NE", (4, 6)), ("LT", (4,)), ("LE", (4, 5)), ("EQ", (5,)), ("GE", (5, 6)), ("GT", (6,)), ("MASKED_EQ", (5,))]
)
def test_comparisons(operator: str, allowed: tuple[int, ...]) -> None:
    item = {"index": 0, "value": 5, "op": f"SCMP_CMP_{operator}"}
    if operator == "MASKED_EQ":
        item |= {"value": 7, "valueTwo": 5}
    program = compiler.compile_section(section(allow("personality", args=[item])))
    assert tuple(value for value in (4, 5, 6) if run(program, PERSONALITY, value) == ALLOW) == allowed


def test_actions_are_the_kernels() -> None:
    """As libseccomp's own words have them: KILL is that of a thread."""
    import pyseccomp

    names = {name: getattr(pyseccomp, name) for name in ("KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "LOG", "ALLOW", "NOTIFY")}
    assert {f"SCMP_ACT_{name}": value for name, value in names.items()} == compiler._PLAIN
    assert {"SCMP_ACT_ERRNO": pyseccomp.ERRNO(0), "SCMP_ACT_TRACE": pyseccomp.TRACE(0)} == compiler._NUMBERED
    program = compiler.compile_section(section(allow("personality", action="SCMP_ACT_TRACE", errnoRet=3), defaultAction="SCMP_ACT_TRAP"))
    assert (run(program, PERSONALITY), run(program, READ)) == (0x7FF00003, 0x00030000)


def test_architectures_are_libseccomps() -> None:
    import pyseccomp

    theirs = {name: int(getattr(pyseccomp.Arch, name)) for name in dir(pyseccomp.Arch) if name.isupper() and name not in ("NATIVE", "X32")}
    ours = {name.removeprefix("SCMP_ARCH_"): token for name, (_, token) in compiler.ARCHITECTURES.items()}
    assert {name: ours[name] for name in theirs} == theirs
    assert ours["X32"] == ours["X86_64"]  # told apart by a bit of the number
    newer = {"LOONGARCH64": 0xC0000102, "M68K": 4, "SH": 0x4000002A, "SHEB": 0x2A}  # linux/audit.h
    assert {name: token for name, token in ours.items() if name not in (*theirs, "X32")} == newer


@pytest.mark.parametrize("heavy", [False, True])
def test_a_rule_that_libseccomp_refuses(heavy: bool) -> None:
    """No filter is better than half of one: also where another process has compiled it."""
    many = [allow("personality", args=[{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]) for value in range(9 if heavy else 1)]
    profile = section(*many, {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000})
    assert compiler._is_heavy(profile) == heavy
    with pytest.raises(ConfigError, match="libseccomp refuses the rule for socket") as caught:
        compiler.compile_section(profile)
    assert (caught.value.code, caught.value.pointer) == ("WHERRY-SECCOMP-COMPILE", f"/linux/seccomp/syscalls/{len(many)}")


def test_a_compiler_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.sys, "executable", "/bin/false")
    rules = [allow("personality", args=[{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]) for value in range(9)]
    with pytest.raises(ConfigError, match="compiling the profile failed"):
        compiler.compile_section(section(*rules))


def test_a_libseccomp_without_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_constant", lambda library, name: None)
    with pytest.raises(ConfigError, match="does not know SCMP_ARCH_X86") as caught:
        compiler.compile_section(section(allow("read"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]))
    assert caught.value.pointer == "/linux/seccomp/architectures/0"


def test_an_architecture_of_the_other_byte_order() -> None:
    with pytest.raises(ConfigError, match="SCMP_ARCH_S390") as caught:
        compiler.compile_section(section(allow("read"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_S390"]))
    assert caught.value.pointer == "/linux/seccomp/architectures/1"


def test_heaviness_begins_with_eight() -> None:
    for count in (7, 8):
        rules = [allow("personality", args=[{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]) for value in range(count)]
        assert compiler._is_heavy(section(*rules)) == (count == 8)


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
