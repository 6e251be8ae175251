# SPDX-License-Identifier: Apache-2.0
"""Shape and rules of /linux/seccomp. Loaded when it is there."""

from wherry.oci.shape import U32, U64, Object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.oci.model import Seccomp, SeccompRule
    from wherry.oci.shape import Report

ACTIONS = frozenset(f"SCMP_ACT_{name}" for name in "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY".split())
OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in "NE LT LE EQ GE GT MASKED_EQ".split())
ARCHITECTURES = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X "
        "PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
    ).split()
)
FLAGS = frozenset(f"SECCOMP_FILTER_FLAG_{name}" for name in "TSYNC LOG SPEC_ALLOW WAIT_KILLABLE_RECV".split())

_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_NOTIFY = "SCMP_ACT_NOTIFY"


def default_action(profile: "Seccomp", place: str, report: "Report") -> None:
    action = profile["defaultAction"]
    if action == _NOTIFY:
        report.error("SECCOMP", f"{place}/defaultAction", "SCMP_ACT_NOTIFY cannot be the default: the listener could not even be set up")
    if "defaultErrnoRet" in profile and action not in _WITH_ERRNO:
        report.error("SECCOMP", f"{place}/defaultErrnoRet", f"{action} has no error number", "remove it, or use SCMP_ACT_ERRNO")


def listener(profile: "Seccomp", place: str, report: "Report") -> None:
    uses = [index for index, rule in enumerate(profile.get("syscalls", ())) if rule["action"] == _NOTIFY]
    path = profile.get("listenerPath")
    if uses and not path:
        report.error("SECCOMP", f"{place}/syscalls/{uses[0]}/action", "SCMP_ACT_NOTIFY needs a listener", f"add {place}/listenerPath")
    if path and path[0] != "/":
        report.error("PATH", f"{place}/listenerPath", f'"{path}" is not an absolute path', "begin it with /")
    if profile.get("listenerMetadata") and not path:
        report.error("SECCOMP", f"{place}/listenerMetadata", "needs listenerPath")
    if path and not uses:
        report.warn("SECCOMP", f"{place}/listenerPath", "no rule uses SCMP_ACT_NOTIFY: the listener hears nothing")
    if "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" in profile.get("flags", ()) and not uses:
        report.error("SECCOMP", f"{place}/flags", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is for filters with SCMP_ACT_NOTIFY only")


def rule_errno(rule: "SeccompRule", place: str, report: "Report") -> None:
    if "errnoRet" in rule and rule["action"] not in _WITH_ERRNO:
        report.error("SECCOMP", f"{place}/errnoRet", f"{rule['action']} has no error number", "remove it, or use SCMP_ACT_ERRNO")


def rule_names(rule: "SeccompRule", place: str, report: "Report") -> None:
    if not rule["names"]:
        report.error("SECCOMP", f"{place}/names", "names at least one system call")
    elif "" in rule["names"]:
        report.error("SECCOMP", f"{place}/names/{rule['names'].index('')}", "the name of a system call is empty")
    if rule["action"] == _NOTIFY and "write" in rule["names"]:
        place = f"{place}/names/{rule['names'].index('write')}"
        report.error("SECCOMP", place, "SCMP_ACT_NOTIFY cannot be used for the write syscall: the container needs it before anyone listens")


def rule_masks(rule: "SeccompRule", place: str, report: "Report") -> None:
    for index, argument in enumerate(rule.get("args", ())):
        if argument.get("valueTwo") and argument["op"] != "SCMP_CMP_MASKED_EQ":
            report.warn("SECCOMP", f"{place}/args/{index}/valueTwo", "only SCMP_CMP_MASKED_EQ reads it")


_ARGUMENT = Object({"index": (0, 5), "value": U64, "valueTwo": U64, "op": OPERATORS}, ("index", "value", "op"))
_RULE = Object(
    {"names": [str], "action": ACTIONS, "errnoRet": U32, "args": [_ARGUMENT]},
    ("names", "action"),
    (rule_names, rule_errno, rule_masks),
)
SECCOMP = Object(
    {
        "defaultAction": ACTIONS,
        "defaultErrnoRet": U32,
        "architectures": [ARCHITECTURES],
        "flags": [FLAGS],
        "listenerPath": str,
        "listenerMetadata": str,
        "syscalls": [_RULE],
    },
    ("defaultAction",),
    (default_action, listener),
)
