# SPDX-License-Identifier: Apache-2.0
"""A bundle: a directory with a config.json, or a configuration that stands in no file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.api.config import Config
from wherry.container.create import compile_plan, read_config
from wherry.container.options import CreateOptions, absolute, default_root
from wherry.oci.config import load


class Bundle:
    """`config` (a document, or its bytes) replaces what config.json says. Paths in it are relative to `path`."""

    def __init__(self, path: str | os.PathLike[str], config: Config | Mapping[str, Any] | bytes | None = None) -> None:
        self.path = absolute(os.fspath(path))
        if config is None:
            config = read_config(self.path)
        elif isinstance(config, Config):
            config = config.to_dict()
        self.data = config if isinstance(config, bytes) else json.dumps(config).encode()

    @classmethod
    def of(cls, bundle: Bundle | Config | str | os.PathLike[str]) -> Bundle:
        """A bundle from what stands for one: itself, a Config (whose paths are relative to the working directory), or a directory."""
        if isinstance(bundle, Bundle):
            return bundle
        return cls(".", bundle) if isinstance(bundle, Config) else cls(bundle)

    @classmethod
    def sandbox(cls, rootfs: str | os.PathLike[str], args: Sequence[str], **choices: Any) -> Bundle:
        """A safe default around a root filesystem; the choices are those of wherry.oci.default.sandbox."""
        return cls(rootfs, Config.sandbox(rootfs, args, **choices))

    @property
    def config(self) -> dict[str, Any]:
        """A copy of the document. ConfigError where it is none."""
        document: Any = load(self.data, f"{self.path}/config.json")
        return document  # type: ignore[no-any-return]

    def plan(self) -> bytes:
        """The launch plan that create would execute on this host; read it with wherry.plan.describe."""
        plan, _ = compile_plan(CreateOptions(default_root(), "plan", self.path), self.data, [])
        return plan
