# SPDX-License-Identifier: Apache-2.0
"""containerd-shim-wherry-v2, as containerd starts it: start, delete, -info, -v, and without an action the server itself.

What is on the way of every container is kept small: nothing of the standard library that is a file, and the service only in the server.

start   finds the group's socket, or binds it and starts a server that inherits it; prints the address. One server serves a pod
delete  after every container, and after a server that died: takes away what is left, if anything is; prints a DeleteResponse
"""

import posix
import sys
import time

from wherry_shim import wire
from wherry_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "containerd-shim-wherry-v2"
LARGEST_INPUT = 10 << 20
SWITCHES = ("debug", "v", "version", "info")
VALUES = ("namespace", "address", "publish-binary", "id", "bundle", "socket", "debug-socket")


class UsageError(Exception):
    """The command line, or the directory that we were started in, is not what containerd would give."""


class Arguments:
    """Go's flag syntax: one dash or two, `-k v` or `-k=v`, flags end at the first word that is none."""

    def __init__(self, words: "Sequence[str]") -> None:
        self.values = dict.fromkeys(VALUES, "")
        self.switches: set[str] = set()
        rest = list(words)
        while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
            name, equals, value = rest.pop(0).removeprefix("-").removeprefix("-").partition("=")
            if name in SWITCHES:
                if value.lower() not in ("0", "f", "false"):
                    self.switches.add(name)
            elif name in VALUES:
                if not equals and not rest:
                    raise UsageError(f"flag needs an argument: -{name}")
                self.values[name] = value if equals else rest.pop(0)
            else:
                raise UsageError(f"flag provided but not defined: -{name}")
        self.action = rest[0] if rest else ""

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def check(self) -> None:
        if not self["namespace"]:
            raise UsageError("shim namespace cannot be empty")
        if not self["id"] or "/" in self["id"] or self["id"] in (".", ".."):
            raise UsageError(f"shim id {self['id']!r} cannot be used")


def main() -> None:
    """Ends the process at once: what the interpreter would tidy up is nothing of ours."""
    posix._exit(run())


def run() -> int:
    try:
        arguments = Arguments(sys.argv[1:])
        if arguments.switches & {"v", "version"}:
            return print_version()
        if "info" in arguments.switches:
            return print_info()
        arguments.check()
        if arguments.action == "start":
            from wherry_shim import bootstrap_start

            return bootstrap_start.main(arguments)
        if arguments.action == "delete":
            return delete(arguments)
        if arguments.action:
            raise UsageError(f"unknown action {arguments.action!r}: start or delete")
        if arguments["socket"]:
            from wherry_shim import grpc_server

            return grpc_server.main(arguments)
        from wherry_shim import containerd_server

        return containerd_server.main(arguments)
    except (UsageError, ShimError, OSError) as error:
        complain(f"{NAME}: {error}")
        return 1


def complain(text: str) -> None:
    try:
        posix.write(2, (text + "\n").encode("utf-8", "replace"))
    except OSError:
        pass


def write_all(data: bytes) -> None:
    while data:
        data = data[posix.write(1, data) :]


def read_input() -> bytes:
    """Of standard input, which a person's terminal is not."""
    if posix.isatty(0):
        return b""
    data = b""
    while len(data) <= LARGEST_INPUT:
        more = posix.read(0, 1 << 16)
        if not more:
            return data
        data += more
    raise UsageError(f"more than {LARGEST_INPUT} bytes on standard input")


def print_version() -> int:
    from wherry.cli.version import release

    write_all(f"{NAME}:\n  Version:  {release()}\n".encode())
    return 0


def print_info() -> int:
    """A RuntimeInfo, with the features document that `wherry features` prints."""
    from contextlib import redirect_stdout
    from io import StringIO

    from wherry.cli import main as wherry
    from wherry.cli.version import release
    from wherry.kernel import native
    from wherry_shim import messages, messages_rare

    assert messages.TABLE and messages_rare.TABLE
    try:
        options = wire.decode("any.Any", read_input())
    except wire.DecodeError as error:
        raise UsageError(f"options on standard input: {error}")
    with redirect_stdout(StringIO()) as features:
        wherry(["features"])
    info = {
        "name": NAME,
        "version": {"version": release(), "revision": native.build_id().hex()},
        "features": {"type_url": "types.containerd.io/opencontainers/runtime-spec/1/features/Features", "value": features.getvalue().encode()},
    }
    if options["type_url"]:
        info["options"] = options
    write_all(wire.encode("types.RuntimeInfo", info))
    return 0


def delete(arguments: Arguments) -> int:
    """The normal path, after a Delete that has done everything, costs a look at one file."""
    from wherry_shim import clean, messages

    assert messages.TABLE
    id = arguments["id"]
    bundle = arguments["bundle"] or f"{posix.getcwd().rpartition('/')[0]}/{id}"
    if clean.is_gone(bundle):
        now = time.time_ns()
        answer: wire.Values = {"exit_status": 137, "exited_at": {"seconds": now // 10**9, "nanos": now % 10**9}}
        pid = read_file(f"{bundle}/init.pid")
        answer["pid"] = int(pid) if pid.isdigit() else 0
    else:
        from wherry_shim.keeper import Setting

        answer = clean.destroy(Setting(arguments["namespace"]), id, bundle)
    remove_dead_socket(bundle)
    write_all(wire.encode("task.DeleteResponse", answer))
    return 0


def remove_dead_socket(bundle: str) -> None:
    """That a server left which was killed."""
    path = read_file(f"{bundle}/address").decode(errors="replace").strip().removeprefix("unix://")
    grpc = path[:1] == "{"
    if grpc:  # of a server behind gRPC, as grpc_start writes it
        path = path.partition('"address":"')[2].partition('"')[0]
    try:
        found = posix.stat(path)
    except (OSError, ValueError):
        return
    from wherry_shim.bootstrap_start import answers, locked, serves

    if answers(path) if grpc else serves(path):  # without the lock: who is to answer may be waiting for that
        return
    try:
        lock = locked(path.rpartition("/")[0])
        try:
            now = posix.stat(path)
            if (now.st_ino, now.st_ctime_ns) == (found.st_ino, found.st_ctime_ns):  # else another server has come
                posix.unlink(path)
        finally:
            posix.close(lock)
    except OSError:
        pass


def read_file(path: str) -> bytes:
    """What is there of it; nothing where there is no file."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := posix.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        posix.close(fd)
