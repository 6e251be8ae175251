# SPDX-License-Identifier: Apache-2.0
"""Containers that containerd's shims have made, ours and runc's: to be looked at, as far as their files can be read. Reads files: called in a thread."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from wherry.container.gc import container_ids
from wherry.container.lifecycle import opened
from wherry.errors import WherryError
from wherry.kernel.native import STATUS_NAMES
from wherry.oci.config import load
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.serve.messages import timestamp

WHERRY, RUNC = Path("/run/containerd/wherry"), Path("/run/containerd/runc")
_STATUSES = {"created": pb.CREATED, "running": pb.RUNNING, "paused": pb.PAUSED, "stopped": pb.STOPPED}
_START_TIME = 19
"""Of /proc/PID/stat behind the name in parentheses."""


def containers(wherry: Path = WHERRY, runc: Path = RUNC) -> list[Any]:
    return sorted([*_of_wherry(wherry), *_of_runc(runc)], key=lambda one: (one.owner, one.id))


def _directories(place: Path) -> list[Path]:
    try:
        return [entry for entry in place.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _of_wherry(place: Path) -> Iterator[Any]:
    for namespace in _directories(place):
        for id in container_ids(str(namespace)):
            try:
                with opened(str(namespace), id) as record:
                    status = STATUS_NAMES[record.status()]
                    document: Any = load(record.state_json())
                    created = int(Path(namespace, id).stat().st_ctime_ns)
                    yield _container(namespace.name, id, document.get("bundle"), _STATUSES.get(status, pb.STOPPED), record.pid, created)
            except (WherryError, OSError):
                continue


def _of_runc(place: Path) -> Iterator[Any]:
    for namespace in _directories(place):
        for directory in _directories(namespace):
            try:
                state = json.loads((directory / "state.json").read_bytes())
                pid, begun = int(state["init_process_pid"]), str(state["init_process_start"])
                labels = state.get("config", {}).get("labels") or []
                bundle = next((label.removeprefix("bundle=") for label in labels if label.startswith("bundle=")), "")
                alive = _begun(pid) == begun
                yield _container(namespace.name, directory.name, bundle, pb.RUNNING if alive else pb.STOPPED, pid if alive else 0, _time(state.get("created")))
            except (OSError, ValueError, KeyError, TypeError):
                continue


def _container(namespace: str, id: str, bundle: str | None, status: Any, pid: int, created: int) -> Any:
    running = status in (pb.CREATED, pb.RUNNING, pb.PAUSED)
    return pb.Container(
        id=id, bundle=bundle or "", status=status, pid=pid if running else 0, created_at=timestamp(created), run=1, owner=f"containerd:{namespace}"
    )


def _begun(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START_TIME]
    except (OSError, IndexError):
        return ""


def _time(text: Any) -> int:
    try:
        return int(datetime.fromisoformat(str(text)).timestamp() * 1e9)
    except ValueError:
        return time.time_ns()
