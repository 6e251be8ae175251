# SPDX-License-Identifier: Apache-2.0
"""What containers use, as messages. Reads files: called in a thread."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from wherry.container.delegation import no_cgroup
from wherry.container.execute import cgroups_of
from wherry.container.lifecycle import opened
from wherry.container.metrics import Sample
from wherry.container.metrics import samples as take
from wherry.errors import WherryError
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.serve.messages import timestamp

_UNLIMITED = 1 << 62


def samples(root: str, ids: Iterable[str], named: bool = False) -> list[Any]:
    """Of what cannot be measured nothing is said; that it cannot, where it was named."""
    wanted = list(ids)
    found = take(root.rstrip("/"), wanted) if wanted else []
    blind = {one.id for one in found if not one.data["memory"]["usage"]["usage"] and not _measured(root, one.id)}
    if named and blind:
        raise no_cgroup(f'container "{min(blind)}" has no cgroup that could be measured', min(blind))
    return [_message(one) for one in found if one.id not in blind]


def _measured(root: str, id: str) -> bool:
    try:
        with opened(root.rstrip("/"), id) as container:
            return bool(cgroups_of(container))
    except WherryError:  # it has gone
        return True


def _message(sample: Sample) -> Any:
    data = sample.data
    usage, throttling, memory = data["cpu"]["usage"], data["cpu"]["throttling"], data["memory"]["usage"]
    return pb.Sample(
        id=sample.id,
        time=timestamp(time.time_ns()),
        cpu_usec=usage["total"] // 1000,
        cpu_user_usec=usage["user"] // 1000,
        cpu_system_usec=usage["kernel"] // 1000,
        cpu_throttled_usec=throttling["throttledTime"] // 1000,
        memory_bytes=memory["usage"],
        memory_limit_bytes=memory["limit"] if memory["limit"] < _UNLIMITED else 0,
        memory_peak_bytes=memory["max"],
        pids=data["pids"]["current"],
        pids_limit=data["pids"]["limit"],
        read_bytes=sample.block("ioServiceBytesRecursive", "Read"),
        written_bytes=sample.block("ioServiceBytesRecursive", "Write"),
        oom_kills=sample.oom_kills,
        cpu_pressure=_pressure(data["cpu"]),
        memory_pressure=_pressure(data["memory"]),
        io_pressure=_pressure(data["blkio"]),
    )


def _pressure(section: dict[str, Any]) -> float:
    return float(section.get("psi", {}).get("some", {}).get("avg10", 0.0))
