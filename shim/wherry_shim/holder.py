# SPDX-License-Identifier: Apache-2.0
"""What keeps a pod's namespaces where CRI is told `sandboxer = "shim"`: containerd has the pod's containers join those of the process that StartSandbox names.

A fork of the server that has gone into the network's namespace and made the others that the pod is to have. Where containers share their processes it
is their PID 1, and reaps. It ends when the server does: it waits for the end of a pipe whose other end nobody else has.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import posix

from wherry_shim import wire
from wherry_shim.errors import FAILED_PRECONDITION, UNKNOWN, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]

NEWUTS, NEWIPC, NEWPID, NEWNET = 0x04000000, 0x08000000, 0x20000000, 0x40000000
POD, CONTAINER, NODE = 0, 1, 2
CONFIG = "runtime.v1.PodSandboxConfig"

wire.add(
    {
        "cri.UserNamespace": "int32 mode 1",
        "cri.NamespaceOption": "int32 network 1, int32 pid 2, int32 ipc 3, UserNamespace userns_options 5",
        "cri.Security": "NamespaceOption namespace_options 1",
        "cri.Linux": "string cgroup_parent 1, Security security_context 2, string% sysctls 3",
        "cri.PodSandboxConfig": "string hostname 2, Linux linux 8",
    }
)


class Pod:
    """What CRI says of a pod. Without its configuration nothing is shared with the host but a network that is not named."""

    def __init__(self, request: "Message") -> None:
        self.id, self.network = str(request["sandbox_id"]), str(request.get("netns_path") or "")
        given = request.get("options") or {}
        known = str(given.get("type_url") or "").rpartition("/")[2] == CONFIG
        config = wire.decode("cri.PodSandboxConfig", given["value"]) if known else {}
        linux = config.get("linux") or {}
        modes = (linux.get("security_context") or {}).get("namespace_options") or {}
        user = modes.get("userns_options")
        if user is not None and user["mode"] == POD:
            raise ShimError(FAILED_PRECONDITION, "user namespaces need a pause container: leave out `sandboxer` for this runtime")
        self.hostname, self.sysctls = str(config.get("hostname") or ""), linux.get("sysctls") or {}
        self.flags = NEWUTS if self.network else 0
        self.flags |= NEWIPC if modes.get("ipc", POD) != NODE else 0
        self.shares_processes = modes.get("pid", POD) == POD


class Holder:
    """`pid` is what StartSandbox answers."""

    def __init__(self, pod: Pod) -> None:
        said, saying = posix.pipe2(posix.O_CLOEXEC)
        waiting, self._held = posix.pipe2(posix.O_CLOEXEC)
        child = posix.fork()
        if not child:
            try:
                _hold(pod, saying, waiting)
            finally:
                posix._exit(1)
        for descriptor in (saying, waiting):
            posix.close(descriptor)
        text = b""
        while part := posix.read(said, 4096):
            text += part
        posix.close(said)
        self.pid = int(text) if text.isdigit() else 0
        if self.pid != child:  # it is the child's child, or there is none
            posix.waitpid(child, 0)
        if not self.pid:
            posix.close(self._held)
            raise ShimError(UNKNOWN, f"the pod's namespaces cannot be made: {text.decode(errors='replace') or 'the process that holds them has ended'}")

    def end(self) -> None:
        if self._held >= 0:
            posix.close(self._held)
            self._held = -1
            try:
                posix.kill(self.pid, _signal.SIGKILL)
                posix.waitpid(self.pid, 0)
            except OSError:  # somebody was faster
                pass


def _hold(pod: Pod, saying: int, waiting: int) -> None:
    try:
        _enter(pod)
        pid = posix.fork() if pod.shares_processes else 0
        if pid:
            posix.write(saying, str(pid).encode())
            posix._exit(0)
        if not pod.shares_processes:
            posix.write(saying, str(posix.getpid()).encode())
    except Exception as error:
        posix.write(saying, f"{type(error).__name__}: {error}".encode())
        return
    from wherry_shim.zygote import set_title

    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # who is left to PID 1 is reaped
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    set_title(f"wherry-sandbox -id {pod.id}")
    posix.chdir("/")
    low = posix.dup2(waiting, 0)
    posix.closerange(1, 1 << 20)
    while posix.read(low, 1):
        pass


def _enter(pod: Pod) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int) -> None:
        if getattr(libc, name)(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {posix.strerror(number)}")

    if pod.network:
        call("setns", posix.open(pod.network, posix.O_RDONLY | posix.O_CLOEXEC), NEWNET)
    call("unshare", pod.flags | (NEWPID if pod.shares_processes else 0))
    if pod.flags & NEWUTS and pod.hostname:
        _socket.sethostname(pod.hostname)
    for name, value in pod.sysctls.items():
        descriptor = posix.open(f"/proc/sys/{name.replace('.', '/')}", posix.O_WRONLY | posix.O_CLOEXEC)
        posix.write(descriptor, str(value).encode())
        posix.close(descriptor)
