# SPDX-License-Identifier: Apache-2.0
"""Rules of Landlock: what a process of the container may do below which path, whoever it is. Loaded when a configuration asks for it."""

from wherry.errors import ConfigError, HostError
from wherry.oci.landlock import POINTER, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.plan.compile import Job

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
ALL = (1 << 16) - 1
KNOWN = {3: TRUNCATE | (TRUNCATE - 1), 5: ALL}
"""ABI -> what it handles: the first one with which what may not be written cannot be truncated either, and the one that knows of devices."""
FLOOR = min(KNOWN)

_READ = EXECUTE | READ_FILE | READ_DIR
_ALLOWED = {"read": _READ, "use": _READ | WRITE_FILE | TRUNCATE | IOCTL_DEV, "write": ALL}


def handled(abi: int) -> int:
    return KNOWN[max(known for known in KNOWN if known <= abi)]


def add(job: "Job", annotation: str) -> None:
    abi = job.facts.landlock
    if abi < FLOOR:
        found = f"this one has ABI {abi}" if abi else "this one has none"
        raise HostError(
            f"the configuration asks for Landlock, of ABI {FLOOR} at least (Linux 6.2), and {found}",
            code="WHERRY-HOST-KERNEL",
            pointer=POINTER,
            remedy="take the annotation away, or use a kernel that has it (lsm=landlock,...)",
        )
    try:
        rules = parse(annotation)
    except ValueError as error:
        raise ConfigError(str(error), code="WHERRY-CONFIG-VALUE", pointer=POINTER) from None
    bits = handled(abi)
    job.b.landlock(bits, [(path, _ALLOWED[kind] & bits) for kind, path in rules], POINTER)
