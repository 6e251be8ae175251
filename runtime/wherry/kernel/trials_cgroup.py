# SPDX-License-Identifier: Apache-2.0
"""Trials of cgroups: a directory is made where a container's would be, used without any process of others, and removed."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from wherry.kernel.trials import CGROUP_NAME, call, clone3, errno_of, trial

_CLOEXEC = os.O_CLOEXEC


def _cgroup_places() -> list[tuple[str, str, str]]:
    """(version, controllers, directory in which a container's cgroup would be made) of every hierarchy."""
    from wherry.kernel.hostfacts import gather

    facts = gather()
    own = facts.uid != 0 or facts.user_namespace
    places = [("v1", ",".join(h.controllers), h.mount + (h.own if own else "/")) for h in facts.hierarchies]
    if facts.v2_mount:
        parent = facts.v2_own.rpartition("/")[0] if own else ""  # beside ours, which has processes
        places.append(("v2", "", facts.v2_mount + parent))
    return [(version, names, path.rstrip("/")) for version, names, path in places]


@trial("cgroups")
def _cgroups() -> list[dict[str, Any]]:
    return [_cgroup(*place) for place in _cgroup_places()]


def _cgroup(version: str, controllers: str, parent: str) -> dict[str, Any]:
    found: dict[str, Any] = {"version": version, "controllers": controllers.split(",") if controllers else [], "parent": parent}
    path = f"{parent}/{CGROUP_NAME}{os.getppid()}"
    found["made"] = errno_of(lambda: os.mkdir(path))
    if version == "v2":
        found["controllers"] = _words(f"{parent}/cgroup.controllers")
        found["enabled"] = _words(f"{parent}/cgroup.subtree_control")
        found["writable"] = os.access(f"{parent}/cgroup.subtree_control", os.W_OK) and os.access(f"{parent}/cgroup.procs", os.W_OK)
    if found["made"]:
        return found
    try:
        found.update(_v2_cgroup(path) if version == "v2" else _v1_cgroup(path, controllers.split(",")))
    finally:
        os.rmdir(path)
    return found


def _v1_cgroup(path: str, controllers: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "freezer" in controllers:
        found["freezer"] = errno_of(lambda: _write(f"{path}/freezer.state", "FROZEN", "THAWED"))
    if "devices" in controllers:
        found["devices"] = errno_of(lambda: _write(f"{path}/devices.deny", "a"))
    return found


def _v2_cgroup(path: str) -> dict[str, Any]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC)
    return {
        "freezer": errno_of(lambda: _write(f"{path}/cgroup.freeze", "1", "0")),
        "kill": os.path.exists(f"{path}/cgroup.kill"),
        "clone_into": errno_of(lambda: clone3(0x200000000, descriptor)),
        "devices": errno_of(lambda: _device_program(descriptor)),
    }


class _ProgramLoad(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32), ("count", ctypes.c_uint32), ("instructions", ctypes.c_void_p), ("license", ctypes.c_void_p),
        ("rest", ctypes.c_uint64 * 13),
    )  # fmt: skip


def _device_program(cgroup: int) -> None:
    """A BPF program that allows everything, on the trial's cgroup, which has no process."""
    code = ctypes.create_string_buffer(bytes.fromhex("b700000001000000" + "9500000000000000"))  # r0 = 1; exit
    license = ctypes.create_string_buffer(b"GPL")
    load = _ProgramLoad(15, 2, ctypes.addressof(code), ctypes.addressof(license))
    program = call("bpf", 5, ctypes.byref(load), ctypes.sizeof(load))
    attach = (ctypes.c_uint32 * 4)(cgroup, program, 6, 2)  # BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI
    call("bpf", 8, ctypes.byref(attach), ctypes.sizeof(attach))


def remove_cgroups() -> None:
    """What a killed trial left. The name holds our pid."""
    for _, _, parent in _cgroup_places():
        try:
            os.rmdir(f"{parent}/{CGROUP_NAME}{os.getpid()}")
        except OSError:
            pass


def _words(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().split()
    except OSError:
        return []


def _write(path: str, *texts: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | _CLOEXEC)
    try:
        for text in texts:
            os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
