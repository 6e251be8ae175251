# SPDX-License-Identifier: Apache-2.0
"""Pods as the kubelet makes them: CRI calls to containerd with the files that `wherry setup` writes. A RuntimeClass's handler is their `runtime_handler`."""

import hashlib
import json
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from harness.bundle import make_rootfs
from harness.runtime import become_subreaper, wait_until

from .conftest import need

pytestmark = [pytest.mark.ours]
BOX = "docker.io/library/box:latest"

# runtime.v1 of k8s.io/cri-api, as far as it is needed: message, then fields by number
MESSAGES = {
    "VersionRequest": "",
    "VersionResponse": "runtime_name=2",
    "Metadata": "name=1 uid=2 namespace=3",
    "NamespaceOption": "network:int32=1 pid:int32=2 ipc:int32=3",
    "SandboxSecurity": "namespace_options:NamespaceOption=1",
    "LinuxSandbox": "cgroup_parent=1 security_context:SandboxSecurity=2",
    "Sandbox": "metadata:Metadata=1 hostname=2 log_directory=3 linux:LinuxSandbox=8",
    "RunPodSandboxRequest": "config:Sandbox=1 runtime_handler=2",
    "RunPodSandboxResponse": "pod_sandbox_id=1",
    "Image": "image=1",
    "ContainerMetadata": "name=1",
    "ContainerConfig": "metadata:ContainerMetadata=1 image:Image=2 *command=3 log_path=11",
    "CreateContainerRequest": "pod_sandbox_id=1 config:ContainerConfig=2 sandbox_config:Sandbox=3",
    "CreateContainerResponse": "container_id=1",
    "StartContainerRequest": "container_id=1",
    "StartContainerResponse": "",
    "ExecSyncRequest": "container_id=1 *cmd=2 timeout:int64=3",
    "ExecSyncResponse": "stdout:bytes=1 stderr:bytes=2 exit_code:int32=3",
    "ContainerStatusRequest": "container_id=1",
    "ContainerStatus": "id=1 state:int32=3 exit_code:int32=7",
    "ContainerStatusResponse": "status:ContainerStatus=1",
    "StopContainerRequest": "container_id=1 timeout:int64=2",
    "StopContainerResponse": "",
    "StopPodSandboxRequest": "pod_sandbox_id=1",
    "StopPodSandboxResponse": "",
    "RemovePodSandboxRequest": "pod_sandbox_id=1",
    "RemovePodSandboxResponse": "",
}
EXITED = 2


def messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="cri.proto", package="runtime.v1", syntax="proto3")
    kinds = {"": 9, "bytes": 12, "int32": 5, "int64": 3}
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for word in fields.split():
            field, _, number = word.partition("=")
            plain, _, kind = field.lstrip("*").partition(":")
            one = message.field.add(name=plain, number=int(number), label=3 if field.startswith("*") else 1, type=kinds.get(kind, 11))
            if kind not in kinds:
                one.type_name = f".runtime.v1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"runtime.v1.{name}")) for name in MESSAGES}


def image(rootfs: Path, place: Path) -> Path:
    """What `docker save` would write."""
    layer = place / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        tar.add(rootfs, ".")
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"]}}
    config["rootfs"] = {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer.read_bytes()).hexdigest()]}
    (place / "config.json").write_text(json.dumps(config))
    (place / "manifest.json").write_text(json.dumps([{"Config": "config.json", "RepoTags": [BOX], "Layers": ["layer.tar"]}]))
    with tarfile.open(place / "box.tar", "w") as tar:
        for name in ("config.json", "layer.tar", "manifest.json"):
            tar.add(place / name, name)
    return place / "box.tar"


class Kubelet:
    """containerd with CRI, and the calls."""

    def __init__(self, place: Path, setup: list[str]) -> None:
        self.place, self.classes = place, messages()
        file = place / "config.toml"
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        (place / "cni").mkdir()
        file.write_text(
            f'version = 2\nroot = "{place}/root"\nstate = "{place}/state"\n[grpc]\naddress = "{place}/c.sock"\n'
            f'[{cri}]\nsandbox_image = "{BOX}"\nrestrict_oom_score_adj = true\n[{cri}.cni]\nconf_dir = "{place}/cni"\n[{cri}.containerd]\nsnapshotter = "native"\n'
        )
        done = subprocess.run([*setup, "--file", str(file), "--write"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with open(place / "log", "wb") as log:
            self.process = subprocess.Popen(["containerd", "--config", str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.channel = grpc.insecure_channel(f"unix:{place}/c.sock")

    def wait(self) -> None:
        grpc.channel_ready_future(self.channel).result(30)
        assert self.ask("Version").runtime_name == "containerd"

    def ctr(self, *words: str) -> None:
        done = subprocess.run(["ctr", "-a", f"{self.place}/c.sock", "-n", "k8s.io", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def ask(self, name: str, **fields: Any) -> Any:
        request, reply = self.classes[f"{name}Request"], self.classes[f"{name}Response"]
        call = self.channel.unary_unary(f"/runtime.v1.RuntimeService/{name}", request.SerializeToString, reply.FromString)
        return call(request(**fields), timeout=60)

    def stop(self) -> None:
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@pytest.fixture(scope="module", params=[[], ["--shim"]], ids=["runtime", "shim"])
def kubelet(request: pytest.FixtureRequest, wherry: str) -> Iterator[Kubelet]:
    """With runc's shim and wherry as its runtime, and with ours."""
    need("containerd", "ctr")
    become_subreaper()
    place = Path(tempfile.mkdtemp(prefix="wherry-cri-", dir="/var/tmp"))
    rootfs = place / "images/box/rootfs"
    rootfs.mkdir(parents=True)
    one = Kubelet(place, [wherry, "setup", "containerd", *request.param])
    try:
        one.wait()
        one.ctr("images", "import", "--snapshotter", "native", str(image(make_rootfs(rootfs, None), place)))
        yield one
    finally:
        one.stop()
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(place) in line]
        for mount in reversed(mounts):
            subprocess.run(["umount", "-l", mount], capture_output=True)
        shutil.rmtree(place, ignore_errors=True)
    assert not mounts, mounts


def test_a_pod(kubelet: Kubelet) -> None:
    security = {"namespace_options": {"network": 2, "pid": 1}}  # the node's network: no CNI here
    pod = {"metadata": {"name": "p", "uid": "u", "namespace": "default"}, "log_directory": str(kubelet.place), "linux": {"security_context": security}}
    sandbox = kubelet.ask("RunPodSandbox", config=pod, runtime_handler="wherry").pod_sandbox_id
    try:
        words = ["sh", "-c", "echo written; trap 'exit 7' TERM; while :; do sleep 0.1; done"]
        config = {"metadata": {"name": "c"}, "image": {"image": BOX}, "command": words, "log_path": "c.log"}
        container = kubelet.ask("CreateContainer", pod_sandbox_id=sandbox, config=config, sandbox_config=pod).container_id
        kubelet.ask("StartContainer", container_id=container)
        done = kubelet.ask("ExecSync", container_id=container, cmd=["sh", "-c", "echo out; echo err >&2; exit 5"], timeout=20)
        assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 5)
        wait_until(lambda: "stdout F written" in (kubelet.place / "c.log").read_text(), "the container's log")
        kubelet.ask("StopContainer", container_id=container, timeout=20)
        status = kubelet.ask("ContainerStatus", container_id=container).status
        assert (status.state, status.exit_code) == (EXITED, 7)
    finally:
        kubelet.ask("StopPodSandbox", pod_sandbox_id=sandbox)
        kubelet.ask("RemovePodSandbox", pod_sandbox_id=sandbox)
    assert not list((kubelet.place / "state/io.containerd.runtime.v2.task/k8s.io").glob("*"))


def test_a_handler_that_is_not_there(kubelet: Kubelet) -> None:
    pod = {"metadata": {"name": "q", "uid": "u", "namespace": "default"}}
    with pytest.raises(grpc.RpcError, match='no runtime for "missing"'):
        kubelet.ask("RunPodSandbox", config=pod, runtime_handler="missing")
