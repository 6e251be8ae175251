# SPDX-License-Identifier: Apache-2.0
"""What a launch plan depends on besides the configuration and the host: the caller's options."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


def _no_seccomp(section: "dict[str, Any]") -> "tuple[bytes, int]":
    raise ValueError("a configuration with linux.seccomp needs Options(seccomp=...)")


class Options:
    """The defaults are those of a plain `create`.

    seccomp(section) -> (struct sock_filter[], SECCOMP_FILTER_FLAG_*): compiles linux.seccomp, so that this floor stays pure.
    bundle: None = a slot of the plan, filled in when it is executed; a path is written into the plan (`wherry plan` shows it).
    cgroup_manager: "cgroupfs", "systemd", or "disabled" = the container stays in the caller's cgroups, and has no limits.
    adopts: an exec's program gets what its descendants leave, as a subreaper does.
    environment: entries that are added to process.env (LISTEN_FDS and the like). With any, the plan is not for the cache.
    warnings: what is left out on purpose (an unknown capability, ...) is appended here, one text each.
    """

    __slots__ = (
        "adopts",
        "attached_terminal",
        "build_id",
        "bundle",
        "cgroup_manager",
        "environment",
        "no_new_keyring",
        "no_pivot",
        "preserve_fds",
        "rootless",
        "seccomp",
        "warnings",
    )

    def __init__(
        self,
        *,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        preserve_fds: int = 0,
        attached_terminal: bool = False,
        rootless: "bool | None" = None,
        bundle: "str | None" = None,
        cgroup_manager: str = "cgroupfs",
        environment: "Sequence[str]" = (),
        seccomp: "Callable[[dict[str, Any]], tuple[bytes, int]]" = _no_seccomp,
        build_id: bytes = b"",
    ) -> None:
        self.adopts = False
        self.no_pivot = no_pivot
        self.no_new_keyring = no_new_keyring
        self.preserve_fds = preserve_fds
        self.attached_terminal = attached_terminal
        self.rootless = rootless  # None: as the facts say (not root, or root without privileges over the host)
        self.bundle = bundle
        self.cgroup_manager = cgroup_manager
        self.environment = environment
        self.seccomp = seccomp
        self.build_id = build_id  # b"" = this build's
        self.warnings: "list[str]" = []
