# SPDX-License-Identifier: Apache-2.0
"""How each engine is told of a runtime: which file, which keys, and how they are merged with what stands there. Writes nothing.

What cannot be read and merged for certain is refused: after a merge the file is read again, and must be what it was and our keys.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wherry.errors import UsageError

BEGIN, END = "# wherry: begin", "# wherry: end"
OWN = "# Written by wherry setup."
"""The first line of files that are ours alone."""

SHIM = "io.containerd.wherry.v2"
PODMAN_KNOWS_JSON = ("crun", "crun-vm", "runc", "kata", "runsc", "youki", "krun", "ocijail")


@dataclass
class Wish:
    """What the command line asks for."""

    path: str  # of the front
    name: str = "wherry"
    default: bool = False
    systemd: bool = False
    chosen: bool = False  # the global flags say which cgroup manager
    home: str = ""  # of an ordinary user; "" = root
    version: int = 2  # of containerd's configuration, where there is no file yet
    shim: str = ""  # path of our own shim, where that is wished for in the place of runc's


@dataclass
class Engine:
    """`file` by wish; `merge`: what the file says (None = there is none) and the wish -> what it should say."""

    file: Callable[[Wish], str]
    merge: Callable[[str | None, Wish], str]
    then: tuple[str, ...] = field(default=())
    notes: Callable[[Wish], list[str]] = lambda wish: []
    shims: bool = False  # it starts containers by a shim


def refuse(message: str, remedy: str) -> UsageError:
    return UsageError(message, code="WHERRY-USAGE-FILE", remedy=remedy)


def _below(root: str, user: str) -> Callable[[Wish], str]:
    return lambda wish: f"{wish.home}/{user}" if wish.home else root


# ---- Docker: JSON, merged


def docker(text: str | None, wish: Wish) -> str:
    document = _json(text)
    runtimes = document.setdefault("runtimes", {})
    if not isinstance(runtimes, dict):
        raise refuse("/runtimes is not an object", "correct the file first")
    runtimes[wish.name] = _docker_runtime(_object(runtimes.get(wish.name)), wish)
    if wish.default:
        document["default-runtime"] = wish.name
    return json.dumps(document, indent=_indent(text or ""), ensure_ascii=False) + "\n"


def _docker_runtime(there: dict[str, Any], wish: Wish) -> dict[str, Any]:
    """`path` is a runtime's, `runtimeType` a shim's: a runtime of Docker has one of the two, and arguments or options with it."""
    if not wish.shim:
        return {**{key: value for key, value in there.items() if key not in ("runtimeType", "options")}, "path": wish.path}
    kept = {key: value for key, value in there.items() if key not in ("path", "runtimeArgs", "options")}
    return {**kept, "runtimeType": wish.shim, **({"options": {"SystemdCgroup": True}} if wish.systemd else {})}


def _json(text: str | None) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return dict(pairs)

    try:
        document = json.loads(text, object_pairs_hook=once) if text and text.strip() else {}
    except ValueError as error:
        raise refuse(f"it is no JSON: {error}", "correct the file first") from error
    if not isinstance(document, dict):
        raise refuse("it is no JSON object", "correct the file first")
    return document


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _indent(text: str) -> int | str:
    found = re.search(r"^\{\s*?\n([ \t]+)\"", text)
    return 4 if not found else "\t" if "\t" in found.group(1) else len(found.group(1))


# ---- Podman, CRI-O, Buildah: files of our own, which the engine reads besides its own


def own_file(content: Callable[[Wish], str]) -> Callable[[str | None, Wish], str]:
    def merge(text: str | None, wish: Wish) -> str:
        if text is not None and text.strip() and not text.startswith(OWN):
            raise refuse("it was not written by wherry", "move it away, or choose another file with --file")
        return f"{OWN}\n{content(wish)}"

    return merge


def podman(wish: Wish) -> str:
    names = ", ".join(json.dumps(name) for name in (*PODMAN_KNOWS_JSON, wish.name))
    lines = ["[engine]"]
    if wish.default:
        lines.append(f"runtime = {json.dumps(wish.name)}")
    if wish.chosen:  # it is the engine's, for all runtimes
        lines.append(f'cgroup_manager = "{"systemd" if wish.systemd else "cgroupfs"}"')
    lines += [
        f"runtime_supports_json = [{names}]",
        "",
        "[engine.runtimes]",
        f"{_key(wish.name)} = [{json.dumps(wish.path)}]",
    ]
    return "\n".join(lines) + "\n"


def crio(wish: Wish) -> str:
    lines = ["[crio.runtime]", f'default_runtime = "{wish.name}"', ""] if wish.default else []
    lines += [
        f"[crio.runtime.runtimes.{_key(wish.name)}]",
        f"runtime_path = {json.dumps(wish.path)}",
        'runtime_type = "oci"',
        f'runtime_root = "/run/{wish.name}"',
    ]
    return "\n".join(lines) + "\n"


def buildah(wish: Wish) -> str:
    return f"export BUILDAH_RUNTIME={_shell(wish.path)}\n"


def _shell(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


# ---- containerd: TOML, which Python reads and does not write. Our tables are a block at the end; all else stays byte for byte.

_PLUGIN = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}


def containerd(text: str | None, wish: Wish) -> str:
    old = _toml(text or "")
    rest = _without_block(text or "")
    version = old.get("version", 0 if old else wish.version)
    if version not in _PLUGIN:
        raise refuse(f"its version is {version or 1}", "containerd config migrate makes a newer one of it")
    plugin = _PLUGIN[version]
    before = _toml(rest)
    wanted = _containerd_keys(plugin, wish, alone=_at(before, "plugins", plugin, "containerd", "runtimes") is None)
    lines = "" if "version" in before else f"version = {version}\n\n"
    if wish.default:
        rest = _default_runtime(rest, before, plugin, wish)
    there = _at(before, "plugins", plugin, "containerd", "runtimes", wish.name)
    if there is not None:
        if there == _at(wanted, "plugins", plugin, "containerd", "runtimes", wish.name):
            return _checked(rest, before, wanted, wish, plugin)
        raise refuse(f'it has a runtime "{wish.name}" of another kind', "remove it there, or choose another --name")
    block = _containerd_block(plugin, wish, wanted)
    gap = "" if not rest else "\n" if rest.endswith("\n") else "\n\n"
    return _checked(f"{lines}{rest}{gap}{block}", before, wanted, wish, plugin, version)


def _containerd_keys(plugin: str, wish: Wish, alone: bool) -> dict[str, Any]:
    """`alone`: the file names no runtime. Then containerd has a runc of its own, which it forgets once there is one: it is named, too."""
    kind: dict[str, Any] = {"runtime_type": SHIM, "runtime_path": wish.shim} if wish.shim else {"runtime_type": "io.containerd.runc.v2"}
    binary = {} if wish.shim else {"BinaryName": wish.path}
    runtime = {**kind, "options": {**binary, "SystemdCgroup": wish.systemd}}
    runtimes: dict[str, Any] = {"runc": {"runtime_type": "io.containerd.runc.v2"}} if alone else {}
    return {"plugins": {plugin: {"containerd": {"runtimes": {**runtimes, wish.name: runtime}}}}}


def _containerd_block(plugin: str, wish: Wish, wanted: dict[str, Any]) -> str:
    tables = f'plugins."{plugin}".containerd.runtimes'
    table = f"{tables}.{_key(wish.name)}"
    runtimes = _at(wanted, "plugins", plugin, "containerd", "runtimes")
    runtime = runtimes[wish.name]
    runc = "runc" in runtimes and wish.name != "runc"
    lines = [
        BEGIN,
        *([f"[{tables}.runc]", '  runtime_type = "io.containerd.runc.v2"'] if runc else ()),
        f"[{table}]",
        *(f"  {key} = {json.dumps(value)}" for key, value in runtime.items() if key != "options"),
        f"[{table}.options]",
        *(f"  {key} = {json.dumps(value)}" for key, value in runtime["options"].items()),
        END,
    ]
    return "\n".join(lines) + "\n"


def _default_runtime(text: str, before: dict[str, Any], plugin: str, wish: Wish) -> str:
    """default_runtime_name, where it stands, or below the head of its table, or in a table of its own."""
    line = f"default_runtime_name = {json.dumps(wish.name)}"
    if _at(before, "plugins", plugin, "containerd", "default_runtime_name") is not None:
        changed, count = re.subn(r"(?m)^(\s*)default_runtime_name\s*=.*$", lambda found: found.group(1) + line, text)
        if count != 1:
            raise refuse("default_runtime_name stands there in a form that is not understood", "set it by hand")
        return changed
    head = re.compile(rf"(?m)^\s*\[plugins\.(\"{re.escape(plugin)}\"|'{re.escape(plugin)}')\.containerd\]\s*$")
    if len(head.findall(text)) == 1:
        return head.sub(lambda found: f"{found.group(0)}\n  {line}", text)
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return f'{text}{gap}[plugins."{plugin}".containerd]\n  {line}\n'


def _without_block(text: str) -> str:
    found = re.compile(rf"(?ms)^{re.escape(BEGIN)}$.*?^{re.escape(END)}$\n?")
    if len(found.findall(text)) > 1:
        raise refuse("it has more than one part of wherry's", "remove them by hand")
    return found.sub("", text).rstrip("\n") + ("\n" if text.strip() and found.sub("", text).strip() else "")


def _checked(text: str, before: dict[str, Any], wanted: dict[str, Any], wish: Wish, plugin: str, version: int = 0) -> str:
    """Refused where the new text does not say exactly what the old one said, and our keys."""
    expected = _merged(before, wanted)
    if wish.default:
        expected = _merged(expected, {"plugins": {plugin: {"containerd": {"default_runtime_name": wish.name}}}})
    if version:
        expected.setdefault("version", version)
    if _toml(text) != expected:
        raise refuse("our keys cannot be added to it for certain", "add by hand what wherry setup prints for a new file (--file /dev/null)")
    return text


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise refuse(f"it is no TOML, or would not be any more: {error}", "correct the file first") from error


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    found = dict(old)
    for key, value in new.items():
        there = found.get(key)
        found[key] = _merged(there, value) if isinstance(value, dict) and isinstance(there, dict) else value
    return found


def _at(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


# ---- all of them


def _docker_notes(wish: Wish) -> list[str]:
    found = ['systemd cgroups are the daemon\'s choice: "exec-opts": ["native.cgroupdriver=systemd"]'] if wish.systemd else []
    if wish.shim:
        link = f"ln -s {wish.shim} /usr/local/bin/"
        found.append(f"Docker 23 and later read this; before: {link}, and docker run --runtime {SHIM} ...")
    return found


ENGINES: dict[str, Engine] = {
    "docker": Engine(
        _below("/etc/docker/daemon.json", ".config/docker/daemon.json"),
        docker,
        ("systemctl {user}reload docker", "docker run --runtime {name} ..."),
        _docker_notes,
        shims=True,
    ),
    "podman": Engine(
        _below("/etc/containers/containers.conf.d/60-{name}.conf", ".config/containers/containers.conf.d/60-{name}.conf"),
        own_file(podman),
        ("podman --runtime {name} run ...",),
    ),
    "containerd": Engine(
        _below("/etc/containerd/config.toml", ".config/containerd/config.toml"),
        containerd,
        ("systemctl {user}restart containerd", "ctr run {ctr} ...; Kubernetes: a RuntimeClass whose handler is {name}"),
        shims=True,
    ),
    "crio": Engine(
        _below("/etc/crio/crio.conf.d/60-{name}.conf", ".config/crio/crio.conf.d/60-{name}.conf"),
        own_file(crio),
        ("systemctl {user}restart crio", "Kubernetes: a RuntimeClass whose handler is {name}"),
    ),
    "buildah": Engine(
        _below("/etc/profile.d/{name}-buildah.sh", ".config/{name}-buildah.sh"),
        own_file(buildah),
        (". {file}", "or once: buildah --runtime {path} ..."),
    ),
}
