# SPDX-License-Identifier: Apache-2.0
"""NOTIFY_SOCKET: a program in a container tells the service manager outside that it is ready, through a socket of its own.

The manager's socket is never handed in. create binds an empty directory, <root>/@notify/<id>, on /run/notify; start listens there before
the program executes, waits until it says READY=1 or ends, and says so to the manager in its own name, with the program's pid. Nothing else that
a container says is passed on. Loaded where the command line finds NOTIFY_SOCKET in its environment.
"""

import os
import posix
import select
import socket

from wherry.kernel.native import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INSIDE = "/run/notify"
BARRIER_MS = 30_000


def wanted() -> "str | None":
    """The manager's socket: a path, or "@name"."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    return path if path[:1] in ("/", "@") and len(path) > 1 else None


def place(root: str, id: str) -> str:
    return f"{root}/@notify/{id}"


def add(document: "dict[str, Any]", root: str, id: str) -> "list[str]":
    """The mount; returns what comes into the environment. Nothing without a mount namespace: the directory would be mounted on the host."""
    kinds = [entry["type"] for entry in (document.get("linux") or {}).get("namespaces") or ()]
    if "mount" not in kinds or not document.get("process"):
        return []
    mount = {"destination": INSIDE, "type": "bind", "source": place(root, id), "options": ["bind", "nosuid", "noexec", "nodev", "ro"]}
    document["mounts"] = [*(document.get("mounts") or ()), mount]
    return [f"NOTIFY_SOCKET={INSIDE}/notify.sock"]


def make(root: str, id: str) -> bool:
    """Before the container is made. Whether the directory is new."""
    before = os.umask(0o077)
    try:
        os.makedirs(f"{root}/@notify", exist_ok=True)
        os.mkdir(place(root, id))
    except FileExistsError:
        return False
    finally:
        os.umask(before)
    os.chmod(place(root, id), 0o755)
    return True


def remove(root: str, id: str) -> None:
    for action, path in ((os.unlink, "/notify.sock"), (os.rmdir, "")):
        try:
            action(place(root, id) + path)
        except OSError:
            pass


def forget(root: str, dry_run: bool) -> "list[str]":
    """Directories of containers that are no more: created, never started, deleted."""
    try:
        ids = sorted(id for id in os.listdir(f"{root}/@notify") if not os.path.lexists(f"{root}/{id}"))
    except OSError:
        return []
    for id in () if dry_run else ids:
        remove(root, id)
    return ids


class Proxy:
    """Listens for one container, and speaks to the manager."""

    def __init__(self, root: str, id: str, manager: str) -> None:
        self.root, self.id, self.manager = root, id, manager
        self.pid = self.pidfd = -1
        self.inside = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    @classmethod
    def listen(cls, root: str, id: str, manager: str) -> "Proxy | None":
        """None for a container that was created without NOTIFY_SOCKET."""
        proxy = cls(root, id, manager)
        directory = -1
        try:
            directory = os.open(place(root, id), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            path = f"/proc/self/fd/{directory}/notify.sock"  # a socket's path has 107 bytes at most
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            proxy.inside.bind(path)
            os.chmod(path, 0o777)
        except (FileNotFoundError, NotADirectoryError):
            proxy.inside.close()
            return None
        finally:
            if directory >= 0:
                os.close(directory)
        return proxy

    def watch(self, container: Container) -> None:
        """The program executes: from here on its end ends the waiting."""
        try:
            self.pid, self.pidfd = container.pid, container.pidfd()
        except ProcessLookupError:
            self.pid = 0

    def forward(self, aside: bool) -> None:
        """Until the program is ready, or has ended. Aside: by a process of its own, while the caller pumps a terminal; it stays the main one."""
        if aside:
            child = posix.fork()  # of the command line, which has one thread
            if child:
                posix.waitpid(child, 0)
            elif posix.fork():
                posix._exit(0)
            else:
                self._forward(b"")
                posix._exit(0)
        else:
            self._forward(b"MAINPID=%d\n" % self.pid)
            remove(self.root, self.id)
        self.close()

    def _forward(self, more: bytes) -> None:
        poll = select.poll()
        poll.register(self.inside, select.POLLIN)
        if self.pidfd >= 0:
            poll.register(self.pidfd, select.POLLIN)
        while self.pid:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self.inside.fileno() not in ready:
                return
            lines = self.inside.recv(4096).split(b"\n")
            said = next((line for line in lines if line.startswith(b"READY=")), None)
            if said is not None:
                self._tell(said + b"\n" + more)
                return

    def _tell(self, text: bytes) -> None:
        """And waits until the manager has read it: it looks up who has spoken, and we are about to end."""
        address = "\0" + self.manager[1:] if self.manager[:1] == "@" else self.manager
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outside:
                outside.connect(address)
                outside.send(text)
                read, write = os.pipe2(os.O_CLOEXEC)
                try:
                    socket.send_fds(outside, [b"BARRIER=1"], [write])
                finally:
                    os.close(write)
                poll = select.poll()
                poll.register(read, 0)
                poll.poll(BARRIER_MS)
                os.close(read)
        except OSError:
            return  # nobody listens there: the container runs all the same

    def close(self) -> None:
        self.inside.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
