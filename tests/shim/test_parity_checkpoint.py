# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by containerd-shim-runc-v2 and by ours, with the same CRIU: the same codes, states and events, of a container that runs on, one that
ends with it, and one that is restored."""

import os
from pathlib import Path

import pytest

from harness.criu import KIT, kit
from wherry_shim import messages_rare, wire

from .test_parity import spec
from .test_parity_scenes import Scene, Step, play

pytestmark = pytest.mark.requires("root", "kcmp", "command:mmdebstrap", "command:patchelf")
assert messages_rare.TABLE


@pytest.fixture(autouse=True)
def criu(monkeypatch: pytest.MonkeyPatch) -> None:
    if kit():
        pytest.skip(f"no CRIU 4: {kit()}")
    monkeypatch.setenv("PATH", f"{KIT}:{os.environ['PATH']}")
    monkeypatch.setenv("WHERRY_ZYGOTE", "off")  # one with this PATH


def options(**fields: object) -> dict:
    return {"type_url": "containerd.runc.v1.CheckpointOptions", "value": wire.encode("runc.CheckpointOptions", fields)}


def loop(config: dict) -> None:
    config["process"]["args"] = ["/bin/sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.05; done"]


CHECKPOINT: list[Step] = [
    ("create", "Create", {"bundle": "BUNDLE"}),
    ("checkpoint created", "Checkpoint", {"path": "BUNDLE/none"}),
    ("start", "Start", {}),
    ("checkpoint", "Checkpoint", {"path": "BUNDLE/images", "options": options(cgroups_mode="soft")}),
    ("state after", "State", {}),
    ("exec after", "Exec", {"exec_id": "e", "spec": spec("/bin/sh", "-c", "exit 3")}),
    ("start exec", "Start", {"exec_id": "e"}),
    ("wait exec", "Wait", {"exec_id": "e"}),
    ("delete exec", "Delete", {"exec_id": "e"}),
    ("pause", "Pause", {}),
    ("state paused", "State", {}),
    ("resume", "Resume", {}),
    ("checkpoint and end", "Checkpoint", {"path": "BUNDLE/last", "options": options(exit=True)}),
    ("wait", "Wait", {}),
    ("state", "State", {}),
    ("checkpoint ended", "Checkpoint", {"path": "BUNDLE/none"}),
    ("delete", "Delete", {}),
    ("create again", "Create", {"bundle": "BUNDLE", "checkpoint": "BUNDLE/last"}),
    ("state before", "State", {}),
    ("pids before", "Pids", {}),
    ("exec before", "Exec", {"exec_id": "early", "spec": spec("/bin/true")}),
    ("pause before", "Pause", {}),
    ("checkpoint before", "Checkpoint", {"path": "BUNDLE/none"}),
    ("update before", "Update", {"resources": {"type_url": "x", "value": b'{"pids": {"limit": 50}}'}}),
    ("start again", "Start", {}),
    ("start twice", "Start", {}),
    ("state restored", "State", {}),
    ("exec restored", "Exec", {"exec_id": "f", "spec": spec("/bin/sh", "-c", "exit 6")}),
    ("start exec restored", "Start", {"exec_id": "f"}),
    ("wait exec restored", "Wait", {"exec_id": "f"}),
    ("delete exec restored", "Delete", {"exec_id": "f"}),
    ("pause restored", "Pause", {}),
    ("resume restored", "Resume", {}),
    ("checkpoint restored", "Checkpoint", {"path": "BUNDLE/second", "options": options()}),
    ("kill restored", "Kill", {"signal": 15}),
    ("wait restored", "Wait", {}),
    ("delete restored", "Delete", {}),
]


def codes(scene: Scene) -> dict:
    return {title: answer[0] if isinstance(answer, tuple) else answer for title, answer in scene.answers.items()}


def test_the_same_codes_and_events(tmp_path: Path) -> None:
    """What is no checkpoint ours refuses at Create already; theirs at Start."""
    theirs, ours = play(tmp_path, loop, CHECKPOINT)
    assert codes(ours) == codes(theirs)
    assert ours.events == theirs.events
