# SPDX-License-Identifier: Apache-2.0
"""A container without a mount namespace: its mounts stand on the host, all on one place of its own, and go with it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root"), pytest.mark.ours]


@pytest.fixture
def shared(bundle: Bundle) -> Bundle:
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    return bundle.without_namespace("mount")


def mounts(runtime: Runtime) -> list[str]:
    """Those of ours; others come and go."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if runtime.tag in line]


def test_it_is_the_hosts_namespace(runtime: Runtime, shared: Bundle) -> None:
    before = mounts(runtime)
    container = runtime.start_new(shared.shell("readlink /proc/self/ns/mnt; ls -d /bin /dev/pts; cd ..; pwd; exec sleep 60"))
    place = f" {runtime.root}/{container.id}/rootfs"
    made = [line for line in mounts(runtime) if line not in before]
    assert all(place in line for line in made) and sum(f"{place} " in line for line in made) == 2
    assert not any("shared:" in line for line in made)
    done = runtime("exec", container.id, "sh", "-c", "readlink /proc/self/ns/mnt; ls -d /bin; cat /proc/1/comm")
    assert done.out.splitlines() == [os.readlink("/proc/self/ns/mnt"), "/bin", "sleep"]
    container.kill()
    assert container.wait() == 137
    assert container.stdout.splitlines() == [os.readlink("/proc/self/ns/mnt"), "/bin", "/dev/pts", "/"]
    assert len(mounts(runtime)) == len(before) + len(made)  # until it is deleted
    container.delete()
    assert mounts(runtime) == before


def test_a_failed_create_leaves_nothing(runtime: Runtime, shared: Bundle) -> None:
    before = mounts(runtime)
    shared.mount("/mnt", "none", "nosuchfs")
    assert runtime.create(shared, check=False).result.code == 1
    assert mounts(runtime) == before
    assert not (runtime.root / runtime.containers[-1].id).exists()


def test_no_symlink_leads_out(runtime: Runtime, shared: Bundle, place: Path) -> None:
    """A destination is looked up in the root filesystem, however the image leads out of it."""
    (place / "outside").mkdir()
    (shared.rootfs / "out").symlink_to(place / "outside")
    shared.mount("/out", "tmpfs", "tmpfs")
    runtime.run(shared.args("touch", "/out/file"), check=False)
    assert not any("outside" in line for line in mounts(runtime)) and not list((place / "outside").iterdir())


@pytest.mark.parametrize("case", ["user", "masked", "no-pivot"])
def test_what_is_refused(runtime: Runtime, shared: Bundle, case: str) -> None:
    options = []
    if case == "user":
        shared.user_namespace()
    elif case == "masked":
        shared.linux["maskedPaths"] = ["/proc/kcore"]
    else:
        options = ["--no-pivot"]
    container = runtime.create(shared, *options, check=False)
    assert container.result.code == 1 and "needs a mount namespace" in container.stderr


ON_A_SHARING_HOST = """
set -e
mkdir -p "$PLACE/volume"; mount -t tmpfs outer "$PLACE/volume"; mkdir "$PLACE/volume/inner"; mount -t tmpfs inner "$PLACE/volume/inner"
unshare -m --propagation unchanged sleep 60 & peer=$!
while ! [ -e /proc/$peer/ns/mnt ] || [ "$(readlink /proc/$peer/ns/mnt)" = "$(readlink /proc/self/ns/mnt)" ]; do sleep 0.05; done
count() { grep -c "" /proc/self/mountinfo; grep -c "" /proc/$peer/mountinfo; grep "$PLACE/volume" /proc/self/mountinfo | cut -d' ' -f5; }
count >"$PLACE/before"
"$@" run --bundle "$BUNDLE" one >"$PLACE/said" 2>&1 </dev/null || { cat "$PLACE/said" >&2; exit 3; }
count >"$PLACE/after"
kill $peer
"""


@pytest.mark.parametrize("options", [["rbind"], ["rbind", "rshared"]])
def test_on_a_host_that_shares_its_mounts(runtime: Runtime, shared: Bundle, place: Path, options: list[str]) -> None:
    """Nothing appears in another mount namespace but the place itself, and what goes takes nothing of the host's along."""
    shared.mount("/mnt", place / "volume", "bind", options).shell("ls /mnt; cut -d' ' -f5 /proc/self/mountinfo | grep -c ^/mnt").save()
    argv = ["unshare", "-m", "--propagation", "shared", "sh", "-c", ON_A_SHARING_HOST, "sh", *runtime.argv()]
    done = subprocess.run(argv, env={**runtime.env, "PLACE": str(place), "BUNDLE": str(shared.path)}, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert (place / "said").read_text().splitlines() == ["inner", "2"]
    assert (place / "after").read_text() == (place / "before").read_text()


@pytest.fixture
def killed(runtime: Runtime, shared: Bundle, place: Path) -> Iterator[str]:
    """A container whose record is gone, with all its mounts."""
    container = runtime.start_new(shared.args("sleep", "60"))
    container.kill()
    container.wait()
    yield container.id


def test_a_record_that_cannot_be_read(runtime: Runtime, shared: Bundle, killed: str) -> None:
    """Nothing of the image is removed with the container's directory."""
    (runtime.root / killed / "record").write_bytes(b"no record")
    files = sorted(path.name for path in shared.rootfs.iterdir())
    runtime("delete", "--force", killed)
    assert not (runtime.root / killed).exists()
    assert sorted(path.name for path in shared.rootfs.iterdir()) == files and (shared.rootfs / "bin/busybox").exists()
    assert not any(killed in line for line in mounts(runtime))
