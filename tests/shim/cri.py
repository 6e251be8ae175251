# SPDX-License-Identifier: Apache-2.0
"""What a kubelet asks of containerd: the few calls of CRI that a pod's life takes, and an image to make pods of."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import grpc

from wherry_shim import wire

IMAGE = "docker.io/library/box:latest"
PLUGIN = """#!/bin/sh
# A pod's network without any device: its namespace is made by containerd, and has what the kernel puts there
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}' ;;
  ADD) printf '{"cniVersion":"0.4.0","interfaces":[{"name":"%s","sandbox":"%s"}],"ips":[{"version":"4","interface":0,"address":"192.0.2.5/24"}]}' \
    "$CNI_IFNAME" "$CNI_NETNS" ;;
esac
"""

TABLE = {
    "cri.PodMeta": "string name 1, string uid 2, string namespace 3, uint32 attempt 4",
    "cri.LinuxSandbox": "string cgroup_parent 1",
    "cri.PodConfig": "PodMeta metadata 1, string hostname 2, string log_directory 3, LinuxSandbox linux 8",
    "cri.RunPodSandboxRequest": "PodConfig config 1, string runtime_handler 2",
    "cri.RunPodSandboxResponse": "string pod_sandbox_id 1",
    "cri.PodRequest": "string pod_sandbox_id 1",
    "cri.Empty": "",
    "cri.Meta": "string name 1, uint32 attempt 2",
    "cri.Image": "string image 1",
    "cri.Resources": "int64 cpu_period 1, int64 cpu_quota 2, int64 cpu_shares 3, int64 memory_limit_in_bytes 4",
    "cri.LinuxContainer": "Resources resources 1",
    "cri.ContainerConfig": "Meta metadata 1, Image image 2, string* command 3, string* args 4, string log_path 11, bool tty 14, LinuxContainer linux 15",
    "cri.CreateContainerRequest": "string pod_sandbox_id 1, ContainerConfig config 2, PodConfig sandbox_config 3",
    "cri.ContainerRequest": "string container_id 1, int64 timeout 2",
    "cri.CreateContainerResponse": "string container_id 1",
    "cri.ExecSyncRequest": "string container_id 1, string* cmd 2, int64 timeout 3",
    "cri.ExecSyncResponse": "bytes stdout 1, bytes stderr 2, int32 exit_code 3",
    "cri.Status": "string id 1, int32 state 3, int64 started_at 5, int64 finished_at 6, int32 exit_code 7, string reason 10",
    "cri.ContainerStatusResponse": "Status status 1",
    "cri.UInt64": "uint64 value 1",
    "cri.Memory": "int64 timestamp 1, UInt64 working_set_bytes 2",
    "cri.Stats": "Memory memory 3",
    "cri.ContainerStatsResponse": "Stats stats 1",
    "cri.UpdateRequest": "string container_id 1, Resources linux 2",
}
METHODS = {
    "RunPodSandbox": ("RunPodSandboxRequest", "RunPodSandboxResponse"),
    "StopPodSandbox": ("PodRequest", "Empty"),
    "RemovePodSandbox": ("PodRequest", "Empty"),
    "CreateContainer": ("CreateContainerRequest", "CreateContainerResponse"),
    "StartContainer": ("ContainerRequest", "Empty"),
    "StopContainer": ("ContainerRequest", "Empty"),
    "RemoveContainer": ("ContainerRequest", "Empty"),
    "ContainerStatus": ("ContainerRequest", "ContainerStatusResponse"),
    "ContainerStats": ("ContainerRequest", "ContainerStatsResponse"),
    "UpdateContainerResources": ("UpdateRequest", "Empty"),
    "ExecSync": ("ExecSyncRequest", "ExecSyncResponse"),
}
wire.add(TABLE)


class Kubelet:
    def __init__(self, socket: str) -> None:
        self.channel = grpc.insecure_channel(f"unix://{socket}")

    def call(self, method: str, **request: Any) -> dict[str, Any]:
        asked, answered = (f"cri.{name}" for name in METHODS[method])
        rpc = self.channel.unary_unary(f"/runtime.v1.RuntimeService/{method}", request_serializer=bytes, response_deserializer=bytes)
        return wire.decode(answered, rpc(wire.encode(asked, request), timeout=60))

    def close(self) -> None:
        self.channel.close()


def pod_config(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "namespace": "tests"}, "linux": {"cgroup_parent": f"/{name}"}}


def container_config(name: str, *command: str, memory: int = 0) -> dict[str, Any]:
    config: dict[str, Any] = {"metadata": {"name": name}, "image": {"image": IMAGE}, "command": list(command)}
    return config | {"linux": {"resources": {"memory_limit_in_bytes": memory}}} if memory else config


def network(place: Path) -> None:
    """Plugins and their configuration."""
    for name in ("bin", "conf"):
        (place / name).mkdir(parents=True)
    for name in ("none", "loopback"):
        (place / "bin" / name).write_text(PLUGIN)
        (place / "bin" / name).chmod(0o755)
    (place / "conf/10-none.conf").write_text(json.dumps({"cniVersion": "0.4.0", "name": "none", "type": "none"}))


def image(rootfs: Path, file: Path) -> None:
    """An archive as `docker save` writes it: one layer, which sleeps."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(rootfs, arcname=".")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"]}}
    config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(file, "w") as tar:
        for name, data in (("config.json", json.dumps(config).encode()), ("layer.tar", layer.getvalue()), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
