# SPDX-License-Identifier: Apache-2.0
"""The compiler of launch plans, as an agenda."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.kernel.hostfacts import HostFacts
    from wherry.plan.options import Options


def wanted(config: "dict[str, Any]") -> "dict[str, Any]":
    """What gather() has to look for beyond the usual, for this configuration: gather(**wanted(config))."""
    raise NotImplementedError


def compile(config: "dict[str, Any]", facts: "HostFacts", options: "Options") -> bytes:
    """The launch plan of a checked configuration (oci.checks). ConfigError, HostError or PlanError name the field that cannot be done."""
    raise NotImplementedError
