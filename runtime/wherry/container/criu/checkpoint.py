# SPDX-License-Identifier: Apache-2.0
"""checkpoint: CRIU writes the processes of a container to files; unless it is to go on, the container ends with it."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wherry.container.criu import outside, service
from wherry.container.criu.messages import CGROUP_MODES, DUMP, FEATURE_CHECK, PRE_DUMP, Request
from wherry.container.hooks import config_copy
from wherry.container.lifecycle import destroy, lock, opened
from wherry.container.pause import find_freezer
from wherry.errors import HostError, StateError, UsageError, refused
from wherry.kernel.native import STATUS_NAMES, Container
from wherry.oci.config import load
from wherry.plan.describe import Plan

_CLONE = {"network": 0x40000000}
LOG = "dump.log"


@dataclass
class CriuOptions:
    """What checkpoint and restore have in common; the names are those of the command line."""

    root: str
    id: str
    image_path: Path
    work_path: Path
    tcp_established: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    lazy_pages: bool = False
    file_locks: bool = False
    auto_dedup: bool = False
    cgroups_mode: str = "soft"
    empty_ns: list[str] = field(default_factory=list)

    def common(self) -> dict[str, Any]:
        """criu_opts"""
        bits = 0
        for name in self.empty_ns:
            if name not in _CLONE:
                raise UsageError(f'invalid value "{name}" for flag -empty-ns: only network can be left empty')
            bits |= _CLONE[name]
        if self.cgroups_mode not in CGROUP_MODES:
            raise UsageError(f'invalid value "{self.cgroups_mode}" for flag -manage-cgroups-mode: one of {", ".join(CGROUP_MODES)}')
        return {
            "log_level": 4,
            "tcp_established": self.tcp_established,
            "ext_unix_sk": self.ext_unix_sk,
            "shell_job": self.shell_job,
            "file_locks": self.file_locks,
            "auto_dedup": self.auto_dedup,
            "lazy_pages": self.lazy_pages,
            "orphan_pts_master": True,
            "manage_cgroups": True,
            "manage_cgroups_mode": CGROUP_MODES[self.cgroups_mode],
            "empty_ns": bits,
        }


@dataclass
class CheckpointOptions(CriuOptions):
    parent_path: Path | None = None
    leave_running: bool = False
    tcp_skip_in_flight: bool = False
    link_remap: bool = False
    pre_dump: bool = False
    status_fd: int = -1
    page_server: tuple[str, int] | None = None


def checkpoint(options: CheckpointOptions) -> None:
    parent = options.parent_path
    if parent is not None and (parent.is_absolute() or not (options.image_path / parent / "inventory.img").exists()):
        text = f"--parent-path {parent}: not the files of an earlier --pre-dump, relative to --image-path"
        raise UsageError(text, remedy="make them first with --pre-dump")
    with opened(options.root, options.id) as container:
        lock(container, "checkpoint", options.id)
        status = STATUS_NAMES[container.status()]
        if status not in ("running", "paused"):
            raise refused("checkpoint", status, options.id)
        if os.geteuid():
            raise HostError("checkpoint needs root", code="WHERRY-HOST-PERMISSION")
        config: dict[str, Any] = load(config_copy(container))  # type: ignore[assignment]
        if not any(entry["type"] == "mount" for entry in (config.get("linux") or {}).get("namespaces") or ()):
            raise HostError("CRIU cannot write a container without a mount namespace", code="WHERRY-HOST-CRIU")
        for path in (options.image_path, options.work_path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _dump(container, config, options)
        if not options.leave_running and not options.pre_dump:
            destroy(container, kill_first=True)


def _dump(container: Container, config: dict[str, Any], options: CheckpointOptions) -> None:
    images, work = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (options.image_path, options.work_path))
    plan = Plan(container.kept("plan"))
    state: dict[str, Any] = load(container.state_json())  # type: ignore[assignment]
    seen = outside.look(container.pid, config, plan)
    fds = [images, work] + ([options.status_fd] if options.status_fd >= 0 else [])
    try:
        with service.Service(fds) as criu:
            service.version(criu)
        with service.Service(fds) as criu:
            request = Request(type=PRE_DUMP if options.pre_dump else DUMP, opts=_opts(container, plan, state, seen, options, images, work))
            if options.pre_dump:
                _need_memory_tracking()
            seen.write(options.image_path)  # before CRIU is done: with --lazy-pages it is restored meanwhile
            response = criu.ask(request)
        if not response.success:
            raise service.failed("dump", options.work_path / LOG, response)
    finally:
        os.close(images)
        os.close(work)


def _opts(
    container: Container, plan: Plan, state: dict[str, Any], seen: outside.Outside, options: CheckpointOptions, images: int, work: int
) -> dict[str, Any]:
    mounts = {seen.places.get(destination, destination): destination for destination in outside.bound(plan, state["bundle"], options.id)}
    mounts |= {path: path for path in seen.masked}
    opts: dict[str, Any] = {
        **options.common(),
        "images_dir_fd": images,
        "work_dir_fd": work,
        "log_file": LOG,
        "root": state["rootfs"],
        "pid": container.pid,
        "leave_running": options.leave_running or options.pre_dump,
        "tcp_skip_in_flight": options.tcp_skip_in_flight,
        "link_remap": options.link_remap,
        "ext_mnt": [{"key": destination, "val": name} for destination, name in mounts.items()],
        "external": seen.external,
    }
    freezer = find_freezer(container)
    if freezer is not None:  # CRIU can stop it as a whole; it stays frozen where it was paused before
        opts["freeze_cgroup"] = freezer.path
    if options.parent_path is not None:
        opts["parent_img"] = os.fspath(options.parent_path)
    if options.parent_path is not None or options.pre_dump:
        opts["track_mem"] = True
    if options.status_fd >= 0:
        opts["status_fd"] = options.status_fd
    if options.page_server is not None:
        opts["ps"] = {"address": options.page_server[0], "port": options.page_server[1]}
    return opts


def _need_memory_tracking() -> None:
    with service.Service() as criu:
        response = criu.ask(Request(type=FEATURE_CHECK, features={"mem_track": True}))
    if not response.success or not response.features.mem_track:
        raise StateError("this kernel cannot tell which memory has changed: no --pre-dump", code="WHERRY-HOST-CRIU", remedy="checkpoint without it")
