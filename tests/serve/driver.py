# SPDX-License-Identifier: Apache-2.0
"""A server of a test's own, as a process that can be killed, replaced and started again; and bundles for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from click.testing import CliRunner
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from harness.bundle import Bundle
from wherry_shim.proto import containerd_task_v3_pb2 as task_pb
from wherry_shim.proto import containerd_task_v3_pb2_grpc as task_stubs
from wherry_shim.proto import wherry_shim_v1_pb2 as pb
from wherry_shim.proto import wherry_shim_v1_pb2_grpc as stubs
from wherry_shim.serve.main import command

PROGRAM = str(Path(sys.executable).parent / "wherry-shim")
PATIENCE = 30.0


class Server:
    """Below `place`: r (--root), d (--data), s/shim.sock. `options` are given at each start."""

    def __init__(self, place: Path, *options: str) -> None:
        self.place, self.options = place, list(options)
        self.root, self.data = place / "r", place / "d"
        self.path = place / "s/shim.sock"
        self.address = f"unix://{self.path}"
        self.listen = [self.address]
        self.log_path = place / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._channels: list[grpc.Channel] = []
        self._channel: grpc.Channel | None = None

    # ---- the process

    def words(self) -> list[str]:
        listen = [word for address in self.listen for word in ("--listen", address)]
        return [PROGRAM, "serve", "--root", str(self.root), "--data", str(self.data), *listen, *self.options]

    def start(self, *more: str, environment: dict[str, str] | None = None, wait: bool = True, **popen: Any) -> "Server":
        self._said = len(self.log) if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            env = {**os.environ, **(environment or {})}
            self.process = subprocess.Popen([*self.words(), *more], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, **popen)
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        assert self.process is not None
        self.until(lambda: "msg=serves" in self.log[self._said :] or self.process.poll() is not None)
        assert self.process.poll() is None, self.log[self._said :]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """As systemd would after a SIGKILL."""
        self.kill()
        self.start()

    def misuse(self, *options: str) -> str:
        """What the command says, in this process, to options that no server can be started with. (Else a server would start here.)"""
        done = CliRunner().invoke(command, [*self.words()[2:], *options, "--check"])
        assert done.exit_code in (1, 2), done.output
        return done.output

    def refusal(self, *options: str) -> str:
        """What a server says that does not start."""
        done = subprocess.run([*self.words(), *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1, done
        return done.stderr

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it did not happen; the server says:\n{self.log[-3000:]}"
            time.sleep(0.02)

    # ---- its clients

    def connect(self, target: str = "", credentials: grpc.ChannelCredentials | None = None, **options: Any) -> grpc.Channel:
        """A connection of its own; closed at the end of the test."""
        target = target or f"unix:{self.path}"
        arguments = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        arguments += [(f"grpc.{name}", value) for name, value in options.items()]
        channel = grpc.secure_channel(target, credentials, arguments) if credentials else grpc.insecure_channel(target, arguments)
        self._channels.append(channel)
        return channel

    @property
    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = self.connect()
        return self._channel

    @property
    def shim(self) -> Any:
        return stubs.ShimStub(self.channel)

    @property
    def admin(self) -> Any:
        return stubs.AdminStub(self.channel)

    @property
    def task(self) -> Any:
        return task_stubs.TaskStub(self.channel)

    @property
    def health(self) -> Any:
        return health_pb2_grpc.HealthStub(self.channel)

    # ---- containers

    def create(self, bundle: Bundle, id: str = "a", **more: Any) -> pb.Container:
        bundle.save()
        return self.shim.Create(pb.CreateRequest(id=id, bundle=str(bundle.path), **more), timeout=PATIENCE)

    def run(self, bundle: Bundle, id: str = "a", **more: Any) -> pb.Container:
        return self.create(bundle, id, start=True, **more)

    def output(self, id: str = "a", channel: int = pb.STDOUT) -> str:
        data = b"".join(part.data for part in self.shim.Logs(pb.LogsRequest(id=id), timeout=PATIENCE) if part.channel == channel)
        return data.decode()

    def clean_up(self) -> None:
        """Deletes what the test has left to us, with a server that answers."""
        try:
            if any(any(place.glob("*")) for place in (self.root / "default", self.data / "containers")):
                if self.process is None or self.process.poll() is not None:
                    self.options = [option for option in self.options if not option.startswith("--max")]
                    self.start()
                self._delete_all()
        finally:
            for channel in self._channels:
                channel.close()
            self.kill()  # an end in order takes half a second, and has tests of its own

    def _delete_all(self) -> None:
        for container in self.shim.List(pb.ListRequest(), timeout=PATIENCE, wait_for_ready=True).containers:
            try:
                if container.owner == "task":
                    self._delete_task(container)
                    continue
                self.shim.Delete(pb.DeleteRequest(id=container.id, force=True), timeout=PATIENCE)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise

    def _delete_task(self, container: pb.Container) -> None:
        if container.status not in (pb.CREATED, pb.STOPPED):
            self.task.Kill(task_pb.KillRequest(id=container.id, signal=9, all=True), timeout=PATIENCE)
            self.task.Wait(task_pb.WaitRequest(id=container.id), timeout=PATIENCE)
        self.task.Delete(task_pb.DeleteRequest(id=container.id), timeout=PATIENCE)


class Refused:
    """A call that was refused, and its details."""

    def __init__(self, error: Any) -> None:
        self.code: grpc.StatusCode = error.code()
        self.text: str = error.details()
        self.details: dict[str, Message] = {}
        status = rpc_status.from_call(error)
        for packed in status.details if status else ():
            kind = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])
            self.details[packed.type_url.rpartition(".")[2]] = message = kind()
            packed.Unpack(message)

    @property
    def info(self) -> Any:
        return self.details["ErrorInfo"]

    @property
    def reason(self) -> str:
        return str(self.info.reason)

    @property
    def remedy(self) -> str:
        return str(self.info.metadata.get("remedy", ""))

    @property
    def retry(self) -> float:
        info: Any = self.details["RetryInfo"]
        return float(info.retry_delay.ToNanoseconds() / 1e9)


def refused(call: Callable[[], Any]) -> Refused:
    """`call` may answer with a stream, whose first message is asked for."""
    try:
        answer = call()
        if hasattr(answer, "__next__"):
            answer = next(answer)
    except grpc.RpcError as error:
        return Refused(error)
    raise AssertionError(f"answered {answer}")
