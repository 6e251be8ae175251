# SPDX-License-Identifier: Apache-2.0
"""What capture.py asks the engines to run: a name, and the options that differ from the engine's defaults ("-- COMMAND" where it matters)."""

from __future__ import annotations

PODMAN = {
    "default": "",
    "terminal": "-dit",
    "privileged": "--privileged",
    "read-only": "--read-only --tmpfs /scratch:rw,size=1m,mode=1777 --tmpfs /var",
    "user-namespace": "--uidmap 0:100000:65536 --gidmap 0:100000:65536",
    "limits": "--memory 64m --memory-reservation 32m --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 --pids-limit 50 --blkio-weight 300 --oom-score-adj 100",
    "device": "--device /dev/fuse --device /dev/zero:/dev/mine:rw --device-cgroup-rule 'c 10:* rwm'",
    "unconfined": "--security-opt seccomp=unconfined --security-opt no-new-privileges --security-opt mask=/proc/stat --security-opt unmask=/proc/kcore",
    "volume": "-v WORK/data:/data -v WORK/data:/there:ro,rslave -v WORK/hosts:/etc/extra:ro -v named:/named --mount type=tmpfs,dst=/mem,tmpfs-size=1m",
    "init": "--init",
    "network-host": "--network host",
    "host-namespaces": "--network host --pid host --ipc host --uts host --cgroupns host",
    "capabilities": "--cap-drop all --cap-add net_bind_service,chown --user 1000:1000 --group-add 44 -w /tmp",
    "process": "--ulimit nofile=512:1024 --ulimit core=0 --env A=1 --hostname name --umask 0077 --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=65536",
    "systemd": "--systemd always -- /bin/sleep 0",
    "health": "--health-cmd true --stop-signal USR1 --label a=b --annotation c=d",
}
PODS = {
    "pod-infra pod-member": (
        "pod create --name p --infra-image box --infra-command '/bin/sleep 1000' --network none --hostname pod --share ipc,net,uts",
        "run --pod p --log-driver k8s-file box true",
    ),
}
ROOTLESS = {
    "default": "",
    "keep-id": "--userns keep-id",
    "network-host": "--network host",
    "privileged": "--privileged",
    "volume": "-v WORK/data:/data:ro --read-only --tmpfs /scratch",
}
DOCKER = {
    "default": "",
    "terminal": "-dit",
    "limits": "--memory 64m --memory-swap 128m --memory-reservation 32m --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 --pids-limit 50 --blkio-weight 300 "
    "--device-read-bps /dev/loop0:1mb --oom-score-adj 100",
    "capabilities": "--cap-drop all --cap-add net_bind_service --security-opt no-new-privileges --user 1000:1000 --group-add 44",
    "read-only": "--read-only --tmpfs /tmp --tmpfs /run:size=1m,mode=700,exec",
    "process": "--ulimit nofile=512:1024 --ulimit core=0 --init --env A=1 --hostname name --domainname example.org -w /made/up --sysctl net.ipv4.ip_forward=1",
    "device": "--device /dev/fuse --device /dev/zero:/dev/mine:rw --device-cgroup-rule 'c 10:* rwm'",
    "volume": "-v WORK/data:/data -v WORK/data:/there:ro -v named:/named --mount type=bind,src=WORK/data,dst=/b,bind-propagation=rslave --shm-size 1m",
    "privileged": "--privileged",
    "network-host": "--network host --pid host --uts host --ipc host",
    "joined": "--network container:other --ipc container:other --pid container:other",
    "unconfined": "--security-opt seccomp=unconfined --security-opt systempaths=unconfined --cgroupns private",
}
CTR = {
    "default": "",
    "seccomp": "--seccomp --read-only --env A=1 --cwd /tmp",
    "privileged": "--privileged",
    "limits": "--memory-limit 67108864 --cpu-quota 50000 --cpu-period 100000 --cpu-shares 512",
    "namespaces": "--annotation a=b",
    "net-host": "--net-host --allow-new-privs --cgroup /of/mine",
    "mounts": "--mount type=bind,src=WORK/data,dst=/data,options=rbind:ro --mount type=tmpfs,src=tmpfs,dst=/mem,options=size=64k:nosuid --rootfs-propagation rslave",
    "capabilities": "--cap-add CAP_SYS_ADMIN --cap-drop CAP_MKNOD --device /dev/fuse",
}
NAMESPACES = "--with-ns network:/proc/PID/ns/net --with-ns ipc:/proc/PID/ns/ipc --with-ns uts:/proc/PID/ns/uts"
BUILDAH = {
    "default": "--isolation oci --network none",
    "options": "--isolation oci --network host --user 1000:1000 --workingdir /tmp --cap-add CAP_NET_ADMIN --cap-drop CAP_CHOWN --volume WORK/data:/data:ro --hostname name",
    "namespaces": "--isolation oci --network none --ipc host --uts host --pid host --cgroupns host",
    "rootless": "--isolation rootless --network host",
}
BUILDFILE = """FROM box
RUN echo built >/made
RUN --mount=type=tmpfs,target=/mem --mount=type=cache,target=/cache --mount=type=bind,source=Containerfile,target=/file true
"""
SPECS = {"spec-runc": "runc spec", "spec-runc-rootless": "runc spec --rootless", "spec-crun": "crun spec", "spec-crun-rootless": "crun spec --rootless"}
