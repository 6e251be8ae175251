# SPDX-License-Identifier: Apache-2.0
"""What a server finds that another one has left: containers with their monitors, which hold what runs, and the records of what has ended.

Only a server that owns all containers below its root may do this: under containerd each is of the server that made it.
"""

import posix

from wherry.container.gc import collect, container_ids
from wherry.container.lifecycle import opened
from wherry.errors import WherryError
from wherry.kernel.native import STATUS_NAMES, constants
from wherry_shim import monitor
from wherry_shim.clean import read_record
from wherry_shim.keeper import Keeper, now
from wherry_shim.loop import Later
from wherry_shim.monitor import Monitor, Report
from wherry_shim.state import CREATED, PAUSED, RUNNING, STOPPED, Container, Process
from wherry_shim.stdio import Names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.kernel.native import Container as Record

    Message = dict[str, Any]

_STATUSES = {"created": CREATED, "running": RUNNING, "paused": PAUSED, "stopped": STOPPED}


async def adopt(keeper: Keeper) -> None:
    root = f"{keeper.setting.root}/{keeper.setting.namespace}"
    await keeper.loop.in_thread(lambda: collect(root))
    for id in container_ids(root):
        try:
            await _adopt(keeper, root, id)
        except (WherryError, OSError) as error:
            keeper.log("warning", f"{id}: is left alone: {error}")


async def _adopt(keeper: Keeper, root: str, id: str) -> None:
    reports, found = await _reports(keeper, f"{root}/{id}")
    with opened(root, id) as record:
        ended = _records(record)
        texts = [meta_of(report.texts.get("meta", b"{}")) for report in reports] + [end["process"] for end in ended]
        first: "Message" = next((text for text in texts if text.get("number") == "0"), {})
        container = Container(id, first.get("bundle") or _bundle(record), root, _names(first))
        container.has_rootfs = bool(first.get("rootfs"))
        container.shared_pid = bool(record.flags & constants.WHERRY_PLAN_SHARED_PID)
        container.last_number = max((int(text.get("number") or 0) for text in texts), default=0)
        for report in reports:
            _alive(container, report, record)
        for end in ended:
            _ended(container, end)
        if not first:
            _unwatched(container, record)
    keeper.take(container, found)


async def _reports(keeper: Keeper, directory: str) -> "tuple[list[Report], Monitor | None]":
    """What its monitor says lives; (nothing, None) where there is none any more."""
    try:
        found = Monitor.find(keeper.loop, directory)
    except OSError:
        return [], None
    reports: "list[Report]" = []
    listed = Later()

    def hear(report: Report) -> None:
        if report.kind == monitor.PROCESS:
            reports.append(report)
        elif report.kind == monitor.LISTED:
            listed.set()

    found.on_report, found.on_end = hear, listed.set
    await listed
    return reports, found


def _records(record: "Record") -> "list[Message]":
    names = [name for name in posix.listdir(record.directory) if name == "exit" or name.startswith("exit-")]
    return [end for name in sorted(names) if (end := read_record(record.directory, name))]


def meta_of(data: bytes) -> "Message":
    from wherry.oci.config import load

    found: "Message" = load(data)  # type: ignore[assignment]
    return found


def _names(text: "Message") -> Names:
    return Names(text.get("stdin") or "", text.get("stdout") or "", text.get("stderr") or "", bool(text.get("terminal")))


def _process(container: Container, text: "Message") -> Process:
    exec_id = text.get("exec_id") or ""
    if not exec_id:
        return container.init
    process = container.execs[exec_id] = Process(container, exec_id, int(text["number"]), _names(text))
    return process


def _alive(container: Container, report: Report, record: "Record") -> None:
    process = _process(container, meta_of(report.texts.get("meta", b"{}")))
    process.pid = report.pid
    process.pidfd, process.master = report.fds.pop("process", -1), report.fds.pop("master", -1)
    report.close()
    process.status = RUNNING if process.exec_id else _STATUSES.get(STATUS_NAMES[record.status()], RUNNING)
    if process.master >= 0:
        process.drained = Later()


def _ended(container: Container, end: "Message") -> None:
    process = _process(container, end["process"])
    process.pid, process.status, process.exit_status = end["pid"], STOPPED, end["status"]
    process.exited_at = {"seconds": end["seconds"], "nanos": end["nanos"]}
    process.ended.set()


def _unwatched(container: Container, record: "Record") -> None:
    """Its monitor was killed, and nobody is left who could tell how it ends."""
    init = container.init
    init.pid = record.pid
    try:
        init.pidfd = record.pidfd()
        init.status = _STATUSES.get(STATUS_NAMES[record.status()], RUNNING)
    except OSError:
        init.status, init.exit_status, init.exited_at = STOPPED, 255, now()
        init.ended.set()


def _bundle(record: "Record") -> str:
    from wherry.oci.config import load

    return str(load(record.state_json()).get("bundle") or "")
