# SPDX-License-Identifier: Apache-2.0
"""The runtime under test as a command: every verb as a method, containers as objects, nothing inherited by accident."""

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bundle import Bundle
from .census import reap_zombies

TIMEOUT = 30.0
PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Containers become our children when their creator has gone: we get their exit status, and nobody else has to reap."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_until(condition: Any, what: str, seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)


@dataclass
class Result:
    argv: list[str]
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Runtime:
    """`command` with a private --root. `front` false runs every verb in Python."""

    def __init__(self, command: str, root: Path, tag: str, front: bool = True, options: Sequence[str] = ()) -> None:
        self.command, self.root, self.tag, self.front = command, root, tag, front
        self.options = list(options)
        self.containers: list[Container] = []
        self.name = Path(command).name
        self.env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for passed in ("LD_LIBRARY_PATH", "XDG_RUNTIME_DIR", "WHERRY_NATIVE"):
            if passed in os.environ:
                self.env[passed] = os.environ[passed]
        if not front:
            self.env["WHERRY_FRONT"] = "off"

    def argv(self, *args: str | Path, root: Path | None = None) -> list[str]:
        return [self.command, "--root", str(root or self.root), *self.options, *map(str, args)]

    def __call__(self, *args: str | Path, check: bool = True, input: str | None = None, timeout: float = TIMEOUT, **more: Any) -> Result:
        """Runs a verb whose output ends with the command (not create: the container keeps its stdio)."""
        argv = self.argv(*args)
        env = {**self.env, **more.pop("env", {})}
        done = subprocess.run(argv, input=input, stdin=None if input is not None else subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=timeout, env=env, **more)  # fmt: skip
        result = Result(argv, done.returncode, done.stdout, done.stderr)
        if check and result.code:
            raise AssertionError(f"{' '.join(argv)}: exit {result.code}\n{result.err}")
        return result

    def new_id(self) -> str:
        return f"{self.tag}-{len(self.containers)}"

    def create(self, bundle: Bundle, *options: str | Path, check: bool = True, id: str | None = None, verb: str = "create",
               timeout: float = TIMEOUT, **more: Any) -> "Container":  # fmt: skip
        """create, or `run --detach`: the container's stdout and stderr go to files of the bundle, as do the runtime's own."""
        container = Container(self, id or self.new_id(), bundle)
        self.containers.append(container)
        bundle.save()
        env = {**self.env, **more.pop("env", {})}
        with open(container.stdout_file, "wb") as out, open(container.stderr_file, "wb") as err:
            argv = self.argv(verb, "--bundle", bundle.path, *options, container.id)
            more.setdefault("stdin", subprocess.DEVNULL)
            code = subprocess.run(argv, stdout=out, stderr=err, timeout=timeout, env=env, **more).returncode
        container.result = Result(argv, code, container.stdout, container.stderr)
        if check and code:
            raise AssertionError(f"{' '.join(argv)}: exit {code}\n{container.stderr}")
        return container

    def start_new(self, bundle: Bundle, *options: str | Path, **more: Any) -> "Container":
        container = self.create(bundle, *options, **more)
        container.start()
        return container

    def run(self, bundle: Bundle, *options: str | Path, check: bool = True, id: str | None = None, **more: Any) -> Result:
        """An attached run; what the container prints is in the result."""
        container = Container(self, id or self.new_id(), bundle)
        self.containers.append(container)
        bundle.save()
        return self("run", "--bundle", bundle.path, *options, container.id, check=check, **more)

    def output(self, bundle: Bundle, script: str, **more: Any) -> str:
        """What a shell script prints as the container's program."""
        bundle.shell(script)
        return self.run(bundle, **more).out.strip()

    def popen(self, *args: str | Path, **more: Any) -> "subprocess.Popen[str]":
        more.setdefault("stdin", subprocess.DEVNULL)
        env = {**self.env, **more.pop("env", {})}
        return subprocess.Popen(self.argv(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **more)

    def clean_up(self) -> None:
        """Removes what tests left on purpose; by the runtime where it can, by force where it cannot."""
        for container in reversed(self.containers):  # those that joined others' namespaces first
            reap_zombies()
            if (self.root / container.id).exists():
                self("delete", "--force", container.id, check=False)


class Container:
    """A container that create was called for; it need not exist."""

    def __init__(self, runtime: Runtime, id: str, bundle: Bundle) -> None:
        self.runtime, self.id, self.bundle = runtime, id, bundle
        self.result = Result([], -1, "", "")
        self.stdout_file = bundle.path / f"{abs(hash(id)):x}.out"
        self.stderr_file = bundle.path / f"{abs(hash(id)):x}.err"
        self.known_pid = 0

    @property
    def stdout(self) -> str:
        return self.stdout_file.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text(errors="replace")

    def start(self, check: bool = True) -> Result:
        self.known_pid = self.pid if check else 0
        return self.runtime("start", self.id, check=check)

    def state(self) -> dict[str, Any]:
        return self.runtime("state", self.id).json()  # type: ignore[no-any-return]

    @property
    def status(self) -> str:
        return str(self.state()["status"])

    @property
    def pid(self) -> int:
        return int(self.state()["pid"])

    def kill(self, signal: str | int = "KILL", *options: str, check: bool = True) -> Result:
        return self.runtime("kill", *options, self.id, str(signal), check=check)

    def delete(self, *options: str, check: bool = True) -> Result:
        return self.runtime("delete", *options, self.id, check=check)

    def exists(self) -> bool:
        return (self.runtime.root / self.id).exists()

    def wait(self, seconds: float = 10.0) -> int:
        """Waits for the container's first process, our adopted child, and returns its exit status (128 + signal)."""
        pid = self.known_pid
        assert pid, "wait() needs a started container"
        status = reap(pid, seconds)
        return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    def stop(self) -> None:
        """Ends and deletes it."""
        if self.status in ("created", "running"):
            self.kill(signal.SIGKILL)
            wait_until(lambda: self.status == "stopped", f"{self.id} to stop")
        reap_zombies()
        self.delete()

    def in_mount_namespace(self, path: str) -> Path:
        """A path of the container's own file system, seen from here."""
        return Path(f"/proc/{self.known_pid or self.pid}/root{path}")


def reap(pid: int, seconds: float) -> int:
    def ended() -> list[int]:
        got, status = os.waitpid(pid, os.WNOHANG)
        return [status] if got else []

    return int(wait_until(ended, f"the end of process {pid}", seconds)[0])
