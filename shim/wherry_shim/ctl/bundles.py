# SPDX-License-Identifier: Apache-2.0
"""What create and run ask for: a bundle as it is, or its configuration with the differences of the command line."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

Document = dict[str, Any]


@dataclass
class Wanted:
    bundle: str | None
    config: str | None
    args: Sequence[str] = ()
    env: Sequence[str] = ()
    cwd: str | None = None
    terminal: bool = False

    def arguments(self) -> dict[str, Any]:
        """`bundle` or `config` of Client.create."""
        if bool(self.bundle) == bool(self.config):
            raise click.UsageError("a bundle, or --config FILE: one of both")
        if self.bundle and not self.differs():
            return {"bundle": os.path.abspath(self.bundle)}
        return {"config": self.document()}

    def differs(self) -> bool:
        return bool(self.args or self.env or self.cwd or self.terminal)

    def document(self) -> bytes:
        path = Path(self.config) if self.config else Path(self.bundle or "") / "config.json"
        text = path.read_bytes()
        if self.config and not self.differs():
            return text
        try:
            document = json.loads(text)
            self.change(document, path.resolve().parent)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise click.ClickException(f"{path}: {error}") from error
        except (TypeError, AttributeError) as error:
            raise click.ClickException(f"{path}: is no configuration: wherry validate says more") from error
        return json.dumps(document).encode()

    def change(self, document: Document, place: Path) -> None:
        process = document.setdefault("process", {})
        if self.args:
            process["args"] = list(self.args)
        if self.cwd:
            process["cwd"] = self.cwd
        if self.terminal:
            process["terminal"] = True
        names = {word.partition("=")[0] for word in self.env}
        process["env"] = [one for one in process.get("env") or [] if one.partition("=")[0] not in names] + list(self.env)
        self.absolute(document, place)

    @staticmethod
    def absolute(document: Document, place: Path) -> None:
        """The server keeps the configuration in a directory of its own: what was relative to the bundle is not any more."""
        if isinstance(root := document.get("root"), dict) and isinstance(root.get("path"), str):
            root["path"] = str(place / root["path"])
        for mount in document.get("mounts") or []:
            options = mount.get("options") or []
            bind = mount.get("type") == "bind" or "bind" in options or "rbind" in options
            if bind and isinstance(mount.get("source"), str):
                mount["source"] = str(place / mount["source"])


def environment(words: Sequence[str]) -> list[str]:
    """`NAME` alone takes the value from here."""
    made = []
    for word in words:
        name, equals, _ = word.partition("=")
        if equals:
            made.append(word)
        elif name in os.environ:
            made.append(f"{name}={os.environ[name]}")
    return made
