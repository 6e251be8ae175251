# SPDX-License-Identifier: Apache-2.0
"""What the supervisor refuses, each in one place with its code, reason and remedy."""

from __future__ import annotations

import errno

from grpc import StatusCode

from wherry_shim.serve.errors import Refusal as Refusal


def refuse(code: StatusCode, text: str, remedy: str = "", reason: str = "WHERRY-STATE-REFUSED", **more: str) -> Refusal:
    return Refusal(code, text, reason, remedy=remedy, **more)  # type: ignore[arg-type]


def not_found(id: str) -> Refusal:
    return refuse(StatusCode.NOT_FOUND, f"container {id[:300]} is not there", "List tells which are", "WHERRY-STATE-NOT-FOUND", resource=id)


def no_exec(id: str, exec_id: str) -> Refusal:
    text = f"container {id} has no exec {exec_id[:300]}"
    return refuse(StatusCode.NOT_FOUND, text, "Get tells which there are", "WHERRY-STATE-NOT-FOUND", resource=exec_id)


def exists(id: str) -> Refusal:
    return refuse(StatusCode.ALREADY_EXISTS, f"container {id} is there already", "choose another id, or Delete it", "WHERRY-STATE-EXISTS", resource=id)


def exec_exists(id: str) -> Refusal:
    return refuse(StatusCode.ALREADY_EXISTS, f"exec {id} is there already", "choose another id, or resume it", "WHERRY-STATE-EXISTS", resource=id)


def foreign(id: str) -> Refusal:
    text = f"container {id} was made through containerd.task.v3.Task"
    return refuse(StatusCode.FAILED_PRECONDITION, text, "who made it changes and deletes it", resource=id)


def wrong_phase(verb: str, id: str, phase: str) -> Refusal:
    state = {"ended": "stopped", "restarting": "waiting"}.get(phase, phase)
    remedies = {"stopped": "Start it", "created": "Start it", "waiting": "wait for its restart, or Start it", "running": "Stop it first"}
    return refuse(StatusCode.FAILED_PRECONDITION, f"cannot {verb} a container that is {state}", remedies.get(state, "Get tells how it is"), resource=id)


def still_running(id: str) -> Refusal:
    return refuse(StatusCode.FAILED_PRECONDITION, f"container {id} is running", "Stop it first, or set force", resource=id)


def does_not_end(id: str) -> Refusal:
    text = f"container {id} was killed and has not ended yet"
    return refuse(StatusCode.DEADLINE_EXCEEDED, text, "a process of it may wait for a device: try again", "WHERRY-DEADLINE", resource=id)


def disk_full(place: str) -> Refusal:
    text = f"no space is left below {place}: nothing new is begun that could not be written down"
    remedy = f"make room there: wherry-shim ctl rm, or delete what else fills the disk of {place}"
    return refuse(StatusCode.RESOURCE_EXHAUSTED, text, remedy, "WHERRY-SHIM-DISK")


def of_os_error(error: OSError, place: str) -> Refusal:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(place)
    text = f"{error.filename or place}: {(error.strerror or str(error)).lower()}"
    return refuse(StatusCode.FAILED_PRECONDITION, text, f"look at what is wrong with {error.filename or place}", "WHERRY-HOST")


def no_bundle(bundle: str, error: OSError) -> Refusal:
    text = f"{error.filename or bundle}: {(error.strerror or '').lower()}"
    remedy = "the bundle is a directory on the server's host, with config.json; or send the configuration"
    return refuse(StatusCode.INVALID_ARGUMENT, text, remedy, "WHERRY-USAGE-BUNDLE", field="bundle")


def too_many_execs(id: str, most: int) -> Refusal:
    text = f"container {id} has {most} execs already"
    return refuse(StatusCode.RESOURCE_EXHAUSTED, text, "wait for some to end, or DeleteExec", "WHERRY-SHIM-EXECS", resource=id)


def bad(field: str, text: str, remedy: str = "") -> Refusal:
    return refuse(StatusCode.INVALID_ARGUMENT, f"{field}: {text}", remedy, "WHERRY-USAGE", field=field)
