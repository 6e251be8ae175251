# SPDX-License-Identifier: Apache-2.0
"""wherry setup: what is merged into engines' files, what is refused, and how it is written."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from wherry.cli import main
from wherry.cli.engines import ENGINES, Wish, buildah, containerd, crio, docker, podman
from wherry.cli.setup import front
from wherry.errors import UsageError

WISH = Wish("/opt/wherry/bin/wherry")
CRI = "io.containerd.grpc.v1.cri"


def default(**more: Any) -> Wish:
    return Wish("/opt/wherry/bin/wherry", default=True, **more)


def runtime(text: str, plugin: str = CRI, name: str = "wherry") -> Any:
    return tomllib.loads(text)["plugins"][plugin]["containerd"]["runtimes"][name]


# ---- Docker


def test_docker_keeps_other_keys_in_their_order_and_form() -> None:
    old = '{\n  "log-driver": "journald",\n  "runtimes": {\n    "runc2": {"path": "/x"},\n    "wherry": {"path": "/old", "runtimeArgs": ["--debug"]}\n  },\n  "name": "münchen"\n}\n'
    new = docker(old, WISH)
    document = json.loads(new)
    assert list(document) == ["log-driver", "runtimes", "name"]
    assert document["runtimes"] == {"runc2": {"path": "/x"}, "wherry": {"path": WISH.path, "runtimeArgs": ["--debug"]}}
    assert "münchen" in new and new.startswith('{\n  "log-driver"')
    assert docker(new, WISH) == new, "again is the same"
    assert "default-runtime" not in document and json.loads(docker(old, default()))["default-runtime"] == "wherry"


def test_docker_with_the_shim() -> None:
    shim = Wish("/opt/wherry/bin/wherry", shim="/opt/wherry/bin/containerd-shim-wherry-v2")
    old = '{"runtimes": {"wherry": {"path": "/old", "runtimeArgs": ["--debug"]}}}'
    assert json.loads(docker(old, shim)) == {"runtimes": {"wherry": {"runtimeType": shim.shim}}}
    shim.systemd = True
    new = docker(old, shim)
    assert json.loads(new)["runtimes"]["wherry"] == {"runtimeType": shim.shim, "options": {"SystemdCgroup": True}}
    assert json.loads(docker(new, WISH))["runtimes"]["wherry"] == {"path": WISH.path}, "and back"


@pytest.mark.parametrize("old", [None, "", "{}", " \n"])
def test_docker_without_a_file(old: str | None) -> None:
    assert json.loads(docker(old, WISH)) == {"runtimes": {"wherry": {"path": WISH.path}}}


@pytest.mark.parametrize("old", ["{", "[]", '{"a": 1, "a": 2}', '{"runtimes": []}', '{"a": 1,}', "# c\n{}"])
def test_docker_refuses_what_it_cannot_read(old: str) -> None:
    with pytest.raises(UsageError) as caught:
        docker(old, WISH)
    assert caught.value.remedy == "correct the file first"


# ---- containerd

CONTAINERD = """\
# a comment that stays
version = 2
disabled_plugins = []

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"  # why not
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def test_containerd_stays_as_it_is_and_gets_a_block() -> None:
    new = containerd(CONTAINERD, WISH)
    assert new.startswith(CONTAINERD)
    assert runtime(new) == {"runtime_type": "io.containerd.runc.v2", "options": {"BinaryName": WISH.path, "SystemdCgroup": False}}
    assert runtime(new, name="runc") == {"runtime_type": "io.containerd.runc.v2"}
    assert containerd(new, WISH) == new, "again is the same"
    moved = containerd(new, Wish("/usr/bin/wherry", systemd=True))
    assert runtime(moved)["options"] == {"BinaryName": "/usr/bin/wherry", "SystemdCgroup": True}
    assert moved.startswith(CONTAINERD) and moved.count("# wherry: begin") == 1


def test_containerd_with_the_shim() -> None:
    shim = Wish("/opt/wherry/bin/wherry", shim="/opt/wherry/bin/containerd-shim-wherry-v2", systemd=True)
    new = containerd(CONTAINERD, shim)
    assert runtime(new) == {"runtime_type": "io.containerd.wherry.v2", "runtime_path": shim.shim, "options": {"SystemdCgroup": True}}
    assert containerd(new, shim) == new
    assert "runtime_path" not in runtime(containerd(new, WISH)), "and back"


@pytest.mark.parametrize(
    "old", [CONTAINERD, CONTAINERD.replace('  default_runtime_name = "runc"  # why not\n', ""), "version = 2", None, 'version = 2\n[plugins]\n  [plugins."io.containerd.grpc.v1.cri"]\n']
)
def test_containerds_default(old: str | None) -> None:
    new = containerd(old, default())
    assert tomllib.loads(new)["plugins"][CRI]["containerd"]["default_runtime_name"] == "wherry"
    assert containerd(new, default()) == new
    if old == CONTAINERD:
        assert tomllib.loads(new)["plugins"][CRI]["containerd"]["snapshotter"] == "overlayfs" and "# a comment that stays" in new


def test_containerd_2() -> None:
    new = containerd("version = 3\n", default())
    assert runtime(new, "io.containerd.cri.v1.runtime")["options"]["BinaryName"] == WISH.path
    assert tomllib.loads(containerd(None, Wish("/x", version=3)))["version"] == 3


@pytest.mark.parametrize(
    ("old", "text"),
    [
        ("version = ", "it is no TOML"),
        ("root = '/x'\n", "its version is 1"),
        ("version = 9\n", "its version is 9"),
        (f'version = 2\n[plugins."{CRI}".containerd.runtimes.wherry]\nruntime_type = "other"\n', "another kind"),
        (f'version = 2\n[plugins."{CRI}".containerd]\nruntimes = {{}}\n', "it is no TOML, or would not be any more"),
        (f'version = 2\n[plugins."{CRI}"]\ncontainerd = {{ default_runtime_name = "runc" }}\n', "it is no TOML, or would not be any more"),
    ],
)
def test_containerd_refuses_what_it_cannot_merge(old: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        containerd(old, WISH)


def test_containerds_own_runc_does_not_go_away() -> None:
    """It is there until any runtime is named."""
    for old in (None, "version = 2\n"):
        new = containerd(old, WISH)
        assert runtime(new, name="runc") == {"runtime_type": "io.containerd.runc.v2"}
        assert containerd(new, WISH) == new
    assert "runtimes.runc" not in containerd(None, Wish("/x", name="runc")).replace("runtimes.runc]", "", 1).replace("runtimes.runc.options]", "")


def test_a_table_of_ours_that_somebody_wrote_by_hand_will_do() -> None:
    old = f'version = 2\n[plugins."{CRI}".containerd.runtimes.wherry]\nruntime_type = "io.containerd.runc.v2"\noptions = {{ BinaryName = "{WISH.path}", SystemdCgroup = false }}\n'
    assert containerd(old, WISH) == old


# ---- files of our own


def test_own_files() -> None:
    engine = tomllib.loads(podman(default()))["engine"]
    assert engine["runtime"] == "wherry" and engine["runtimes"] == {"wherry": [WISH.path]} and "wherry" in engine["runtime_supports_json"]
    assert "cgroup_manager" not in engine
    assert tomllib.loads(podman(Wish("/x", systemd=True, chosen=True)))["engine"]["cgroup_manager"] == "systemd"
    found = tomllib.loads(crio(default()))["crio"]["runtime"]
    assert found["default_runtime"] == "wherry" and found["runtimes"]["wherry"]["runtime_path"] == WISH.path
    assert buildah(Wish("/a b/wherry")) == "export BUILDAH_RUNTIME='/a b/wherry'\n"
    assert tomllib.loads(podman(Wish('/a"b/w', name="w.1")))["engine"]["runtimes"] == {"w.1": ['/a"b/w']}


@pytest.mark.parametrize("name", ["podman", "crio", "buildah"])
def test_files_of_others_are_not_overwritten(name: str) -> None:
    merge = ENGINES[name].merge
    assert merge(merge(None, Wish("/old")), WISH) == merge(None, WISH)
    with pytest.raises(UsageError, match="not written by wherry"):
        merge("[engine]\n", WISH)


def test_places() -> None:
    assert ENGINES["docker"].file(WISH) == "/etc/docker/daemon.json"
    assert ENGINES["podman"].file(Wish("/x", home="/home/u")).startswith("/home/u/.config/containers/")


# ---- the verb


def test_print_is_the_default_and_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "daemon.json"
    for flags in ([], ["--print"]):
        assert main(["setup", "docker", "--file", str(file), *flags]) == 0
        out, err = capfd.readouterr()
        assert json.loads(out)["runtimes"]["wherry"]["path"] == front()
        assert f"{file} would be this" in err and "docker run --runtime wherry" in err
    assert list(tmp_path.iterdir()) == []


def test_write_keeps_mode_link_and_what_was_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    real, link = tmp_path / "real.json", tmp_path / "daemon.json"
    real.write_text('{"debug": true}')
    real.chmod(0o640)
    link.symlink_to(real)
    for path in ("a", "b"):
        assert main(["setup", "docker", "--file", str(link), "--write", "--name", path]) == 0
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    document = json.loads(real.read_text())
    assert document["debug"] is True and set(document["runtimes"]) == {"a", "b"}
    backups = sorted(tmp_path.glob("real.json.*.bak"))
    assert len(backups) == 2 and '{"debug": true}' in {backup.read_text() for backup in backups}
    assert main(["setup", "docker", "--file", str(link), "--write", "--name", "b"]) == 0
    assert "says that already" in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == sorted(["real.json", "daemon.json", *(backup.name for backup in backups)])


def test_write_makes_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "a/b/60-wherry.conf"
    assert main(["setup", "podman", "--file", str(file), "--write", "--default"]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o644 and tomllib.loads(file.read_text())["engine"]["runtime"] == "wherry"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["setup", "rkt"], "one of: docker, podman, containerd, crio, buildah"),
        (["setup", "docker", "--print", "--write"], "exclude each other"),
        (["setup", "docker", "--name", "a/b"], 'invalid value "a/b"'),
    ],
)
def test_usage(argv: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 1
    assert text in capfd.readouterr().err


def test_a_broken_file_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "daemon.json"
    file.write_bytes(b"{")
    assert main(["setup", "docker", "--file", str(file), "--write"]) == 1
    assert f"{file}: it is no JSON" in capfd.readouterr().err and file.read_bytes() == b"{"
    file.write_bytes(b"\xff\xfe")
    assert main(["setup", "docker", "--file", str(file), "--write"]) == 1
    assert os.listdir(tmp_path) == ["daemon.json"]
