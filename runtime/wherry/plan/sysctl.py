# SPDX-License-Identifier: Apache-2.0
"""linux.sysctl. oci.checks has seen that each is confined to a namespace that the configuration names; here, that it is not the host's."""

from wherry.errors import ConfigError
from wherry.kernel.native import constants
from wherry.oci.checks_resources import sysctl_namespace, sysctl_path
from wherry.oci.shape import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.plan.compile import Job


def add(job: "Job") -> None:
    for key, value in job.linux["sysctl"].items():
        pointer = f"/linux/sysctl/{escape(key)}"
        path = sysctl_path(key) or key
        kind = sysctl_namespace(path) or ""
        joined = job.namespaces.get(kind, ("", ""))[0]
        if joined:
            job.flags &= ~constants.WHERRY_PLAN_CACHEABLE  # what that path is, is no fact that the key covers
            fact = job.facts.namespaces.get(joined)
            if fact is not None and fact.ours:
                raise ConfigError(
                    f"{key} would change the host: the {kind} namespace is the caller's own", code="WHERRY-CONFIG-SYSCTL", pointer=pointer
                )
        job.b.sysctl(path, value, pointer)
