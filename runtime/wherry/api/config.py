# SPDX-License-Identifier: Apache-2.0
"""A whole config.json as a Python value: each method gives a new Config, so one can be the beginning of many."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from wherry.container.options import absolute
from wherry.errors import ConfigError, UsageError
from wherry.oci import default
from wherry.oci.checks import check
from wherry.oci.config import load
from wherry.oci.landlock import KEY as LANDLOCK
from wherry.oci.model import Config as Document
from wherry.oci.model import IdMapping, Seccomp

HookKind = Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
Kind = Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PERIOD = 100_000
_SCRATCH = ("/tmp", "/var/tmp", "/run")  # a missing one cannot be made by who is not the owner, and a sandbox makes nothing in a root filesystem


def size(text: int | str) -> int:
    """Bytes: a number, or one with K, M, G or T (1024) behind it: "64M"."""
    if isinstance(text, int):
        return text
    digits, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    if not digits.isdecimal() or unit not in _UNITS:
        raise UsageError(f'invalid size "{text}"', remedy="a number of bytes, or one with K, M, G or T")
    return int(digits) * _UNITS[unit]


class Config:
    """Begin with sandbox(), spec() or load(); then say what differs. A Config never changes: every method returns a new one.

        base = Config.sandbox("/srv/rootfs", ["python3", "job.py"]).memory("256M").pids(64)
        for name in names:
            run(base.env(JOB=name).bind(f"/srv/{name}", "/data"))

    What no method is for is set by its JSON pointer: config.set("/linux/personality", {"domain": "LINUX32"}).
    """

    __slots__ = ("_document",)

    def __init__(self, document: Mapping[str, Any] | None = None) -> None:
        self._document: Any = copy.deepcopy(dict(document)) if document is not None else {"ociVersion": default.VERSION}

    # ---- where to begin

    @classmethod
    def spec(cls, *args: str, rootfs: str | os.PathLike[str] = "rootfs", rootless: bool = False) -> Config:
        """What `wherry spec` writes: a command ("sh") in a root filesystem, with the namespaces and capabilities that all runtimes give.
        `rootless`: for an ordinary user, who becomes root in it."""
        document: Any = default.spec(rootless, os.geteuid(), os.getegid()) if rootless else default.spec()
        return cls(document).set("/process/terminal", False).args(*(args or ("sh",))).root(rootfs)

    @classmethod
    def sandbox(cls, rootfs: str | os.PathLike[str], args: Sequence[str], **choices: Any) -> Config:
        """For a program that nobody has read: no network, no capabilities, read-only, limits, a system call filter. The choices are
        those of wherry.oci.default.sandbox. Of /tmp, /var/tmp and /run those that the root filesystem has can be written."""
        path = absolute(os.fspath(rootfs))
        document: Any = default.sandbox(path, args, **choices)
        document["mounts"] = [one for one in document["mounts"] if one["destination"] not in _SCRATCH or os.path.lexists(path + one["destination"])]
        return cls(document)

    @classmethod
    def load(cls, bundle: str | os.PathLike[str]) -> Config:
        """The config.json of a bundle directory, or a file of another name. JsonError, with line and column, where it is none."""
        path = os.fspath(bundle)
        path = os.path.join(path, "config.json") if os.path.isdir(path) else path
        with open(path, "rb") as file:
            document: Any = load(file.read(), path)
        return cls(document)

    # ---- what becomes of it

    def to_dict(self) -> Document:
        """A copy of the document."""
        return cast(Document, copy.deepcopy(self._document))

    def to_json(self, indent: int | None = 2) -> str:
        """The text of config.json."""
        return json.dumps(self._document, indent=indent)

    def save(self, bundle: str | os.PathLike[str]) -> str:
        """Writes config.json into a directory, which is made where it is missing; returns its path."""
        os.makedirs(bundle, exist_ok=True)
        path = os.path.join(os.fspath(bundle), "config.json")
        with open(path, "w") as file:
            file.write(self.to_json() + "\n")
        return path

    def check(self) -> Config:
        """Itself, or ConfigError: the first value that breaks a rule, by its pointer. A create checks the same."""
        check(self.to_dict())
        return self

    def get(self, pointer: str, missing: Any = None) -> Any:
        """The value at a JSON pointer, or `missing`."""
        place: Any = self._document
        for name in _names(pointer):
            try:
                place = place[int(name)] if isinstance(place, list) else place[name]
            except (KeyError, IndexError, ValueError, TypeError):
                return missing
        return copy.deepcopy(place)

    def set(self, pointer: str, value: Any) -> Config:
        """Any value, by its JSON pointer; objects on the way are made, "-" appends to a list. The value None removes it."""
        *way, last = _names(pointer)

        def change(document: Any) -> None:
            place = document
            for name in way:
                place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
            _put(place, last, copy.deepcopy(value))

        return self._changed(change, pointer)

    def _changed(self, change: Callable[[Any], None], pointer: str = "") -> Config:
        document = copy.deepcopy(self._document)
        try:
            change(document)
        except (AttributeError, TypeError, ValueError, LookupError) as error:
            raise ConfigError("cannot be set: what stands above it is of another kind", pointer=pointer) from error
        new = Config.__new__(Config)
        new._document = document
        return new

    def _append(self, pointer: str, *values: Any) -> Config:
        return self.set(pointer, [*(self.get(pointer) or ()), *values])

    # ---- the program

    def args(self, *args: str) -> Config:
        """The program and its arguments; without a slash it is looked for in the container's PATH."""
        return self.set("/process/args", list(args))

    def env(self, values: Mapping[str, str] | None = None, /, **more: str) -> Config:
        """Adds variables, or replaces those of the same name: env(HOME="/root") or env({"HOME": "/root"})."""
        variables = dict(entry.partition("=")[::2] for entry in self.get("/process/env") or ())
        variables.update(values or {}, **more)
        return self.set("/process/env", [f"{name}={value}" for name, value in variables.items()])

    def without_env(self, *names: str) -> Config:
        """Takes variables away; all of them where none is named."""
        kept = [entry for entry in self.get("/process/env") or () if names and entry.partition("=")[0] not in names]
        return self.set("/process/env", kept)

    def cwd(self, path: str) -> Config:
        """The working directory, absolute; made where it is missing."""
        return self.set("/process/cwd", path)

    def user(self, uid: int, gid: int | None = None, *, groups: Iterable[int] = (), umask: int | None = None) -> Config:
        """Who runs the program, by numbers of the container; the group is that of the same number unless given."""
        user: dict[str, Any] = {"uid": uid, "gid": uid if gid is None else gid}
        if groups := list(groups):
            user["additionalGids"] = groups
        if umask is not None:
            user["umask"] = umask
        return self.set("/process/user", user)

    def terminal(self, wanted: bool = True, *, rows: int = 0, columns: int = 0) -> Config:
        """A terminal of its own; its master goes to the console socket that is given to create."""
        config = self.set("/process/terminal", wanted)
        return config.set("/process/consoleSize", {"height": rows, "width": columns} if rows and columns else None)

    def capabilities(self, *names: str, ambient: bool = False) -> Config:
        """Exactly these ("CAP_CHOWN" or "chown"), in all sets; `ambient` too, so that who is not root has them. None named: none at all."""
        full = [name if name.startswith("CAP_") else f"CAP_{name.upper()}" for name in names]
        kinds = ["bounding", "effective", "permitted", *(("inheritable", "ambient") if ambient else ())]
        return self.set("/process/capabilities", {kind: list(full) for kind in kinds})

    def no_new_privileges(self, wanted: bool = True) -> Config:
        """Set-user-id programs give nothing."""
        return self.set("/process/noNewPrivileges", wanted)

    def rlimit(self, name: str, soft: int, hard: int | None = None) -> Config:
        """A limit of one process ("NOFILE" or "RLIMIT_NOFILE"), the hard one alike unless given."""
        name = name if name.startswith("RLIMIT_") else f"RLIMIT_{name.upper()}"
        others = [one for one in self.get("/process/rlimits") or () if one["type"] != name]
        return self.set("/process/rlimits", [*others, {"type": name, "soft": soft, "hard": soft if hard is None else hard}])

    def oom_score(self, adjustment: int) -> Config:
        """From -1000 (never killed for want of memory) to 1000 (first)."""
        return self.set("/process/oomScoreAdj", adjustment)

    def label(self, *, apparmor: str | None = None, selinux: str | None = None) -> Config:
        """The security label of the process, by the module that the host has."""
        return self.set("/process/apparmorProfile", apparmor).set("/process/selinuxLabel", selinux)

    # ---- files

    def root(self, path: str | os.PathLike[str], readonly: bool | None = None) -> Config:
        """The root filesystem: absolute, or relative to the bundle. `readonly` stays as it was unless given."""
        config = self.set("/root/path", os.fspath(path))
        return config if readonly is None else config.set("/root/readonly", readonly)

    def readonly(self, wanted: bool = True) -> Config:
        """Whether the root filesystem itself can be written."""
        return self.set("/root/readonly", wanted)

    def mount(self, destination: str, *, source: str, type: str, options: Iterable[str] = ()) -> Config:
        """Any mount. One with the same destination is replaced, in its place; else it comes last."""
        entry = {"destination": destination, "type": type, "source": source, "options": list(options)}
        mounts = self.get("/mounts") or []
        places = [index for index, one in enumerate(mounts) if one["destination"] == destination]
        if not places:
            return self._append("/mounts", entry)
        return self.set(f"/mounts/{places[-1]}", entry)

    def bind(self, source: str | os.PathLike[str], destination: str, *, writable: bool = False, options: Iterable[str] = ()) -> Config:
        """A file or directory of the host, read-only unless `writable`, with what is mounted below it; no devices, no set-user-id."""
        words = ["rbind", "nosuid", "nodev", "rw" if writable else "ro", *options]
        return self.mount(destination, source=absolute(os.fspath(source)), type="none", options=words)

    def tmpfs(self, destination: str, size: int | str | None = None, *, mode: int = 0o1777, executable: bool = False) -> Config:
        """An empty directory in memory; of at most `size` bytes ("64M"), which count as the container's memory."""
        words = ["nosuid", "nodev", *(() if executable else ("noexec",)), f"mode={mode:o}"]
        if size is not None:
            words.append(f"size={_size(size)}")
        return self.mount(destination, source="tmpfs", type="tmpfs", options=words)

    def without_mount(self, destination: str) -> Config:
        """Takes the mounts on a destination away."""
        return self.set("/mounts", [one for one in self.get("/mounts") or () if one["destination"] != destination])

    def mask(self, *paths: str) -> Config:
        """Paths that cannot be read: an empty file or directory lies over them."""
        return self._append("/linux/maskedPaths", *paths)

    def protect(self, *paths: str) -> Config:
        """Paths that cannot be written."""
        return self._append("/linux/readonlyPaths", *paths)

    def landlock(self, *, read: Iterable[str] = (), use: Iterable[str] = (), write: Iterable[str] = ()) -> Config:
        """What the process may do by path, whoever it is: read and execute, write to files that are there as well, or everything; nothing
        elsewhere. All empty: no such rules. A host whose kernel has no Landlock of ABI 3 refuses the container."""
        rules = {kind: list(paths) for kind, paths in (("read", read), ("use", use), ("write", write)) if paths}
        annotations = {name: text for name, text in (self.get("/annotations") or {}).items() if name != LANDLOCK}
        if rules:
            annotations[LANDLOCK] = json.dumps(rules)
        return self.set("/annotations", annotations or None)

    def device(self, path: str, major: int, minor: int, *, type: Literal["c", "b"] = "c", mode: int = 0o666, access: str = "rwm") -> Config:
        """A device node, and the right to use it."""
        node = {"path": path, "type": type, "major": major, "minor": minor, "fileMode": mode}
        rule = {"allow": True, "type": type, "major": major, "minor": minor, "access": access}
        return self._append("/linux/devices", node)._append("/linux/resources/devices", rule)

    # ---- what surrounds it

    def hostname(self, name: str, domain: str | None = None) -> Config:
        """The names of host and NIS domain that programs see."""
        return self.set("/hostname", name).set("/domainname", domain)

    def namespace(self, *kinds: Kind) -> Config:
        """New namespaces of these kinds."""
        config = self
        for kind in kinds:
            config = config.share(kind)._append("/linux/namespaces", {"type": kind})
        return config

    def join(self, kind: Kind, path: str | os.PathLike[str]) -> Config:
        """A namespace that exists, by its file: join("network", "/proc/4711/ns/net")."""
        return self.share(kind)._append("/linux/namespaces", {"type": kind, "path": os.fspath(path)})

    def share(self, *kinds: Kind) -> Config:
        """No namespace of these kinds: the host's. share("network") is the host's network."""
        return self.set("/linux/namespaces", [one for one in self.get("/linux/namespaces") or () if one["type"] not in kinds])

    def map_ids(self, uids: Sequence[tuple[int, int, int]], gids: Sequence[tuple[int, int, int]] | None = None) -> Config:
        """A user namespace with these mappings: (first in the container, first on the host, how many); gids like uids unless given.
        The group of terminals (gid=5 of /dev/pts) is left out where it has no number."""
        gids = uids if gids is None else gids
        config = self.namespace("user").set("/linux/uidMappings", _mappings(uids)).set("/linux/gidMappings", _mappings(gids))
        for index, mount in enumerate(self.get("/mounts") or ()):
            if mount.get("type") == "devpts" and not any(first <= 5 < first + count for first, _, count in gids):
                options = [option for option in mount.get("options", ()) if option != "gid=5"]
                config = config.set(f"/mounts/{index}/options", options)
        return config

    def map_self(self) -> Config:
        """A user namespace in which the caller is root and nobody else is: what an ordinary user may do without help."""
        return self.map_ids([(0, os.geteuid(), 1)], [(0, os.getegid(), 1)])

    def sysctl(self, values: Mapping[str, str]) -> Config:
        """Kernel parameters of the container's own namespaces: sysctl({"net.ipv4.ip_forward": "1"})."""
        return self.set("/linux/sysctl", {**(self.get("/linux/sysctl") or {}), **values})

    def seccomp(self, profile: Mapping[str, Any] | Literal["default"] | None) -> Config:
        """A filter as in config.json; "default" is that of sandbox(); None is no filter at all."""
        chosen: Mapping[str, Any] | Seccomp | None = default.profile() if profile == "default" else profile
        return self.set("/linux/seccomp", chosen)

    # ---- limits

    def memory(self, limit: int | str | None, *, swap: int | str | None = None, reservation: int | str | None = None) -> Config:
        """Bytes, or "256M"; `swap` counts on top of it (none unless given), `reservation` is what it keeps under pressure. None: no limit."""
        if limit is None:
            return self.set("/linux/resources/memory", None)
        memory = {"limit": size(limit), "swap": size(limit) + size(swap or 0)}
        if reservation is not None:
            memory["reservation"] = size(reservation)
        return self.set("/linux/resources/memory", memory)

    def cpus(self, count: float | None) -> Config:
        """At most so many processors' time: 0.5, 2. None: no limit."""
        if count is None:
            return self.set("/linux/resources/cpu/quota", None).set("/linux/resources/cpu/period", None)
        return self.set("/linux/resources/cpu/quota", max(1000, round(count * _PERIOD))).set("/linux/resources/cpu/period", _PERIOD)

    def cpu_shares(self, shares: int) -> Config:
        """Its part where processors are scarce; 1024 is the usual one."""
        return self.set("/linux/resources/cpu/shares", shares)

    def cpuset(self, cpus: str, mems: str | None = None) -> Config:
        """Which processors and memory nodes: "0-3,6"."""
        config = self.set("/linux/resources/cpu/cpus", cpus)
        return config if mems is None else config.set("/linux/resources/cpu/mems", mems)

    def pids(self, limit: int | None) -> Config:
        """At most so many processes and threads. None: no limit."""
        return self.set("/linux/resources/pids", None if limit is None else {"limit": limit})

    def unified(self, files: Mapping[str, str]) -> Config:
        """Files of cgroup v2 by name: unified({"memory.high": "1000000"})."""
        return self.set("/linux/resources/unified", {**(self.get("/linux/resources/unified") or {}), **files})

    def cgroup(self, path: str | None) -> Config:
        """Where its cgroup is: absolute below the mounts, relative below the caller's own. None: /wherry/<id>."""
        return self.set("/linux/cgroupsPath", path)

    def without_limits(self) -> Config:
        """No limits and no device rules."""
        return self.set("/linux/resources", None)

    # ---- around its life

    def hook(self, kind: HookKind, path: str | os.PathLike[str], *args: str, env: Mapping[str, str] | None = None, timeout: int | None = None) -> Config:
        """A program that runs at a moment of its life, with the state on its stdin. `args` are without the program's own name."""
        hook: dict[str, Any] = {"path": os.fspath(path), "args": [os.path.basename(path), *args]}
        if env:
            hook["env"] = [f"{name}={value}" for name, value in env.items()]
        if timeout is not None:
            hook["timeout"] = timeout
        return self._append(f"/hooks/{kind}", hook)

    def annotate(self, values: Mapping[str, str] | None = None, /, **more: str) -> Config:
        """Facts for others: state and hooks carry them."""
        return self.set("/annotations", {**(self.get("/annotations") or {}), **(values or {}), **more})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self._document == other._document

    def __hash__(self) -> int:
        return hash(json.dumps(self._document, sort_keys=True))

    def __repr__(self) -> str:
        return f"<wherry.Config {self.get('/process/args')} in {self.get('/root/path')}>"


_size = size  # tmpfs has a parameter of that name


def _names(pointer: str) -> list[str]:
    if not pointer.startswith("/"):
        raise UsageError(f'"{pointer}" is no JSON pointer', remedy='it begins with "/": /process/args/0')
    return [name.replace("~1", "/").replace("~0", "~") for name in pointer[1:].split("/")]


def _put(place: Any, name: str, value: Any) -> None:
    if isinstance(place, list):
        if name == "-":
            place.append(value)
        elif value is None:
            del place[int(name)]
        else:
            place[int(name)] = value
    elif value is None:
        place.pop(name, None)
    else:
        place[name] = value


def _mappings(entries: Sequence[tuple[int, int, int]]) -> list[IdMapping]:
    return [{"containerID": inside, "hostID": outside, "size": count} for inside, outside, count in entries]
