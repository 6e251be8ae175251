# SPDX-License-Identifier: Apache-2.0
"""Drives a service: in this process, or in one of its own that can be killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from wherry_shim.errors import ShimError
from wherry_shim.loop import Loop, Task
from wherry_shim.monitor import Monitor
from wherry_shim.service import Service, Setting

PATIENCE = 20.0
Message = dict[str, Any]


def unpack(any: Message) -> Message:
    """Options in the tests are JSON."""
    fields: Message = json.loads(any["value"])
    return fields


class Server:
    def __init__(self, root: Path) -> None:
        self.loop, self.events, self.lines = Loop(), [], []
        self.events: list[tuple[str, Message]]
        self.lines: list[str]
        self.service = Service(self.loop, Setting("ns", str(root)), lambda topic, event: self.events.append((topic, event)), unpack)
        self.service.log = lambda level, text: self.lines.append(f"{level}: {text}")

    def begin(self, method: str, **request: Any) -> Task:
        return self.service.call(method, request)

    def finish(self, task: Task, seconds: float = PATIENCE) -> Any:
        deadline = time.monotonic() + seconds
        while not task.done:
            assert time.monotonic() < deadline, "no answer"
            self.loop.step(0.05)
        return task.result()

    def call(self, method: str, **request: Any) -> Any:
        return self.finish(self.begin(method, **request))

    def refused(self, method: str, **request: Any) -> ShimError:
        try:
            answer = self.call(method, **request)
        except ShimError as error:
            return error
        raise AssertionError(f"{method} answered {answer}")

    def until(self, condition: Any, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.loop.step(0.02)

    def monitor(self, id: str) -> Monitor | None:
        container = self.service._containers.get(id)
        return container.monitor if container else None

    def topics(self, id: str | None = None) -> list[str]:
        return [topic.rpartition("/")[2] for topic, event in self.events if id is None or event.get("id") == id or event.get("exec_id") == id or event["container_id"] == id]

    def clean_up(self) -> None:
        for id in list(self.service._containers):
            try:
                self.call("Kill", id=id, signal=9, all=True)
            except ShimError:
                pass
            self.until(lambda id=id: self.call("State", id=id)["status"] in (1, 3))
            self.call("Delete", id=id)


class Remote:
    """A server in a process of its own: requests go as lines of JSON."""

    def __init__(self, root: Path, adopt: bool = False, inside: tuple[str, ...] = ()) -> None:
        words = [*inside, sys.executable, __file__, str(root), "adopt" if adopt else "new"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def send(self, method: str, **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, request]) + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        assert self.process.stdout is not None
        code, answer = json.loads(self.process.stdout.readline())
        if code:
            raise ShimError(code, answer)
        return answer

    def call(self, method: str, **request: Any) -> Any:
        self.send(method, **request)
        return self.receive()

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def spec(*args: str, **more: Any) -> Message:
    return {"value": json.dumps({"args": list(args), "cwd": "/", "env": ["PATH=/bin"], **more}).encode()}


def shell(script: str, **more: Any) -> Message:
    return spec("/bin/sh", "-c", script, **more)


def serve(root: str, adopt: bool) -> None:
    server = Server(Path(root))
    if adopt:
        server.finish(server.loop.start(server.service.adopt()))
    buffer = b""

    def ready(_: int) -> None:
        nonlocal buffer
        data = os.read(0, 1 << 16)
        if not data:
            os._exit(0)
        buffer += data
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            method, request = json.loads(line)
            if "spec" in request:
                request["spec"] = {"value": request["spec"].encode()}
            server.begin(method, **request).then(answer)

    def answer(task: Task) -> None:
        try:
            result = [0, task.result()]
        except ShimError as error:
            result = [error.code, error.text]
        os.write(1, (json.dumps(result) + "\n").encode())

    server.loop.watch(0, ready)
    os.write(1, b"ready\n")
    server.loop.run()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2] == "adopt")
