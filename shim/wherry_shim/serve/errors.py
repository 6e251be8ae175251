# SPDX-License-Identifier: Apache-2.0
"""What a call fails with: a status of gRPC, a text, and google.rpc details that a program can act on.

    raise Refusal(StatusCode.NOT_FOUND, f"container {id} is not there", "WHERRY-STATE-NOT-FOUND", resource=id)

A Refusal says it all. A ShimError of the service, and a WherryError of the runtime, have their own code, pointer and remedy. Anything else is a defect:
the client gets INTERNAL and an id, which is in the log together with the rest.
"""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from wherry.codes import CODES, STATUSES
from wherry.errors import WherryError
from wherry.kernel.native import Failure
from wherry_shim.errors import UNKNOWN, ShimError

DOMAIN = "wherry"
DETAILS_KEY = "grpc-status-details-bin"
NUMBERS: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}
TEXT_LIMIT = 1000
"""In bytes. Metadata has 8 KiB, and the text is in it twice: what is longer would be lost as a whole."""

REASONS = {
    StatusCode.NOT_FOUND: "WHERRY-STATE-NOT-FOUND",
    StatusCode.ALREADY_EXISTS: "WHERRY-STATE-EXISTS",
    StatusCode.FAILED_PRECONDITION: "WHERRY-STATE-REFUSED",
    StatusCode.INVALID_ARGUMENT: "WHERRY-USAGE",
    StatusCode.DEADLINE_EXCEEDED: "WHERRY-DEADLINE",
    StatusCode.UNIMPLEMENTED: "WHERRY-PLAN-UNSUPPORTED",
}
"""Of a ShimError, which has a text only."""


@dataclass
class Refusal(Exception):
    """`field`: of the request, where that is what is wrong; `resource`: the id that is not there; `retry`: seconds; `facts`: more of ErrorInfo.metadata."""

    code: StatusCode
    message: str
    reason: str
    pointer: str = ""
    remedy: str = ""
    field: str = ""
    resource: str = ""
    retry: float | None = None
    facts: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Status:
    code: StatusCode
    text: str
    metadata: tuple[tuple[str, str | bytes], ...]


def refusal_of(error: BaseException) -> Refusal | None:
    """None: a defect."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ShimError):
        return None if _is_defect(error) else _of_shim_error(error)
    if isinstance(error, WherryError):
        return _of_wherry_error(error)
    return None


def _is_defect(error: ShimError) -> bool:
    """The service has made UNKNOWN of something that it did not expect."""
    return error.code == UNKNOWN and isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, WherryError | OSError | Failure)


def _of_shim_error(error: ShimError) -> Refusal:
    """Where the runtime's own error is behind it, that one knows more."""
    code = NUMBERS.get(error.code, StatusCode.UNKNOWN)
    if code is StatusCode.UNKNOWN and error.text.startswith("cannot "):  # of the table of states: containerd's shims give it no code
        code = StatusCode.FAILED_PRECONDITION
    cause = error.known or error.__cause__
    if isinstance(cause, WherryError):
        known = _of_wherry_error(cause)
        known.message = str(error)
        if code is not StatusCode.UNKNOWN:
            known.code = code
        return known
    return Refusal(code, str(error), REASONS.get(code, "WHERRY-HOST"))


def _of_wherry_error(error: WherryError) -> Refusal:
    known = CODES.get(error.code)
    code = NUMBERS[STATUSES[known.status]] if known else StatusCode.UNKNOWN
    facts = {name: str(value) for name, value in error.facts.items()}
    return Refusal(code, str(error), error.code, error.pointer or "", error.remedy or (known.remedy if known else ""), facts=facts)


def internal(error: BaseException) -> tuple[Refusal, str]:
    """What the client is told of a defect, and the id that the log has."""
    id = secrets.token_hex(6)
    remedy = f"look for {id} in the server's log, and report it"
    return Refusal(StatusCode.INTERNAL, f"internal error {id} ({type(error).__name__})", "WHERRY-INTERNAL", remedy=remedy, facts={"id": id}), id


def status_of(refusal: Refusal) -> Status:
    text = _cut(refusal.message, TEXT_LIMIT)
    status = status_pb2.Status(code=refusal.code.value[0], message=text)
    status.details.extend(_packed(message) for message in _details(refusal))
    return Status(refusal.code, text, ((DETAILS_KEY, status.SerializeToString()),))


def _details(refusal: Refusal) -> list[Message]:
    metadata = {"pointer": refusal.pointer, "remedy": refusal.remedy, **dict(list(refusal.facts.items())[:8])}
    metadata = {name[:64]: _cut(value, 300 if name in ("pointer", "remedy") else 150) for name, value in metadata.items() if value}
    found: list[Message] = [error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=metadata)]
    if refusal.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=refusal.field, description=_cut(refusal.message, 200))
        found.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if refusal.resource:
        found.append(error_details_pb2.ResourceInfo(resource_type="container", resource_name=_cut(refusal.resource, 200), description=""))
    if refusal.retry is not None:
        delay = Duration()
        delay.FromNanoseconds(int(refusal.retry * 1e9))
        found.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return found


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _cut(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"
