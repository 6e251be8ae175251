# SPDX-License-Identifier: Apache-2.0
"""Pods by a RuntimeClass: what the kubelet asks of containerd with the file that `wherry setup` writes, with runc's shim and wherry as its runtime, and with ours."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from harness.bundle import make_rootfs
from harness.census import cgroups_with
from harness.runtime import become_subreaper, wait_until
from shim import cri

from .conftest import need

pytestmark = [pytest.mark.ours]
CRI = 'plugins."io.containerd.grpc.v1.cri"'
EXITED = 2


class Node:
    """A containerd with CRI."""

    def __init__(self, place: Path, setup: list[str]) -> None:
        self.place, file = place, place / "config.toml"
        cri.network(place / "cni")
        file.write_text(
            f'version = 2\nroot = "{place}/root"\nstate = "{place}/state"\n[grpc]\naddress = "{place}/c.sock"\n'
            f'[{CRI}]\nsandbox_image = "{cri.IMAGE}"\nrestrict_oom_score_adj = true\n[{CRI}.cni]\nbin_dir = "{place}/cni/bin"\nconf_dir = "{place}/cni/conf"\n'
            f'[{CRI}.containerd]\nsnapshotter = "native"\n'
        )
        done = subprocess.run([*setup, "--file", str(file), "--write"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with open(place / "log", "wb") as log:
            self.process = subprocess.Popen(["containerd", "--config", str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.kubelet = cri.Kubelet(f"{place}/c.sock")

    def wait(self) -> None:
        grpc.channel_ready_future(self.kubelet.channel).result(30)
        rootfs = self.place / "images/box/rootfs"
        rootfs.mkdir(parents=True)
        cri.image(make_rootfs(rootfs, None), self.place / "box.tar")
        words = ["ctr", "-a", f"{self.place}/c.sock", "-n", "k8s.io", "images", "import", "--snapshotter", "native", f"{self.place}/box.tar"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        self.kubelet.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@pytest.fixture(scope="module", params=[[], ["--shim"]], ids=["runtime", "shim"])
def node(request: pytest.FixtureRequest, wherry: str) -> Iterator[Node]:
    need("containerd", "ctr")
    become_subreaper()
    place = Path(tempfile.mkdtemp(prefix="wherry-cri-", dir="/var/tmp"))
    one = Node(place, [wherry, "setup", "containerd", *request.param])
    try:
        one.wait()
        yield one
    finally:
        one.stop()
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(place) in line]
        for mount in reversed(mounts):
            subprocess.run(["umount", "-l", mount], capture_output=True)
        shutil.rmtree(place, ignore_errors=True)
    assert not mounts, mounts


def test_a_pod(node: Node) -> None:
    call = node.kubelet.call
    pod = cri.pod_config("wherry-class") | {"log_directory": str(node.place)}
    sandbox = call("RunPodSandbox", config=pod, runtime_handler="wherry")["pod_sandbox_id"]
    try:
        config = cri.container_config("c", "sh", "-c", "echo written; trap 'exit 7' TERM; while :; do sleep 0.1; done") | {"log_path": "c.log"}
        container = call("CreateContainer", pod_sandbox_id=sandbox, config=config, sandbox_config=pod)["container_id"]
        call("StartContainer", container_id=container)
        done = call("ExecSync", container_id=container, cmd=["sh", "-c", "echo out; echo err >&2; exit 5"], timeout=20)
        assert (done["stdout"], done["stderr"], done["exit_code"]) == (b"out\n", b"err\n", 5)
        wait_until(lambda: "stdout F written" in (node.place / "c.log").read_text(), "the container's log")
        call("StopContainer", container_id=container, timeout=20)
        status = call("ContainerStatus", container_id=container)["status"]
        assert (status["state"], status["exit_code"]) == (EXITED, 7)
    finally:
        call("StopPodSandbox", pod_sandbox_id=sandbox)
        call("RemovePodSandbox", pod_sandbox_id=sandbox)
    for path in cgroups_with("wherry-class"):
        Path(path).rmdir()  # the kubelet's
    assert not list((node.place / "state/io.containerd.runtime.v2.task/k8s.io").glob("*"))


def test_a_handler_that_is_not_there(node: Node) -> None:
    with pytest.raises(grpc.RpcError, match='no runtime for "missing"'):
        node.kubelet.call("RunPodSandbox", config=cri.pod_config("wherry-none"), runtime_handler="missing")
