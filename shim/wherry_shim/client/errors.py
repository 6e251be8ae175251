# SPDX-License-Identifier: Apache-2.0
"""What a server refuses, with its code, the place that is wrong and what to do about it.

    Exception
    └── Refused                 code, reason, pointer, remedy, field, resource
        ├── InvalidArgument     a configuration or a request that is wrong; `pointer` or `field` names the place
        ├── NotFound            no such container or exec
        ├── AlreadyExists       the id is taken
        ├── FailedPrecondition  not in a state for this
        ├── PermissionDenied    the role is not enough
        ├── Unauthenticated     no certificate, or not one that the server trusts
        ├── ResourceExhausted   too much, too often, or a disk that is full
        ├── CursorTooOld        the events behind the cursor are not kept any more; `oldest` is the first that is
        ├── DeadlineExceeded    also a TimeoutError
        ├── Unavailable         no server, for longer than the client's patience; also a ConnectionError
        └── Internal            a defect of the server
"""

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DETAILS = "grpc-status-details-bin"
HANDSHAKE = ("handshake failed", "verification check failed")  # grpcio's words: asking again would not help
TRUST = "check who signs the server's certificate, its name, and yours: --tls-ca, --tls-name, --tls-cert"
BROKEN = "Internal error from Core"  # what grpc.aio says to a write on a connection that has just gone


class Refused(Exception):
    code = "UNKNOWN"  # of gRPC

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.code = str(facts.get("code") or self.code)
        self.reason = str(facts.get("reason") or "")  # stable: WHERRY-CONFIG-…
        self.pointer = str(facts.get("pointer") or "")  # of the place in the configuration
        self.field = str(facts.get("field") or "")  # of the request
        self.resource = str(facts.get("resource") or "")
        self.remedy = str(facts.get("remedy") or "")
        self.oldest = str(facts.get("oldest") or "")
        delay = facts.get("retry_after")
        self.retry_after = delay if isinstance(delay, float) else None
        self.repeated = False  # an attempt before this answer broke off: what was asked may have been done by it

    def __str__(self) -> str:
        place = f"{self.pointer}: " if self.pointer and self.pointer not in self.message else ""
        remedy = f" ({self.remedy})" if self.remedy and self.remedy not in self.message else ""
        return f"{place}{self.message}{remedy}"


class InvalidArgument(Refused):
    code = "INVALID_ARGUMENT"


class NotFound(Refused):
    code = "NOT_FOUND"


class AlreadyExists(Refused):
    code = "ALREADY_EXISTS"


class FailedPrecondition(Refused):
    code = "FAILED_PRECONDITION"


class PermissionDenied(Refused):
    code = "PERMISSION_DENIED"


class Unauthenticated(Refused):
    code = "UNAUTHENTICATED"


class ResourceExhausted(Refused):
    code = "RESOURCE_EXHAUSTED"


class CursorTooOld(Refused):
    code = "OUT_OF_RANGE"


class DeadlineExceeded(Refused, TimeoutError):
    code = "DEADLINE_EXCEEDED"


class Unavailable(Refused, ConnectionError):
    code = "UNAVAILABLE"


class Internal(Refused):
    code = "INTERNAL"


KINDS: dict[str, type[Refused]] = {
    kind.code: kind
    for kind in (
        InvalidArgument, NotFound, AlreadyExists, FailedPrecondition, PermissionDenied, Unauthenticated, ResourceExhausted, CursorTooOld,
        DeadlineExceeded, Unavailable, Internal,
    )
}  # fmt: skip


def of_rpc(error: grpc.RpcError) -> Refused:
    """What gRPC raises, in our words."""
    call = error if isinstance(error, grpc.Call) else None
    code = call.code().name if call is not None else str(getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)().name)
    message = str(getattr(error, "details", lambda: "")() or code.lower().replace("_", " "))
    if code == "INTERNAL" and message.startswith(BROKEN):
        code, message = "UNAVAILABLE", "the connection broke off"
    facts: dict[str, object] = {"code": code}
    if code == "UNAVAILABLE" and any(words in message.lower() for words in HANDSHAKE):
        code = "UNAUTHENTICATED"
        facts = {"code": code, "remedy": TRUST}
    for key, value in getattr(error, "trailing_metadata", lambda: ())() or ():
        if key == DETAILS and isinstance(value, bytes):
            facts.update(read_details(value))
    return KINDS.get(code, Refused)(message, **facts)


def read_details(packed: bytes) -> dict[str, object]:
    status = status_pb2.Status()
    try:
        status.ParseFromString(packed)
    except DecodeError:  # a proxy's, perhaps
        return {}
    facts: dict[str, object] = {}
    info, bad, resource, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.ResourceInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            facts.update(reason=info.reason, **{name: info.metadata[name] for name in ("pointer", "remedy", "oldest") if name in info.metadata})
        elif detail.Is(bad.DESCRIPTOR) and detail.Unpack(bad) and bad.field_violations:
            facts["field"] = bad.field_violations[0].field
        elif detail.Is(resource.DESCRIPTOR) and detail.Unpack(resource):
            facts["resource"] = resource.resource_name
        elif detail.Is(retry.DESCRIPTOR) and detail.Unpack(retry):
            facts["retry_after"] = retry.retry_delay.ToTimedelta().total_seconds()
    return facts
