# SPDX-License-Identifier: Apache-2.0
"""A program that nobody has read, in one call, with walls on all sides. For root and for an ordinary user alike."""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from wherry.api import layers as walls
from wherry.api.bundle import Bundle
from wherry.api.config import Config, size
from wherry.api.container import state_root
from wherry.api.session import Output, Result, Session
from wherry.container.options import absolute
from wherry.errors import HostError, UsageError
from wherry.kernel.hostfacts import HostFacts, gather
from wherry.oci.default import profile

__all__ = ["Result", "Sandbox", "Stream"]

FIRST_ID, IDS = 0x60000000, 1 << 16
"""The host's ids of a sandbox that root makes: nobody else's."""


class Sandbox:
    """Walls, chosen once; run() and stream() put a program behind them, each time a fresh one. Safe to share between threads.

        box = Sandbox("/srv/rootfs", memory="64M", timeout=10)
        result = box.run(["python3", "-"], input=program)

    The program sees no network and no other process, has no privileges and cannot gain any, writes to its own /tmp only, and is killed
    with all its children at the timeout. A limit is None to go without. What cannot be applied on this host raises HostError when the
    Sandbox is made, unless `allow_missing` names it ({"memory", "pids", "cpu", "user namespace"}); Result.layers says how it came.

    What runs can be seen by `wherry list`, under ids that begin with `name`.

    Where the kernel has Landlock, its rules say once more what may be written, whatever is mounted (`landlock`: None = where it can be had,
    True = or HostError, False = never); layers["landlock"] is then the ABI in force.

    `readable` and `writable` are paths of the host by their paths in the sandbox; what a sandbox of root's writes there belongs to an id from
    FIRST_ID on, that of an ordinary user's to that user. `configure` has the last word on the Config.
    """

    def __init__(
        self,
        rootfs: str | os.PathLike[str],
        *,
        memory: int | str | None = "512M",
        pids: int | None = 128,
        cpus: float | None = 1.0,
        timeout: float | None = 60.0,
        network: bool = False,
        readonly: bool = True,
        seccomp: bool = True,
        user_namespace: bool = True,
        landlock: bool | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        readable: Mapping[str, str | os.PathLike[str]] | None = None,
        writable: Mapping[str, str | os.PathLike[str]] | None = None,
        max_output: int | str = "16M",
        allow_missing: Iterable[str] = (),
        root: str | os.PathLike[str] | None = None,
        name: str = "sandbox",
        configure: Callable[[Config], Config] | None = None,
    ) -> None:
        self.name = name
        self.rootfs, self.timeout, self.max_output = absolute(os.fspath(rootfs)), timeout, size(max_output)
        self.root = _private_root() if root is None else state_root(root)
        facts = gather(landlock=landlock is not False)
        limits = {"memory": memory, "pids": pids, "cpu": cpus}
        self.layers = walls.layers(facts, limits, user_namespace, allow_missing, landlock)
        config = Config.sandbox(
            self.rootfs, [], env=env, cwd=cwd, readonly=readonly, network=network, limits=walls.privileged(facts), seccomp=seccomp,
            memory=None, processes=None, mappings=_mappings(facts) if self._has("user namespace") else None,
        )  # fmt: skip
        config = config.memory(memory) if self._has("memory") else config
        config = config.pids(pids) if self._has("pids") else config
        config = config.cpus(cpus) if self._has("cpu") else config
        for table, may_write in ((readable, False), (writable, True)):
            for destination, source in (table or {}).items():
                config = config.bind(source, destination, writable=may_write)
        if self._has("landlock"):
            config = walls.landlock(config)
        self.config = configure(config) if configure else config
        # the filter of a sandbox refuses all that keyrings are used by; without one each sandbox has its own, and a user may have 200
        self._new_keyring = self.config.get("/linux/seccomp") != profile()
        for name, stands in walls.seen(self.config).items():
            if name not in self.layers or stands != self._has(name):
                self.layers[name] = walls.APPLIED if stands else walls.OFF
        if self._has("landlock"):
            self.layers["landlock"] = f"{walls.APPLIED}, ABI {facts.landlock}"

    def _has(self, layer: str) -> bool:
        return self.layers.get(layer) == walls.APPLIED

    def run(
        self,
        args: Sequence[str],
        *,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_output: Output | None = None,
    ) -> Result:
        """Runs a program to its end. What it prints is in the result, and on_output(stream, data) gets it as it comes. `env` adds to
        the sandbox's, `timeout` replaces its. An exception from on_output ends the program, and is raised."""
        with self.stream(args, input=input, env=env, timeout=timeout) as stream:
            for name, data in stream:
                stream.session.keep(name, data)
                if on_output is not None:
                    on_output(name, data)
            return stream.result

    def stream(
        self, args: Sequence[str], *, input: bytes | None = None, env: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Stream:
        """Starts a program: an iterator of ("stdout" | "stderr", bytes), whose `result` is there once it has ended."""
        session = self.begin(args, input=input, env=env)
        return Stream(session, self.timeout if timeout is None else timeout)

    def begin(self, args: Sequence[str], *, input: bytes | None = None, env: Mapping[str, str] | None = None) -> Session:
        """What run, stream and wherry.aio begin with."""
        if isinstance(args, str) or not args:
            raise UsageError("args: a program and its arguments, as a list")
        config = self.config.args(*args)
        session = Session(tuple(args), self.layers, self.max_output, self._new_keyring)
        session.begin(Bundle(self.rootfs, config.env(env) if env else config), f"{self.name}-{os.urandom(8).hex()}", self.root, input)
        return session

    def __repr__(self) -> str:
        return f"<wherry.Sandbox {self.rootfs}>"


class Stream:
    """A program that runs. Iterate over its output, to the end or until you have seen enough; whoever lets go of it kills it."""

    def __init__(self, session: Session, timeout: float | None) -> None:
        self.session = session
        self._reading = _Reading(session, timeout)
        self._chunks = self._reading.chunks()  # knows nothing of us: so our end is seen at once, not when cycles are looked for

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> tuple[str, bytes]:
        return next(self._chunks)

    def kill(self) -> None:
        """Ends the program; the iterator then comes to its end."""
        self.session.kill()

    @property
    def result(self) -> Result:
        """The result, without the output that went to the iterator. Waits for the end."""
        for _ in self._chunks:
            pass
        if self._reading.result is None:
            raise UsageError("the stream was closed before its program had ended: there is no result")
        return self._reading.result

    def close(self) -> None:
        """Kills what runs, and leaves nothing; idempotent."""
        self._chunks.close()
        self.session.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _Reading:
    """Output until the end, and the deadline."""

    def __init__(self, session: Session, timeout: float | None) -> None:
        self.session = session
        self.result: Result | None = None
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._poll = select.poll()
        for descriptor in (*session.readers, session.pidfd):
            self._poll.register(descriptor, select.POLLIN)

    def chunks(self) -> Generator[tuple[str, bytes], None, None]:
        session, ended = self.session, False
        while not ended:
            ready = [descriptor for descriptor, _ in self._poll.poll(self._left())]
            if self._deadline is not None and session.pidfd not in ready and time.monotonic() >= self._deadline:
                self._deadline = None
                session.kill(timed_out=True)
            if session.pidfd in ready:  # every process of the sandbox has ended: what they wrote is in the pipes
                ended = True
                session.stopped()
            for descriptor in list(session.readers) if ended else [one for one in ready if one in session.readers]:
                yield from self._drain(descriptor, ended)
        self.result = session.finish()

    def _drain(self, descriptor: int, all_of_it: bool) -> Iterator[tuple[str, bytes]]:
        while chunk := self.session.read(descriptor):
            yield chunk
            if not all_of_it:
                return
        if descriptor not in self.session.readers:
            self._poll.unregister(descriptor)

    def _left(self) -> int | None:
        return None if self._deadline is None else max(0, round((self._deadline - time.monotonic()) * 1000) + 1)


def _mappings(facts: HostFacts) -> Any:
    """Root gives away ids that nobody has; anybody else has but one to give: their own."""
    if walls.privileged(facts):
        mapping = [{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]
        return mapping, mapping
    return [{"containerID": 0, "hostID": facts.uid, "size": 1}], [{"containerID": 0, "hostID": facts.gid, "size": 1}]


def _private_root() -> str:
    """Where the command line keeps containers, too; for an ordinary user without a runtime directory, one of their own in /tmp."""
    if os.geteuid() == 0 or os.environ.get("XDG_RUNTIME_DIR"):
        return state_root(None)
    path = f"/tmp/wherry-{os.geteuid()}"
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise HostError(f"{path} is not ours alone", code="WHERRY-HOST-PERMISSION", remedy="set XDG_RUNTIME_DIR, or pass root=")
    return path
