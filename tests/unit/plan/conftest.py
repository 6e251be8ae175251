# SPDX-License-Identifier: Apache-2.0
"""The compiler is pure: where the extension is not built, its numbers come from the header's text, and every test here runs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def _without_extension() -> None:
    from header import load

    module = ModuleType("wherry._native")
    module.ffi, module.lib = load()  # type: ignore[attr-defined]
    sys.modules["wherry._native"] = module


try:
    import wherry._native  # noqa: F401
except ImportError:
    sys.path.insert(0, str(Path(__file__).parents[3] / "runtime"))
    _without_extension()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden plans anew instead of comparing with them")
