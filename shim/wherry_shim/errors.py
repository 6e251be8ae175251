# SPDX-License-Identifier: Apache-2.0
"""What a call of the task service can fail with: a status of gRPC and a text, as containerd expects both.

    ShimError(NOT_FOUND, "container not created")    ->  code 5, "container not created: not found"

The client strips the words of the class from the end and puts its own there; what stands before them is shown to the user.
"""

CANCELED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS = 1, 2, 3, 4, 5, 6
PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE = 7, 8, 9, 10, 11
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14

_CLASS_TEXTS = {
    CANCELED: "context canceled",
    INVALID_ARGUMENT: "invalid argument",
    DEADLINE_EXCEEDED: "context deadline exceeded",
    NOT_FOUND: "not found",
    ALREADY_EXISTS: "already exists",
    FAILED_PRECONDITION: "failed precondition",
    UNIMPLEMENTED: "not implemented",
    UNAVAILABLE: "unavailable",
}


class ShimError(Exception):
    """`code` is the status; str() is the message as it goes to the client."""

    known: "Exception | None" = None  # the runtime's own error, with its code, place and remedy, for who can tell them

    def __init__(self, code: int, text: str) -> None:
        words = _CLASS_TEXTS.get(code)
        super().__init__(f"{text}: {words}" if words else text)
        self.code, self.text = code, text
