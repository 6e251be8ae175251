# SPDX-License-Identifier: Apache-2.0
"""linux.seccomp to a classic BPF program, by libseccomp through pyseccomp, with an answer for system calls that the profile cannot know.

A profile lists what its author knew. A C library that is newer than the profile tries new system calls first and falls back on
ENOSYS, not on EPERM. So system calls with a number above the newest one that the profile names are answered with ENOSYS before
libseccomp's program sees them (runc does the same; without it programs break in containers when the host's profile is old).

libseccomp needs time that grows steeply with the rules on arguments of one system call; a section with many of them is compiled in a process
of its own with a deadline, so that no config can keep create busy for minutes.
"""

import sys
from struct import pack
from typing import Any

from ..errors import ConfigError

DEADLINE = 20.0  # seconds
MANY_ARGUMENT_RULES = 8  # on one system call
ENOSYS = 38
EPERM = 1
X32_BIT = 0x40000000
POINTER = "/linux/seccomp"

# name in the config -> (name in libseccomp, AUDIT_ARCH_* of linux/audit.h)
ARCHITECTURES = {
    "SCMP_ARCH_X86": ("x86", 0x40000003),
    "SCMP_ARCH_X86_64": ("x86_64", 0xC000003E),
    "SCMP_ARCH_X32": ("x32", 0xC000003E),
    "SCMP_ARCH_ARM": ("arm", 0x40000028),
    "SCMP_ARCH_AARCH64": ("aarch64", 0xC00000B7),
    "SCMP_ARCH_MIPS": ("mips", 0x00000008),
    "SCMP_ARCH_MIPS64": ("mips64", 0x80000008),
    "SCMP_ARCH_MIPS64N32": ("mips64n32", 0xA0000008),
    "SCMP_ARCH_MIPSEL": ("mipsel", 0x40000008),
    "SCMP_ARCH_MIPSEL64": ("mipsel64", 0xC0000008),
    "SCMP_ARCH_MIPSEL64N32": ("mipsel64n32", 0xE0000008),
    "SCMP_ARCH_PPC": ("ppc", 0x00000014),
    "SCMP_ARCH_PPC64": ("ppc64", 0x80000015),
    "SCMP_ARCH_PPC64LE": ("ppc64le", 0xC0000015),
    "SCMP_ARCH_S390": ("s390", 0x00000016),
    "SCMP_ARCH_S390X": ("s390x", 0x80000016),
    "SCMP_ARCH_PARISC": ("parisc", 0x0000000F),
    "SCMP_ARCH_PARISC64": ("parisc64", 0x8000000F),
    "SCMP_ARCH_RISCV64": ("riscv64", 0xC00000F3),
    "SCMP_ARCH_LOONGARCH64": ("loongarch64", 0xC0000102),
    "SCMP_ARCH_M68K": ("m68k", 0x00000004),
    "SCMP_ARCH_SH": ("sh", 0x4000002A),
    "SCMP_ARCH_SHEB": ("sheb", 0x0000002A),
}
_TOKENS = dict(ARCHITECTURES.values())

_PLAIN = {"SCMP_ACT_KILL": 0x0, "SCMP_ACT_KILL_THREAD": 0x0, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_TRAP": 0x00030000}
_PLAIN |= {"SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_NOTIFY": 0x7FC00000}
_NUMBERED = {"SCMP_ACT_ERRNO": 0x00050000, "SCMP_ACT_TRACE": 0x7FF00000}
_OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7}


def compile_section(section: dict[str, Any]) -> bytes:
    """struct sock_filter[]. Raises ConfigError where libseccomp refuses a rule, is missing, or does not come to an end."""
    if _is_heavy(section):
        return _compile_elsewhere(section)
    return _compile(section)


def _is_heavy(section: dict[str, Any]) -> bool:
    counts: dict[str, int] = {}
    for rule in section.get("syscalls") or ():
        if rule.get("args"):
            for name in rule["names"]:
                counts[name] = counts.get(name, 0) + len(rule["args"])
    return any(count >= MANY_ARGUMENT_RULES for count in counts.values())


def _compile_elsewhere(section: dict[str, Any]) -> bytes:
    import json
    import subprocess

    program = (
        "import sys, json; sys.path[:0] = json.loads(sys.argv[1]); from wherry.seccomp.compile import _compile; from wherry.errors import ConfigError\n"
        "try: sys.stdout.buffer.write(_compile(json.load(sys.stdin)))\n"
        "except ConfigError as e: sys.stderr.write(json.dumps([str(e), e.pointer])); sys.exit(3)"
    )
    command = [sys.executable or "/usr/bin/python3", "-I", "-S", "-c", program, json.dumps(sys.path)]
    try:
        done = subprocess.run(command, input=json.dumps(section).encode(), capture_output=True, timeout=DEADLINE, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"libseccomp was not done with this profile after {DEADLINE:.0f} s",
            code="WHERRY-SECCOMP-COMPILE",
            pointer=POINTER,
            remedy="use fewer rules with arguments for one system call",
        ) from None
    if done.returncode == 3:
        message, pointer = json.loads(done.stderr)
        raise ConfigError(message, code="WHERRY-SECCOMP-COMPILE", pointer=pointer)
    if done.returncode:
        raise ConfigError(f"compiling the profile failed: {done.stderr.decode().strip()}", code="WHERRY-SECCOMP-COMPILE", pointer=POINTER)
    return done.stdout


def _compile(section: dict[str, Any]) -> bytes:
    library = _library()
    default = _action(section["defaultAction"], section.get("defaultErrnoRet"))
    program = library.SyscallFilter(default)
    architectures = _architectures(program, library, section)
    _optimize(program)
    newest: dict[str, int] = {}
    for number, rule in enumerate(section.get("syscalls") or ()):
        _add_rule(program, library, rule, default, f"{POINTER}/syscalls/{number}")
        for architecture in architectures:
            for name in rule["names"]:
                found = library.resolve_syscall(_constant(library, architecture), name)
                newest[architecture] = max(newest.get(architecture, -1), found)
    return _unknown_calls(section, newest) + _export(program)


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"a seccomp profile needs libseccomp: {error}",
            code="WHERRY-SECCOMP-LIBRARY",
            pointer=POINTER,
            remedy="install libseccomp (package libseccomp2) or remove linux.seccomp",
        ) from error
    return pyseccomp


def _constant(library: Any, architecture: str) -> Any:
    return getattr(library.Arch, architecture.upper())


def _architectures(program: Any, library: Any, section: dict[str, Any]) -> list[str]:
    """Adds the section's architectures to the machine's own; returns libseccomp's names of all."""
    native = _native_name(library)
    names = [native] if native else []
    for number, wanted in enumerate(section.get("architectures") or ()):
        name = ARCHITECTURES[wanted][0]
        pointer = f"{POINTER}/architectures/{number}"
        try:
            constant = _constant(library, name)
        except AttributeError:
            constant = None
        if constant is None:
            raise ConfigError(f"this libseccomp does not know {wanted}", code="WHERRY-SECCOMP-COMPILE", pointer=pointer)
        if name in names:
            continue
        try:
            program.add_arch(constant)
        except OSError as error:  # of the other byte order
            raise ConfigError(f"libseccomp refuses {wanted}: {error}", code="WHERRY-SECCOMP-COMPILE", pointer=pointer) from error
        names.append(name)
    return names


def _native_name(library: Any) -> str:
    native = int(library.system_arch())
    for name, token in _TOKENS.items():
        if token == native and name != "x32":
            return name
    return ""


def _optimize(program: Any) -> None:
    try:  # a binary tree over the numbers: more time here, once, less at every load and call
        import pyseccomp

        program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    except (AttributeError, OSError, ValueError, RuntimeError):
        pass  # libseccomp before 2.5: a chain


def _action(name: str, value: int | None) -> int:
    if name in _NUMBERED:
        return _NUMBERED[name] | ((EPERM if value is None else value) & 0xFFFF)
    return _PLAIN[name]


def _add_rule(program: Any, library: Any, rule: dict[str, Any], default: int, pointer: str) -> None:
    action = _action(rule["action"], rule.get("errnoRet"))
    if action == default:
        return
    for name in rule["names"]:
        try:
            number = library.resolve_syscall(library.Arch.NATIVE, name)
        except ValueError:
            continue
        if number == -1:  # no libseccomp of this age knows it: nothing to match
            continue
        for arguments in _alternatives(rule.get("args") or []):
            try:
                program.add_rule(action, name, *arguments)
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(f"libseccomp refuses the rule for {name}: {error}", code="WHERRY-SECCOMP-COMPILE", pointer=pointer) from error


def _alternatives(args: list[dict[str, Any]]) -> list[list[Any]]:
    """Comparisons for each libseccomp rule. Two on one argument mean either (runc's convention): a rule for each comparison."""
    if not args:
        return [[]]
    comparisons = [_comparison(item) for item in args]
    indexes = [item["index"] for item in args]
    if len(set(indexes)) < len(indexes):
        return [[comparison] for comparison in comparisons]
    return [comparisons]


def _comparison(item: dict[str, Any]) -> Any:
    import pyseccomp

    operator = _OPERATORS[item["op"]]
    first, second = item.get("value", 0), item.get("valueTwo", 0)
    if item["op"] == "SCMP_CMP_MASKED_EQ":
        return pyseccomp.Arg(item["index"], operator, first, second)
    return pyseccomp.Arg(item["index"], operator, first)


def _export(program: Any) -> bytes:
    import os

    with os.fdopen(os.memfd_create("seccomp", os.MFD_CLOEXEC), "w+b") as file:
        program.export_bpf(file)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return os.read(file.fileno(), 1 << 20)


def _unknown_calls(section: dict[str, Any], newest: dict[str, int]) -> bytes:
    """Instructions before libseccomp's: ENOSYS for numbers above the newest one named, for each architecture."""
    lenient = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
    if section["defaultAction"] in lenient or not newest:
        return b""
    if section["defaultAction"] == "SCMP_ACT_ERRNO" and section.get("defaultErrnoRet") == ENOSYS:
        return b""
    blocks = [_block(name, number) for name, number in newest.items() if number >= 0]
    code = [_statement(0x20, 4)]  # A = arch
    for block in blocks:
        code += block
    return b"".join(code)


def _block(architecture: str, newest: int) -> list[bytes]:
    """Falls through to the next block with A = arch, or returns. x32 shares x86_64's token and is told apart by a bit of its numbers, `newest` among
    them: all of them are above x86_64's, whose block leaves them alone."""
    token = _TOKENS[architecture]
    refuse = _statement(0x06, _NUMBERED["SCMP_ACT_ERRNO"] | ENOSYS)
    tests = [_jump(0x25, newest, 0, 1), refuse]
    if architecture == "x86_64":
        tests = [_jump(0x35, X32_BIT, 2, 0), *tests]
    body = [_statement(0x20, 0), *tests, _statement(0x20, 4)]  # A = nr, ..., A = arch again
    return [_jump(0x15, token, 0, len(body)), *body]


def _statement(code: int, value: int) -> bytes:
    return pack("<HBBI", code, 0, 0, value)


def _jump(code: int, value: int, true: int, false: int) -> bytes:
    return pack("<HBBI", code, true, false, value)
