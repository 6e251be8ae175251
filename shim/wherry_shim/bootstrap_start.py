# SPDX-License-Identifier: Apache-2.0
"""The action `start`: one socket and one server for a group of containers, and the address in the words that this containerd reads.

The socket is bound here and inherited by the server: containerd may connect at once, the kernel holds it until the server accepts. The
directory of the sockets is locked meanwhile, so that two starts of one group, or a start and a server that goes, agree on who serves.
"""

import _socket
import fcntl
import posix
import sys

from wherry_shim import messages, wire
from wherry_shim.bootstrap import NAME, Arguments, UsageError, read_file, read_input, write_all

DIRECTORY = "/run/containerd/s"
LONGEST_PATH = 106
LISTENER = 3
"""The server's descriptor of it."""
GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
PROTOCOL = "org.wherry.shim.protocol"


class Request:
    """What containerd says, whichever way: flags and environment, or (since 2.3) BootstrapParams on standard input."""

    def __init__(self, arguments: Arguments, data: bytes) -> None:
        assert messages.TABLE
        self.id, self.namespace, self.address = arguments["id"], arguments["namespace"], arguments["address"]
        self.directory, self.debug, self.ttrpc = DIRECTORY, "debug" in arguments.switches, ""
        self.binary = arguments["publish-binary"]
        self.modern = data and self._read_parameters(data)
        self.options = self._read_options(data) if data and not self.modern else {}

    def _read_parameters(self, data: bytes) -> bool:
        """Options alone may be read as parameters too, but they do not hold our id and namespace."""
        from wherry_shim import messages_rare

        assert messages_rare.TABLE
        try:
            given = wire.decode("boot.BootstrapParams", data)
        except wire.DecodeError:
            return False
        if given["instance_id"] != self.id or given["namespace"] != self.namespace:
            return False
        self.address = given["containerd_grpc_address"] or self.address
        self.binary = given["containerd_binary"] or self.binary
        self.ttrpc = given["containerd_ttrpc_address"]
        self.debug = self.debug or given["log_level"] < 0
        self.directory = given["socket_dir"] or self.directory
        extensions = [one["value"] for one in given["extensions"] if one["value"]]
        self.options = next((fields for fields in map(_runc_options, extensions) if fields), {})
        return True

    def _read_options(self, data: bytes) -> "wire.Values":
        try:
            return _runc_options(wire.decode("any.Any", data))
        except wire.DecodeError as error:
            raise UsageError(f"options on standard input: {error}")


def _runc_options(value: "wire.Values") -> "wire.Values":
    if value["type_url"].rpartition("/")[2] != "containerd.runc.v1.Options":
        return {}
    return wire.decode("runc.Options", value["value"])


def main(arguments: Arguments) -> int:
    request = Request(arguments, read_input())
    group, protocol = wishes("config.json")
    path = socket_path(request.directory, request.address, request.namespace, (group or request.id) + ("" if protocol == "ttrpc" else ".grpc"))
    posix_makedirs(request.directory)
    if protocol == "grpc":
        from wherry_shim.grpc_start import start

        return start(request, path)
    lock = locked(request.directory)
    try:
        listener = bind(path)
    finally:
        posix.close(lock)
    address = f"unix://{path}"
    if listener is not None:
        pid = 0
        try:
            pid = spawn_porter(request, listener) or spawn(request, listener)
            join_cgroup(pid, request.options.get("shim_cgroup", ""))
            write_address(address)
        except BaseException:
            if pid:
                posix.kill(pid, 9)
            posix.unlink(path)
            raise
    else:
        write_address(address)
    # Version 3 only to who has shown that it knows it: 1.7 refuses it, and looks like 2.0 to 2.2
    write_all(f'{{"version":3,"address":"{address}","protocol":"ttrpc"}}'.encode() if request.modern else address.encode())
    return 0


def wishes(config: str) -> "tuple[str, str]":
    """What annotations say: with whom a container shares its server ("" = with nobody), and which protocol containerd is to speak."""
    data = read_file(config)
    if not data and not _exists(config):  # a sandbox of containerd 2
        return "", "ttrpc"
    if not data:
        raise UsageError(f"cannot read {config} in {posix.getcwd()}")
    if not any(name.encode() in data for name in (*GROUPS, PROTOCOL)):
        return "", "ttrpc"
    import json

    try:
        annotations = json.loads(data).get("annotations") or {}
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{config}: {error}")
    protocol = str(annotations.get(PROTOCOL) or "ttrpc")
    if protocol not in ("ttrpc", "grpc"):
        raise UsageError(f"annotation {PROTOCOL}: {protocol!r} is neither ttrpc nor grpc")
    return next((str(annotations[name]) for name in GROUPS if annotations.get(name)), ""), protocol


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def socket_path(directory: str, address: str, namespace: str, group: str) -> str:
    """The same for the same group of the same containerd."""
    path = f"{directory}/{sha256('/'.join(filter(None, (address, namespace, group))).encode())}"
    if len(path) > LONGEST_PATH:
        raise UsageError(f"socket path {path} is longer than {LONGEST_PATH} bytes: choose a shorter directory than {directory}")
    return path


def sha256(data: bytes) -> str:
    try:
        from _sha256 import sha256 as make
    except ImportError:  # Python 3.12
        from _sha2 import sha256 as make  # type: ignore[import-not-found]

    digest: str = make(data).hexdigest()
    return digest


def posix_makedirs(path: str) -> None:
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        posix_makedirs(path.rpartition("/")[0])
        posix.mkdir(path, 0o700)


def locked(directory: str) -> int:
    fd = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def serves(path: str) -> bool:
    """Somebody answers there: the connections of a server that is killed end some time before it listens no more."""
    return answers(path, b"\0\0\0\x22\0\0\0\1\1\0\n\x17containerd.task.v2.Task\x12\7Connect")


def answers(path: str, request: bytes = b"") -> bool:
    """Somebody listens there."""
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        peer.settimeout(0.1)
        peer.connect(path)
        if request:
            peer.settimeout(1)
            peer.send(request, _socket.MSG_NOSIGNAL)
        return not request or bool(peer.recv(1))
    except BlockingIOError:  # its backlog is full: somebody does
        return True
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        peer.close()


def bind(path: str) -> "_socket.socket | None":
    """A listening socket, or None where a server has one there already. Under the directory's lock."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    mask = posix.umask(0o177)
    try:
        try:
            listener.bind(path)
        except OSError:
            if serves(path):
                listener.close()
                return None
            posix.unlink(path)
            listener.bind(path)
        listener.listen(128)
    finally:
        posix.umask(mask)
    return listener


def spawn_porter(request: Request, listener: "_socket.socket") -> int:
    """The program beside us as a porter (csrc/shim/porter.h), which gets workers for itself. 0: the server is to be a process of its own."""
    program = f"{sys.argv[0].rpartition('/')[0]}/{NAME}"
    alone = [name for name in (b"SCHED_CORE", b"WHERRY_ZYGOTE") if posix.environ.get(name) not in (None, b"", b"on")]
    if alone or posix.environ.get(b"WHERRY_SHIM_PARK") == b"off" or request.options.get("shim_cgroup") or not _exists(program):
        return 0
    environment = environment_of(request)
    log = open_log()
    try:
        set_oom_score(posix.getpid(), oom_score())
        return posix.posix_spawn(program, [program, *words_of(request)[1:]], environment, file_actions=server_files(listener.fileno(), log), setpgroup=0)
    finally:
        posix.close(log)


def environment_of(request: Request) -> "dict[bytes, bytes]":
    environment = dict(posix.environ)
    environment.setdefault(b"MALLOC_ARENA_MAX", b"1")
    if request.ttrpc:
        environment[b"TTRPC_ADDRESS"] = request.ttrpc.encode()
    return environment


def spawn(request: Request, listener: "_socket.socket") -> int:
    """The server: from the zygote, else by itself."""
    argv, environment = words_of(request), environment_of(request)
    score = oom_score()
    if environment.get(b"SCHED_CORE"):
        share_core()
    log = open_log()
    try:
        if not environment.get(b"SCHED_CORE") and environment.get(b"WHERRY_ZYGOTE") != b"off":
            from wherry_shim import zygote

            pid = zygote.ask(zygote.socket_path(DIRECTORY, sys.argv[0]), argv, environment, score, [listener.fileno(), log])
            if pid:
                return pid
        pid = spawn_cold(argv, environment, listener.fileno(), log)
    finally:
        posix.close(log)
    set_oom_score(pid, score)
    return pid


def words_of(request: Request) -> "list[str]":
    """The server's command line."""
    argv = [sys.argv[0], "-namespace", request.namespace, "-id", request.id, "-address", request.address]
    argv += ["-publish-binary", request.binary] if request.binary else []
    return argv + (["-debug"] if request.debug else [])


def spawn_cold(argv: "list[str]", environment: "dict[bytes, bytes]", listener: int, log: int) -> int:
    """A process group of its own, nothing of ours but the socket, its errors to the bundle's log."""
    words = [sys.executable, "-I", "-S", *argv]
    return posix.posix_spawn(sys.executable, words, environment, file_actions=server_files(listener, log), setpgroup=0)


def server_files(listener: int, log: int) -> "list[tuple[object, ...]]":
    actions: list[tuple[object, ...]] = [(posix.POSIX_SPAWN_OPEN, fd, "/dev/null", posix.O_RDWR, 0) for fd in (0, 1)]
    return [*actions, (posix.POSIX_SPAWN_DUP2, log, 2), (posix.POSIX_SPAWN_DUP2, listener, LISTENER)]


def share_core() -> None:
    """containerd asks for core scheduling: a group of our own, which the server inherits."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(62, 1, 0, 2, 0):  # PR_SCHED_CORE, create, ourselves, process group
        raise OSError(ctypes.get_errno(), f"core scheduling: {posix.strerror(ctypes.get_errno())}")


def open_log() -> int:
    """A fifo. Opened for both ways, it neither blocks us now nor its writers when containerd is away. Where there is none, nothing is kept."""
    try:
        return posix.open("log", posix.O_RDWR | posix.O_NONBLOCK | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except OSError:
        return posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)


def oom_score() -> int:
    """The kernel takes a server a little sooner than containerd."""
    text = read_file(f"/proc/{posix.getppid()}/oom_score_adj").strip()
    return min(1000, int(text) + 1) if text.removeprefix(b"-").isdigit() else 1


def set_oom_score(pid: int, score: int) -> None:
    try:
        fd = posix.open(f"/proc/{pid}/oom_score_adj", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, str(score).encode())
        finally:
            posix.close(fd)
    except OSError as error:
        if not isinstance(error, PermissionError):
            raise


def join_cgroup(pid: int, path: str) -> None:
    """runc's option shim_cgroup."""
    if not path:
        return
    places = []
    for line in read_file("/proc/self/mounts").decode(errors="replace").splitlines():
        _, place, kind, _ = line.split(" ", 3)
        if kind in ("cgroup", "cgroup2") and (kind == "cgroup" or place == "/sys/fs/cgroup"):
            places.append(place)
    for place in places:
        directory = f"{place}/{path.strip('/')}"
        posix_makedirs(directory)
        fd = posix.open(f"{directory}/cgroup.procs", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, str(pid).encode())
        finally:
            posix.close(fd)


def write_address(address: str) -> None:
    """For containerd to 1.7, which reads it when it comes back; whole or not at all."""
    fd = posix.open(".address", posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o644)
    try:
        posix.write(fd, address.encode())
    finally:
        posix.close(fd)
    posix.rename(".address", "address")
