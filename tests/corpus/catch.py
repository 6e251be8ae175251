# SPDX-License-Identifier: Apache-2.0
"""What capture.py catches: a runtime that keeps a copy of each configuration, and the text of a configuration without what is this machine's."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONFIGS, PARTS = HERE / "configs", HERE / "parts"

# In place of the runtime: keeps the configuration, takes out the limits that only CAP_SYS_RESOURCE may raise, runs the real one.
WRAPPER = """#!/usr/bin/python3 -I
import json, os, sys
words, runtime, caught = sys.argv[1:], {runtime!r}, {caught!r}
if "create" in words or "run" in words:
    bundle = os.getcwd()
    for number, word in enumerate(words):
        if word in ("--bundle", "-b"):
            bundle = words[number + 1]
        elif word.startswith("--bundle="):
            bundle = word.partition("=")[2]
    path = os.path.join(bundle, "config.json")
    text = open(path).read()
    with open(os.path.join(caught, "%06d" % len(os.listdir(caught))), "w") as file:
        file.write(text)
    config = json.loads(text)
    config["process"].pop("rlimits", None)
    config["process"].pop("oomScoreAdj", None)
    with open(path, "w") as file:
        json.dump(config, file)
os.execv(runtime, [runtime, *words])
"""


class Catcher:
    """`command` is the runtime for an engine; `keep` writes what it has caught since the last call."""

    def __init__(self, work: Path, runtime: str) -> None:
        self.work, self.caught = work, work / "caught"
        self.caught.mkdir()
        self.caught.chmod(0o777)
        self.command = str(work / Path(runtime).name)
        Path(self.command).write_text(WRAPPER.format(runtime=runtime, caught=str(self.caught)))
        Path(self.command).chmod(0o755)
        self.seen = 0
        self.kept: list[str] = []
        self.missing: list[str] = []

    def keep(self, *names: str, why: str = "") -> None:
        """The newest configurations get these names, in the order of their creation; names that have none are missing."""
        files = sorted(self.caught.iterdir())[self.seen :]
        self.seen += len(files)
        for name, file in zip(names, files, strict=False):
            self.write(name, file.read_text())
        for name in names[len(files) :]:
            self.missing.append(f"{name}: {why.strip() or 'no configuration was caught'}")

    def write(self, name: str, text: str) -> None:
        config = json.loads(neutral(text, self.work))
        section = config.get("linux", {}).get("seccomp")
        if section:
            config["linux"]["seccomp"] = {"$part": part(name.partition("-")[0], section)}
        (CONFIGS / f"{name}.json").write_text(pretty(config))
        self.kept.append(name)


def part(engine: str, section: dict[str, Any]) -> str:
    """The name of the shared file that holds this seccomp section; it is written where there is none."""
    for file in sorted(PARTS.glob("*.json")):
        if json.loads(file.read_text()) == section:
            return file.stem
    number = 1
    while (PARTS / f"seccomp-{engine}-{number}.json").exists():
        number += 1
    (PARTS / f"seccomp-{engine}-{number}.json").write_text(pretty(section))
    return f"seccomp-{engine}-{number}"


# ---- neutral: ids, places, names and times of one machine

LONG, SHORT = re.compile(r"\b[0-9a-f]{64}\b"), 12


def neutral(text: str, work: Path) -> str:
    text = text.replace(str(work), "/srv/engines")
    for number, found in enumerate(dict.fromkeys(LONG.findall(text)), 1):
        text = text.replace(found, f"{number:02x}" * 32).replace(found[:SHORT], f"{number:02x}" * (SHORT // 2))
    text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "01234567-89ab-cdef-0123-456789abcdef", text)
    text = re.sub(r"/proc/\d+/", "/proc/1000/", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "2026-01-01T00:00:00Z", text)
    text = re.sub(r"buildah\d{5,}", "buildah1", text)
    text = re.sub(r"buildah-volumes/\d+", "buildah-volumes/1", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "0123456789abcdef" * 2, text)
    text = re.sub(r'(HOSTNAME=|")(?!\d{12}")[0-9a-f]{12}"', r'\1abcdefabcdef"', text)
    return re.sub(rf'([="]){re.escape(os.uname().nodename)}"', r'\1host"', text)


# ---- pretty: a line for each entry of what is no deeper than three levels, the rest in one line


def pretty(value: Any) -> str:
    return "\n".join(lines(value, 0)) + "\n"


def lines(value: Any, depth: int) -> list[str]:
    if depth > 2 or not is_deep(value):
        return [json.dumps(value, ensure_ascii=False)]
    indent, close = " " * (depth + 1), " " * depth
    entries = [(f"{json.dumps(key)}: ", item) for key, item in value.items()] if isinstance(value, dict) else [("", item) for item in value]
    found = ["{" if isinstance(value, dict) else "["]
    for number, (key, item) in enumerate(entries):
        inner = lines(item, depth + 1)
        found += [indent + key + inner[0], *inner[1:]]
        if number < len(entries) - 1:
            found[-1] += ","
    return [*found, close + ("}" if isinstance(value, dict) else "]")]


def is_deep(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(item, dict | list) for item in items) or (isinstance(value, dict) and len(json.dumps(value)) > 140)
