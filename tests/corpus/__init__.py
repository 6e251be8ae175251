# SPDX-License-Identifier: Apache-2.0
"""Configurations as engines write them: `names()` and `load(name)`. README.md says where they come from."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def names() -> list[str]:
    return sorted(file.stem for file in (HERE / "configs").glob("*.json"))


def load(name: str) -> dict[str, Any]:
    """A configuration of one's own, with its shared parts in place."""
    config: dict[str, Any] = json.loads((HERE / "configs" / f"{name}.json").read_text())
    section = config.get("linux", {}).get("seccomp")
    if section:
        config["linux"]["seccomp"] = json.loads(_part(section["$part"]))
    return config


@cache
def _part(name: str) -> str:
    return (HERE / "parts" / f"{name}.json").read_text()
