# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by containerd: `ctr task checkpoint`, and `ctr container checkpoint` with `restore --live`, with the tests' own CRIU 4."""

import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bundle import make_rootfs
from harness.criu import KIT, kit

from .daemon import PEER, Daemon, wait_until
from .shims import BINARY
from .test_containerd import nothing_left

pytestmark = pytest.mark.requires("root", "kcmp", "command:mmdebstrap", "command:patchelf", "command:containerd", "command:ctr")
COUNT = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/count; sleep 0.05; done"
IMAGE = "wherry.test/box:1"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    if kit():
        pytest.skip(f"no CRIU 4: {kit()}")
    place = Path(tempfile.mkdtemp(prefix="wherry-shim-", dir="/var/tmp"))
    rootfs = place / "images/box/rootfs"
    rootfs.mkdir(parents=True)
    (place / "bin").mkdir()
    (place / "bin/containerd-shim-runc-v2").symlink_to(BINARY)  # ctr has --image-path for this name alone
    one = Daemon(place, make_rootfs(rootfs, None), Path(f"{place}/bin:{KIT}"))
    try:
        one.start()
        (place / "box.tar").write_bytes(archive(rootfs))
        one.ctr("image", "import", "--snapshotter", "native", str(place / "box.tar"))
        yield one
        wait_until(lambda: not one.left(), f"an end of {one.left()}")
    finally:
        one.stop()
        for line in one.left():
            os.kill(int(line.split()[0]), signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


def archive(rootfs: Path) -> bytes:
    """An image of one layer, as `docker save` writes it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(rootfs, ".")
    history = {"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]}}
    history["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]}
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    files = {"layer.tar": layer.getvalue(), "config.json": json.dumps(history).encode(), "manifest.json": json.dumps(manifest).encode()}
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return whole.getvalue()


@pytest.fixture
def names(daemon: Daemon) -> Iterator[tuple[str, str]]:
    pair = f"w{uuid.uuid4().hex[:10]}", f"w{uuid.uuid4().hex[:10]}"
    yield pair
    for name in pair:  # the restored one has the cgroups of the other: its configuration is the same
        daemon.remove(name)
    for name in pair:
        nothing_left(daemon, name)


def count(daemon: Daemon, name: str) -> int:
    return int(Path(f"/proc/{daemon.pid(name)}/root/dev/shm/count").read_text() or 0)


def run(daemon: Daemon, name: str) -> None:
    daemon.ctr("run", "--detach", "--snapshotter", "native", "--runtime", PEER, IMAGE, name, "sh", "-c", COUNT)
    wait_until(lambda: count(daemon, name) > 3, "some steps")


def test_task_checkpoint(daemon: Daemon, names: tuple[str, str]) -> None:
    """To a directory: the task runs on, or ends with it."""
    run(daemon, names[0])
    for options, state in (((), "RUNNING"), (("--exit",), "STOPPED")):
        place = daemon.place / f"images{len(options)}"
        daemon.ctr("task", "checkpoint", "--image-path", str(place), *options, names[0])
        assert (place / "inventory.img").exists()
        wait_until(lambda state=state: daemon.tasks()[names[0]] == state, state)


def test_checkpoint_and_restore(daemon: Daemon, names: tuple[str, str]) -> None:
    run(daemon, names[0])
    daemon.ctr("container", "checkpoint", "--task", "--rw", "--image", names[0], "wherry.test/frozen:1")
    before = count(daemon, names[0])
    daemon.remove(names[0])
    daemon.ctr("container", "restore", "--live", "--rw", names[1], "wherry.test/frozen:1", timeout=60)
    assert daemon.tasks()[names[1]] == "RUNNING"
    again = count(daemon, names[1])
    assert 3 < again < before + 60
    time.sleep(0.2)
    assert count(daemon, names[1]) > again
    daemon.ctr("task", "kill", "-s", "KILL", names[1])
    wait_until(lambda: daemon.tasks()[names[1]] == "STOPPED", "its end")
