# SPDX-License-Identifier: Apache-2.0
"""Sweeps: every system call of a run is made to fail once, and every process of it is killed once at each of many calls. Whatever
happens, nothing is left on the host: at once after an error, after `wherry gc` where one of our own processes was killed.

strace injects. A run that ends by itself is used, so that the tracer ends too; `when=N` counts in each process by itself.
"""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.census import Census
from harness.runtime import Runtime

pytestmark = [pytest.mark.requires("root", "command:strace"), pytest.mark.ours, pytest.mark.one_way, pytest.mark.timeout(400)]

CALLS = """mkdirat mkdir openat openat2 write pwrite64 read renameat rename mknodat mknod clone3 clone execveat execve memfd_create socketpair sendmsg recvmsg mount
fsopen fsconfig fsmount move_mount open_tree mount_setattr pivot_root umount2 setns unshare sethostname symlinkat fchdir chdir fchmodat fchmod prctl capset setresuid
setresgid setgroups seccomp keyctl prlimit64 fcntl flock dup3 close_range pidfd_open fstat statfs socket ioctl mmap waitid poll ftruncate""".split()
MOST = 6  # of one call in one process
KILLED_AT = {"mkdirat": 12, "mkdir": 12, "openat": 16, "write": 12, "pwrite64": 12, "clone3": 2, "clone": 2, "mount": 4, "move_mount": 12, "sendmsg": 4, "recvmsg": 4, "execveat": 2, "read": 8,
             "unlinkat": 6, "rmdir": 12, "renameat": 2, "rename": 2, "poll": 4}  # fmt: skip


class Sweep:
    def __init__(self, runtime: Runtime, bundle: Bundle, log: Path) -> None:
        self.runtime, self.bundle, self.log = runtime, bundle.save(), log
        self.census = Census(runtime.tag, [runtime.root])
        self.points, self.name, self.error = 0, "none", ""
        self.found: list[str] = []

    def run(self, inject: str) -> bool | None:
        """One run with an injection: True = it failed, False = it went well all the same, None = the call did not happen so often."""
        name = f"{self.runtime.tag}-s{self.points}"
        argv = ["strace", "-f", "-qq", "-o", str(self.log), "-e", f"trace={inject.split(':')[0]}", "-e", f"inject={inject}"]
        argv += self.runtime.argv("run", "--bundle", self.bundle.path, name)
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self.runtime.env, errors="replace", text=True)  # fmt: skip
        try:
            self.error = process.communicate(timeout=3)[1].strip()
        except subprocess.TimeoutExpired:
            # who would have started the container is dead, and it waits: as `created` containers do. It is its user's to delete
            self.runtime("delete", "--force", name, check=False)
            try:
                self.error = process.communicate(timeout=10)[1].strip()
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                self.found.append(f"{inject}: hangs")
                return True
        if not re.search(r"\(INJECTED\)|killed by SIGKILL", self.log.read_text(errors="replace")):
            return None
        self.points += 1
        self.name = name
        return process.returncode != 0

    def look(self, inject: str, patience: float) -> None:
        left = self.census.leftovers(patience)
        if left:
            self.found.append(f"{inject}: left {left} ({self.error})")

    def collect(self) -> None:
        """What a user does after a crash: gc for what was half made or half removed, delete for a container whose run was killed."""
        self.runtime("gc", check=False)
        self.runtime("delete", "--force", self.name, check=False)


@pytest.fixture(params=["own", *(["host"] if os.environ.get("WHERRY_SWEEP_HOST") else ())])
def sweep(request: pytest.FixtureRequest, runtime: Runtime, bundle: Bundle, place: Path) -> Sweep:
    """With WHERRY_SWEEP_HOST=1 also of a container without a mount namespace."""
    bundle.args("true")
    if request.param == "host":
        bundle.without_namespace("mount")
        bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.config["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 50})
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}]}
    bundle.config["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(place), "options": ["rbind", "ro"]})
    runtime.run(bundle)  # compiled, in the cache
    return Sweep(runtime, bundle, place / "strace.log")


def test_every_call_fails_once(sweep: Sweep) -> None:
    failed = 0
    for call in CALLS:
        for number in range(1, MOST + 1):
            inject = f"{call}:error=EIO:when={number}"
            outcome = sweep.run(inject)
            if outcome is None:
                break
            failed += outcome
            left = sweep.census.leftovers(1.0)
            if left and "gc" in sweep.error:  # the undoing itself was hit, and said so
                sweep.collect()
                left = sweep.census.leftovers(2.0)
            if left:
                sweep.collect()
                sweep.found.append(f"{inject}: left {left[:3]} ({sweep.error})")
    assert not sweep.found, "\n".join(sweep.found)
    assert sweep.points > 100
    assert failed > 60
    print(f"{sweep.points} faults, {failed} made the run fail")


def test_every_process_is_killed_once(sweep: Sweep) -> None:
    began = time.monotonic()
    for call, most in KILLED_AT.items():
        for number in range(1, most + 1):
            inject = f"{call}:signal=KILL:when={number}"
            if sweep.run(inject) is None:
                break
            sweep.collect()
            sweep.look(inject, 3.0)
    assert not sweep.found, "\n".join(sweep.found)
    assert sweep.points > 50
    print(f"{sweep.points} kills in {time.monotonic() - began:.0f} s")
