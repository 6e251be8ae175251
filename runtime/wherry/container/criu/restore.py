# SPDX-License-Identifier: Apache-2.0
"""restore: the container's directory, cgroups and limits are made as by create; its processes by CRIU, out of the files of a checkpoint."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry.container.create import Prepared, check_terminal, interlude_of, native_create, prepare, worded
from wherry.container.criu import outside, service
from wherry.container.criu.checkpoint import CriuOptions
from wherry.container.criu.messages import RESTORE, Request
from wherry.container.options import CreateOptions
from wherry.container.run import become_attendant, hold_signals
from wherry.errors import HostError, PlanError, UsageError, exists
from wherry.kernel import mounts, native
from wherry.kernel.native import Failure, constants
from wherry.oci.config import load
from wherry.plan.describe import Plan

if TYPE_CHECKING:
    from wherry.container.interlude import Interlude
    from wherry.container.unit import UnitPart

LOG = "restore.log"
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 0x1, 0x20, 0x1000, 0x4000


@dataclass
class RestoreOptions(CriuOptions):
    lsm_profile: str = ""
    lsm_mount_context: str = ""


class _Restored:
    """What CRIU tells on the way."""

    def __init__(self, made: native.Create) -> None:
        self.made = made
        self.pid = 0
        self.master = -1

    def notice(self, notify: Any, descriptors: list[int]) -> None:
        if notify.script == "setup-namespaces":  # they are there, and nothing has been restored into them
            self.made.restore_steps(notify.pid)
        elif notify.script == "orphan-pts-master" and descriptors:
            self.master = descriptors.pop()
        elif notify.script == "post-restore":
            self.pid = notify.pid
        for descriptor in descriptors:
            os.close(descriptor)


def restore(options: RestoreOptions, create: CreateOptions, detach: bool, subreaper: bool) -> list[str]:
    """Returns warnings, once the processes run again; does not return at all when attached."""
    create.attached = not detach
    prepared, made = bring_back(options, create, hold_signals if not detach else lambda: None)
    try:
        master = made.take_console()
    finally:
        made.close()
    if not detach:
        become_attendant(create.root, create.id, "s" if subreaper else "", master)
    return prepared.warnings


def bring_back(options: RestoreOptions, create: CreateOptions, before: Callable[[], None] = lambda: None) -> tuple[Prepared, native.Create]:
    """To processes that run again, the first of them our child. The create is the caller's to close. before(): just before anything is made."""
    if os.geteuid():
        raise HostError("restore needs root", code="WHERRY-HOST-PERMISSION")
    if not (options.image_path / "inventory.img").exists():
        raise UsageError(f"{options.image_path}: no checkpoint", remedy="give its directory with --image-path")
    prepared = prepare(create)
    check_terminal(create, prepared)
    config: dict[str, Any] = load(prepared.config)  # type: ignore[assignment]
    _refuse(config, prepared.flags)
    options.work_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    before()
    interlude = interlude_of(create, prepared)
    made = _begin(create, prepared, interlude)
    restored = _Restored(made)
    try:
        _run(options, create, Plan(prepared.plan), config, restored, interlude.unit if interlude else None)
    except BaseException as error:
        made.abort()
        made.close()
        if interlude:
            interlude.undo(error)
        if isinstance(error, Failure):
            raise worded(error, prepared, create) from error
        raise
    try:
        made.finish_restore(restored.pid, restored.master)
    except BaseException:
        made.close()
        raise
    return prepared, made


def _refuse(config: dict[str, Any], flags: int) -> None:
    """A device that was moved in came back out of the checkpoint, or could not be written to it; a class of resctrl has to be joined by whoever
    is not restored yet."""
    remedies = {
        "netDevices": "leave it out of the configuration for the restore; then ip link set DEVICE netns PID",
        "intelRdt": "leave it out of the configuration for the restore; then write the pids to the class's tasks",
    }
    for key in remedies if flags & constants.WHERRY_PLAN_INTERLUDE else ():
        if config["linux"].get(key):
            raise PlanError(f"{key} cannot be restored", code="WHERRY-PLAN-UNSUPPORTED", pointer=f"/linux/{key}", remedy=remedies[key])


def _begin(create: CreateOptions, prepared: Prepared, interlude: "Interlude | None") -> native.Create:
    made = native_create(create, prepared, extra=interlude.extra if interlude else ())
    try:
        made.begin_restore()
    except Failure as failure:
        made.close()
        if failure.error == constants.WHERRY_EXISTS:
            raise exists(create.id) from failure
        raise worded(failure, prepared, create) from failure
    return made


def _run(
    options: RestoreOptions, create: CreateOptions, plan: Plan, config: dict[str, Any], restored: _Restored, unit: "UnitPart | None" = None
) -> None:
    rootfs = next(step.fields["path"] for step in plan.steps if step.name == "ATTACH_ROOTFS").replace("<bundle>", create.bundle)
    seen = outside.Outside.read(options.image_path)
    with ExitStack() as stack:
        inherited = _inherited(stack, seen, config)
        external = outside.bound(plan, create.bundle, create.id)
        _make_mount_points(rootfs, external, config)
        external |= {path: outside.MASK for path in seen.masked}
        place = stack.enter_context(_bound(rootfs, bool(config["root"].get("readonly"))))
        images, work = (_directory(stack, path) for path in (options.image_path, options.work_path))
        opts: dict[str, Any] = {
            **options.common(),
            "images_dir_fd": images,
            "work_dir_fd": work,
            "log_file": LOG,
            "root": place,
            "rst_sibling": True,
            "evasive_devices": True,
            "notify_scripts": True,
            "ext_mnt": [{"key": destination, "val": source} for destination, source in external.items()],
            "inherit_fd": [{"key": key, "fd": fd} for key, fd in inherited],
            "cg_root": _cgroup_roots(plan, create.id, unit),
        }
        for name in ("lsm_profile", "lsm_mount_context"):
            if value := getattr(options, name):
                opts[name] = value
        with service.Service([images, work, *(fd for _, fd in inherited)]) as criu:
            if unit:  # systemd takes CRIU in, as it takes in init at a create: what is born of it is in the unit
                unit.perform(restored.made, criu.process.pid)
            restored.made.restore_steps()
            _enter_cgroups(plan, create.id, criu.process.pid)
            response = criu.ask(Request(type=RESTORE, opts=opts), restored.notice)
        if not response.success:
            raise service.failed("restore", options.work_path / LOG, response)
        restored.pid = restored.pid or response.restore.pid


def _directory(stack: ExitStack, path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, descriptor)
    return descriptor


@contextmanager
def _bound(rootfs: str, readonly: bool) -> Iterator[str]:
    """A place where the rootfs is a mount, as CRIU wants it: in a mount namespace of ours, so that nothing of it is left whatever happens.
    CRIU takes its flags over."""
    place = tempfile.mkdtemp(prefix="wherry-restore-")
    before = mounts.own_mounts()
    try:
        mounts.mount(rootfs, place, "", MS_BIND | MS_REC, "")
        if readonly:
            mounts.mount("", place, "", MS_BIND | MS_REMOUNT | MS_RDONLY, "")
        yield place
    finally:
        mounts.leave_mounts(before)
        os.close(before)
        os.rmdir(place)


def _inherited(stack: ExitStack, seen: outside.Outside, config: dict[str, Any]) -> list[tuple[str, int]]:
    """Our stdio in place of the pipes and files that the processes had; the joined namespaces of this host."""
    found: dict[str, int] = {}
    for number, name in enumerate(seen.descriptors):
        if name and name not in found:
            found[name] = os.dup(number)  # CRIU has a stdio of its own
            stack.callback(os.close, found[name])
    for name, path in outside.external_namespaces(config):
        descriptor = os.open(path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        found[name] = descriptor
    return list(found.items())


def _make_mount_points(rootfs: str, sources: dict[str, str], config: dict[str, Any]) -> None:
    """In a rootfs that never held the container. The binds are mounted meanwhile, for one may lie below another; it is done in a mount
    namespace of ours, so nothing but the mount points stays. What lies below other mounts comes out of the images."""
    others = [mount["destination"].rstrip("/") + "/" for mount in config.get("mounts") or () if os.path.normpath(mount["destination"]) not in sources]
    before = mounts.own_mounts()
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY)
    try:
        for destination in (mount["destination"] for mount in config.get("mounts") or ()):
            if destination.startswith(tuple(prefix for prefix in others if prefix != f"{destination.rstrip('/')}/")):
                continue
            source = sources.get(os.path.normpath(destination))
            descriptor = mounts.make_inside(root, destination, source is None or stat.S_ISDIR(os.stat(source).st_mode))
            if source is not None:
                mounts.mount(source, f"/proc/self/fd/{descriptor}", "", MS_BIND | MS_REC, "")
            os.close(descriptor)
    finally:
        os.close(root)
        mounts.leave_mounts(before)
        os.close(before)


def _cgroups(plan: Plan, id: str) -> Iterator[tuple[str, int, bool]]:
    """Path, how much of it is the mount, whether of v2."""
    for step in plan.steps:
        if step.name == "CGROUP_DIRECTORY":
            path = step.fields["path"].replace("<id>", id)
            yield path, step.fields["mount_length"], bool(step.fields["flags"] & constants.WHERRY_CGROUP_V2)


def _enter_cgroups(plan: Plan, id: str, pid: int) -> None:
    """CRIU itself: what it makes is then in the container's cgroups, whatever --manage-cgroups-mode says about those below them."""
    for path, _, _ in _cgroups(plan, id):
        Path(path, "cgroup.procs").write_text(str(pid))


def _cgroup_roots(plan: Plan, id: str, unit: "UnitPart | None" = None) -> list[dict[str, str]]:
    """The new cgroup of each hierarchy, in the place of what was the old one."""
    found = [{"ctrl": "name=systemd", "path": unit.made.cgroup}] if unit and not any(v2 for _, _, v2 in _cgroups(plan, id)) else []
    for path, length, v2 in _cgroups(plan, id):
        mount, inside = path[:length], path[length:]
        if v2:
            found.append({"path": inside} if mount.count("/") == 3 else {"ctrl": "", "path": inside})
        else:
            name = mount.rpartition("/")[2]
            found.append({"ctrl": f"name={name}" if name == "systemd" else name, "path": inside})
    return found
