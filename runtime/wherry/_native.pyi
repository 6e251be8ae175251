# SPDX-License-Identifier: Apache-2.0
"""The cffi extension as wherry.kernel.native sees it. Nothing else imports it."""

from typing import Any

CData = Any

class Constants:
    """An integer for every enumerator of plan.h and host.h."""
    def __getattr__(self, name: str) -> int: ...

class Library:
    """The functions of csrc/native/native.h, and the constants."""
    def __getattr__(self, name: str) -> Any: ...

ffi: Any
lib: Any
