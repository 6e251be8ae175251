# SPDX-License-Identifier: Apache-2.0
"""The little of Kubernetes' container runtime interface that capture.py needs, spoken to containerd; messages are dicts {field number: value}."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Message = dict[int, Any]
IMAGE = "docker.io/library/box:latest"
NODE = 2  # NamespaceMode
SERVICE = "/runtime.v1.RuntimeService/"

# An interface that exists on paper alone: nothing on the machine is touched.
NETWORK = """#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "0.4.0", "interfaces": [{"name": "'$CNI_IFNAME'", "sandbox": "'$CNI_NETNS'"}], "ips": [{"version": "4", "address": "10.0.0.2/24", "interface": 0}]}'
"""


def plugin(work: Path, runtime: str) -> list[str]:
    """Lines of containerd's configuration; the network plugin is put in place."""
    for name in ("cni", "cni.d"):
        (work / name).mkdir(exist_ok=True)
    for name in ("paper", "loopback"):
        (work / "cni" / name).write_text(NETWORK)
        (work / "cni" / name).chmod(0o755)
    (work / "cni.d" / "10-paper.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "paper", "plugins": [{"type": "paper"}]}))
    name = 'plugins."io.containerd.grpc.v1.cri"'
    return [
        f'[{name}]\nsandbox_image = "{IMAGE}"\nnetns_mounts_under_state_dir = true',
        f'[{name}.cni]\nbin_dir = "{work}/cni"\nconf_dir = "{work}/cni.d"',
        f'[{name}.containerd]\nsnapshotter = "native"\ndefault_runtime_name = "caught"',
        f'[{name}.containerd.runtimes.caught]\nruntime_type = "io.containerd.runc.v2"',
        f'[{name}.containerd.runtimes.caught.options]\nBinaryName = "{runtime}"',
    ]


class Client:
    def __init__(self, socket: str) -> None:
        import grpc

        self.channel = grpc.insecure_channel(f"unix://{socket}")
        grpc.channel_ready_future(self.channel).result(timeout=20)
        self.made: list[str] = []

    def call(self, name: str, message: Message) -> str:
        """The first field of the answer, a string."""
        same = bytes.__call__
        answer = self.channel.unary_unary(SERVICE + name, request_serializer=same, response_deserializer=same)(encode(message), timeout=60)
        return answer[2 : 2 + answer[1]].decode() if answer else ""

    def image(self, work: Path, rootfs: Path) -> Path:
        """An archive as `docker save` writes it."""
        layer, archive = work / "layer.tar", work / "box.tar"
        with tarfile.open(layer, "w") as tar:
            tar.add(rootfs, arcname=".")
        digest = hashlib.sha256(layer.read_bytes()).hexdigest()
        config = {"architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux", "config": {"Entrypoint": ["/bin/sleep", "1000"]},
                  "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}  # fmt: skip
        (work / "config.json").write_text(json.dumps(config))
        (work / "manifest.json").write_text(json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]))
        with tarfile.open(archive, "w") as tar:
            for name in ("config.json", "manifest.json", "layer.tar"):
                tar.add(work / name, arcname=name)
        return archive

    def pods(self, work: Path) -> Iterator[tuple[str, Message, list[Message]]]:
        """(names of what is caught, a pod, its containers)"""
        own = pod("own", {9: {1: 0}})
        host = pod("host", {1: {1: NODE, 2: NODE, 3: NODE}, 6: True})
        plain = container("plain", {15: {1: 0}})
        limits = container(
            "limits",
            {1: {2: ["ALL"], 1: ["NET_BIND_SERVICE"]}, 5: {1: 1000}, 12: {1: 1000}, 7: True, 8: [44], 11: True, 15: {1: 0}},
            {1: 100000, 2: 50000, 3: 512, 4: 64 << 20, 5: 900, 6: "0"},
        )
        limits[2][7] = [{1: "/data", 2: f"{work}/data", 3: True}, {1: "/etc/hosts", 2: f"{work}/hosts"}, {1: "/shared", 2: f"{work}/data", 5: 1}]
        limits[2][8] = [{1: "/dev/fuse", 2: "/dev/fuse", 3: "rwm"}]
        limits[2][14] = True
        yield "pod container container-limits", own, [plain, limits]
        yield "pod-host container-privileged", host, [container("strong", {2: True, 3: {1: NODE, 2: NODE, 3: NODE}, 15: {1: 1}})]

    def try_pod(self, config: Message, containers: list[Message]) -> str:
        import grpc

        try:
            made = self.call("RunPodSandbox", {1: config})
            self.made.append(made)
            for one in containers:
                self.call("StartContainer", {1: self.call("CreateContainer", {1: made, **one, 3: config})})
        except grpc.RpcError as error:
            return str(error.details())
        return ""

    def close(self) -> None:
        for made in self.made:
            self.call("StopPodSandbox", {1: made})
            self.call("RemovePodSandbox", {1: made})
        self.channel.close()


def pod(name: str, security: Message) -> Message:
    return {1: {1: name, 2: f"uid-{name}", 3: "default", 4: 0}, 2: name if name == "own" else "", 3: "/var/tmp", 6: [{1: "app", 2: name}], 8: {1: "/corpus", 2: security, 3: [{1: "net.ipv4.ip_unprivileged_port_start", 2: "0"}] if name == "own" else []}}  # fmt: skip


def container(name: str, security: Message, resources: Message | None = None) -> Message:
    return {2: {1: {1: name}, 2: {1: IMAGE}, 3: ["/bin/sleep"], 4: ["1000"], 6: [{1: "A", 2: "1"}], 15: {1: resources or {3: 2, 5: 1000}, 2: security}}}


# ---- the encoding


def number(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def encode(message: Message) -> bytes:
    return b"".join(field(key, one) for key, value in message.items() for one in (value if isinstance(value, list) else [value]))


def field(key: int, value: Any) -> bytes:
    if isinstance(value, int):
        return number(key << 3) + number(int(value))
    content = encode(value) if isinstance(value, dict) else value.encode()
    return number(key << 3 | 2) + number(len(content)) + content
