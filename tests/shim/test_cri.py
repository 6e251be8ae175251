# SPDX-License-Identifier: Apache-2.0
"""Pods, as a kubelet makes them: by containerd's CRI, of this machine's version and of newer ones; with a pause container, and with a sandbox of the shim's."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from harness.bundle import make_rootfs
from harness.census import cgroups_with

from . import cri, newer
from .daemon import RUNTIME, Daemon, wait_until

pytestmark = pytest.mark.requires("root")
CREATED, RUNNING, EXITED = range(3)
OLD = """
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
  default_runtime_name = "wherry"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.wherry]
  runtime_type = "{runtime}"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{place}/cni/bin"
  conf_dir = "{place}/cni/conf"
"""
NEW = """
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "native"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{image}"
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "wherry"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.wherry]
  runtime_type = "{runtime}"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.sandbox]
  runtime_type = "{runtime}"
  sandboxer = "shim"
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dir = "{place}/cni/bin"
  conf_dir = "{place}/cni/conf"
"""


class Node:
    def __init__(self, place: Path, suite: str) -> None:
        self.suite = suite
        (place / "images/box/rootfs").mkdir(parents=True)
        self.daemon = Daemon(place, make_rootfs(place / "images/box/rootfs", None), tools=newer.tools(suite) if suite else None)
        config = place / "config.toml"
        text = config.read_text().replace('disabled_plugins = ["io.containerd.grpc.v1.cri"]\n', "")
        if suite == "sid":
            text = text.replace("version = 2", "version = 3")
        config.write_text(text + (NEW if suite == "sid" else OLD).format(image=cri.IMAGE, runtime=RUNTIME, place=place))
        cri.network(place / "cni")
        cri.image(self.daemon.rootfs, place / "box.tar")

    def start(self) -> None:
        self.daemon.start()
        by_itself = ["--local"] if self.suite == "sid" else []  # its service would not unpack for this snapshotter
        self.daemon.ctr("-n", "k8s.io", "images", "import", *by_itself, "--snapshotter", "native", str(self.daemon.place / "box.tar"))
        self.kubelet = cri.Kubelet(self.daemon.socket)
        wait_until(self.ready, "CRI is ready")

    def ready(self) -> bool:
        try:
            self.kubelet.call("ContainerStatus", container_id="nobody")
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.NOT_FOUND)
        return True

    def restart(self) -> None:
        self.kubelet.close()
        self.daemon.stop()
        self.daemon.start()
        self.kubelet = cri.Kubelet(self.daemon.socket)
        wait_until(self.ready, "CRI is ready")


def servers(id: str) -> list[int]:
    """The pids of those that were started for a container. In their titles the id comes before what may have been cut off."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "containerd-shim" in words and "-worker " not in words and f" -id {id}" in words and not words.rstrip().endswith((" start", " delete")):
            found.append(int(pid))
    return found


@pytest.fixture(scope="module", params=["", "trixie", "sid"], ids=["debian", "trixie", "sid"])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    if not request.param and not shutil.which("containerd"):
        pytest.skip("SKIPPED, LOUDLY: no containerd on this machine")
    place = Path(tempfile.mkdtemp(prefix="wherry-cri-", dir="/var/tmp"))
    one = Node(place, request.param)
    try:
        one.start()
        yield one
    finally:
        one.daemon.stop()
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(place) in line]
        if mounts:
            subprocess.run(["umount", "-R", "-l", *mounts], capture_output=True)
        shutil.rmtree(place, ignore_errors=True)


class Pod:
    def __init__(self, node: Node, handler: str) -> None:
        self.node, self.name = node, f"p{uuid.uuid4().hex[:10]}"
        self.config = cri.pod_config(self.name)
        self.containers: list[str] = []
        self.id = self.call("RunPodSandbox", config=self.config, runtime_handler=handler)["pod_sandbox_id"]

    def call(self, method: str, **request: object) -> dict:
        return self.node.kubelet.call(method, **request)

    def make(self, name: str, *command: str, memory: int = 0) -> str:
        config = cri.container_config(name, *command, memory=memory)
        id: str = self.call("CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config)["container_id"]
        self.containers.append(id)
        self.call("StartContainer", container_id=id)
        return id

    def status(self, id: str) -> dict:
        return self.call("ContainerStatus", container_id=id)["status"]

    def execute(self, id: str, *command: str, timeout: int = 10) -> tuple[int, bytes]:
        answer = self.call("ExecSync", container_id=id, cmd=list(command), timeout=timeout)
        return answer["exit_code"], answer["stdout"]

    def ends(self, id: str) -> dict:
        wait_until(lambda: self.status(id)["state"] == EXITED, "an end")
        return self.status(id)

    def remove(self) -> None:
        self.call("StopPodSandbox", pod_sandbox_id=self.id)
        self.call("RemovePodSandbox", pod_sandbox_id=self.id)
        for id in (self.id, *self.containers):
            assert not Path(f"/run/containerd/wherry/k8s.io/{id}").exists()
            assert not cgroups_with(id)
            assert id not in Path("/proc/self/mounts").read_text()
        wait_until(lambda: not servers(self.id), f"an end of {servers(self.id)}")
        for path in cgroups_with(self.name):
            Path(path).rmdir()  # the kubelet's


@pytest.fixture(params=["wherry", "sandbox"])
def pod(request: pytest.FixtureRequest, node: Node) -> Iterator[Pod]:
    if request.param == "sandbox" and node.suite != "sid":
        pytest.skip("sandboxes of shims came with containerd 2")
    one = Pod(node, request.param)
    yield one
    one.remove()


def test_a_pod_of_three(pod: Pod) -> None:
    ids = [pod.make(f"c{number}", "/bin/sh", "-c", f"trap 'exit {number}' TERM; while :; do sleep 0.05; done") for number in range(3)]
    assert [pod.status(id)["state"] for id in ids] == [RUNNING] * 3
    assert len(servers(pod.id)) == 1 and not any(map(servers, ids))
    assert pod.execute(ids[1], "sh", "-c", "echo inside; exit 3") == (3, b"inside\n")
    networks = {pod.execute(id, "readlink", "/proc/self/ns/net") for id in ids}
    assert len(networks) == 1 and os.readlink("/proc/self/ns/net").encode() not in networks.pop()[1]
    assert pod.call("ContainerStats", container_id=ids[0])["stats"]["memory"]["working_set_bytes"]["value"] > 0
    pod.call("UpdateContainerResources", container_id=ids[0], linux={"memory_limit_in_bytes": 64 << 20})
    for number, id in enumerate(ids):
        pod.call("StopContainer", container_id=id, timeout=10)
        assert pod.ends(id)["exit_code"] == number
    pod.call("RemoveContainer", container_id=ids[0])


def test_what_is_killed_for_memory_and_what_takes_too_long(pod: Pod) -> None:
    hungry = pod.make("hungry", "/bin/sh", "-c", "x=a; while :; do x=$x$x; done", memory=16 << 20)
    status = pod.ends(hungry)
    assert (status["exit_code"], status["reason"]) == (137, "OOMKilled")
    lasting = pod.make("lasting", "/bin/sleep", "1000")
    with pytest.raises(grpc.RpcError) as refused:
        pod.execute(lasting, "sleep", "100", timeout=1)
    assert refused.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN)
    assert pod.execute(lasting, "true") == (0, b"")
    with pytest.raises(grpc.RpcError) as refused:
        pod.execute(lasting, "nosuchprogram")
    assert "executable file not found" in refused.value.details()


def test_containerd_restarts(pod: Pod) -> None:
    """What ended meanwhile has its code, what lives goes on."""
    lasting = pod.make("lasting", "/bin/sleep", "1000")
    ending = pod.make("ending", "/bin/sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 9")
    pod.execute(ending, "sh", "-c", "(sleep 1; touch /tmp/go) >/dev/null 2>&1 &")
    pod.node.restart()
    assert pod.status(lasting)["state"] == RUNNING
    assert pod.execute(lasting, "echo", "on") == (0, b"on\n")
    assert pod.ends(ending)["exit_code"] == 9
