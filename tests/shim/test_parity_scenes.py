# SPDX-License-Identifier: Apache-2.0
"""Scenes that containerd-shim-runc-v2 and ours play: an exec on a terminal, a lack of memory, a kill of all. The same events, of the same processes with
the same codes; in the same order where the peer keeps one, and in ours where it keeps none."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wherry_shim import containerd, wire
from wherry_shim.errors import ShimError

from .shims import call
from .test_parity import PEER, Run, keep, spec

pytestmark = pytest.mark.requires("root")
Step = tuple[str, str, dict]


class Scene(Run):
    def __init__(self, place: Path, name: str, binary: str | None, change: Callable[[dict], None], script: list[Step]) -> None:
        super().__init__(place, name, binary)
        file = self.shim.bundle / "config.json"
        config = json.loads(file.read_text())
        change(config)
        file.write_text(json.dumps(config))
        os.mkfifo(self.shim.bundle / "out")
        self.out = os.open(self.shim.bundle / "out", os.O_RDWR | os.O_NONBLOCK)
        self.script, self.heard = script, b""

    def play(self) -> None:
        self.shim.start()
        with self.shim.client() as client:
            server = call(client, "Connect", id=self.shim.id)["shim_pid"]
            for title, method, request in self.script:
                given = {key: value.replace("BUNDLE", str(self.shim.bundle)) if isinstance(value, str) else value for key, value in request.items()}
                if title == "kill exec":
                    self.listen(b"/dev/pts/0")
                self.answers[title] = self.one(client, method, {"id": self.shim.id, **given})
        self.finish(server)
        os.close(self.out)

    def listen(self, text: bytes) -> None:
        deadline = time.monotonic() + 10
        while text not in self.heard and time.monotonic() < deadline:
            try:
                self.heard += os.read(self.out, 4096)
            except BlockingIOError:
                time.sleep(0.02)

    def one(self, client: object, method: str, request: dict) -> object:
        for _ in range(50):
            try:
                return keep(method, call(client, method, **request), self.shim.id)
            except ShimError as error:
                if "cannot delete" not in error.text:
                    return error.code, error.args[0].replace(self.shim.id, "ID")
                time.sleep(0.05)  # theirs answers a Wait before it knows of the end itself
        return "it stays"

    @property
    def events(self) -> list[tuple]:
        found = []
        for envelope in self.containerd.envelopes:
            fields = wire.decode(containerd.table_of(envelope["event"]["type_url"]), envelope["event"]["value"])
            names = [str(fields[key]).replace(self.shim.id, "ID") for key in ("container_id", "id", "exec_id", "exit_status") if key in fields]
            found.append((envelope["topic"], *names))
        return found


def play(place: Path, change: Callable[[dict], None], script: list[Step]) -> tuple[Scene, Scene]:
    """Theirs and ours."""
    if not PEER:
        pytest.skip("SKIPPED, LOUDLY: no containerd-shim-runc-v2 to compare with")
    scenes = Scene(place, "theirs", PEER, change, script), Scene(place, "ours", None, change, script)
    for scene in scenes:
        scene.play()
        assert scene.ended
    return scenes


CREATE: list[Step] = [("create", "Create", {"bundle": "BUNDLE"}), ("start", "Start", {})]
END: list[Step] = [("wait", "Wait", {}), ("delete", "Delete", {})]
KILL: list[Step] = [("kill", "Kill", {"signal": 9})]


def test_an_exec_on_a_terminal(tmp_path: Path) -> None:
    terminal = {"type_url": "Process", "value": json.dumps(json.loads(spec("/bin/sh", "-c", "stty size; tty; read x; exit 6")["value"]) | {"terminal": True}).encode()}
    script: list[Step] = [
        *CREATE,
        ("exec", "Exec", {"exec_id": "e", "spec": terminal, "terminal": True, "stdout": "BUNDLE/out"}),
        ("resize before", "ResizePty", {"exec_id": "e", "width": 33, "height": 11}),
        ("start exec", "Start", {"exec_id": "e"}),
        ("resize", "ResizePty", {"exec_id": "e", "width": 44, "height": 22}),
        ("state", "State", {"exec_id": "e"}),
        ("close input", "CloseIO", {"exec_id": "e", "stdin": True}),
        ("kill exec", "Kill", {"exec_id": "e", "signal": 9}),
        ("wait exec", "Wait", {"exec_id": "e"}),
        ("resize after", "ResizePty", {"exec_id": "e", "width": 44, "height": 22}),
        ("delete exec", "Delete", {"exec_id": "e"}),
        *KILL,
        *END,
    ]
    theirs, ours = play(tmp_path, lambda config: None, script)
    codes = [{title: answer[0] if isinstance(answer, tuple) else None for title, answer in one.answers.items()} for one in (theirs, ours)]
    assert codes[0] == codes[1]
    assert {**ours.answers["state"], "stdout": ""} == {**theirs.answers["state"], "stdout": ""}
    assert ours.answers["wait exec"] == theirs.answers["wait exec"] == {"exit_status": 137, "exited": True}
    assert ours.events == theirs.events
    assert b"/dev/pts/0\r\n" in ours.heard and b"/dev/pts/0\r\n" in theirs.heard


def test_a_lack_of_memory(tmp_path: Path) -> None:
    def change(config: dict) -> None:
        config["linux"]["resources"] = {**config["linux"].get("resources", {}), "memory": {"limit": 16 << 20, "swap": 16 << 20}}
        config["process"]["args"] = ["/bin/sh", "-c", "x=a; while :; do x=$x$x; done"]

    theirs, ours = play(tmp_path, change, [*CREATE, *END])
    assert ours.answers == theirs.answers
    oom = ("/tasks/oom", "ID")
    assert [event for event in ours.events if event != oom] == [event for event in theirs.events if event != oom]
    topics = [event[0] for event in ours.events]
    assert topics.index("/tasks/oom") < topics.index("/tasks/exit")  # theirs may tell of it later, or when nobody listens any more


def test_a_kill_of_all(tmp_path: Path) -> None:
    """In a pid namespace that is the host's nobody dies with init by himself."""

    def change(config: dict) -> None:
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "pid"]
        config["process"]["args"] = ["/bin/sh", "-c", "sleep 1000 & sleep 1000 & exec sleep 1000"]

    script: list[Step] = [
        *CREATE,
        ("exec", "Exec", {"exec_id": "e", "spec": spec("/bin/sleep", "1000")}),
        ("start exec", "Start", {"exec_id": "e"}),
        ("kill all", "Kill", {"signal": 9, "all": True}),
        ("wait exec", "Wait", {"exec_id": "e"}),
        ("wait", "Wait", {}),
        ("delete exec", "Delete", {"exec_id": "e"}),
        ("delete", "Delete", {}),
    ]
    theirs, ours = play(tmp_path, change, script)
    assert ours.answers == theirs.answers
    assert sorted(ours.events) == sorted(theirs.events)
    assert [event[2] for event in ours.events if event[0] == "/tasks/exit"] == ["e", "ID"]
