# SPDX-License-Identifier: Apache-2.0
"""Limits, and what the result says of a program that met them. Needs root, or a delegated cgroup.

Prints:
    memory: killed for want of memory: True
    pids: forks were refused: True
    time: timed out: True, all ended: 137
    output: 4096 bytes kept, the rest lost: True
"""

import os
import sys

from wherry import Sandbox

box = Sandbox(sys.argv[1], memory="16M", pids=8, cpus=0.5, max_output=4096, timeout=20, root=os.environ.get("WHERRY_ROOT"))

result = box.run(["sh", "-c", "tail -c 100m /dev/zero"])
print("memory: killed for want of memory:", result.oom)

result = box.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done"])
print("pids: forks were refused:", result.denied.get("pids", 0) > 0)

result = box.run(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.2)
print(f"time: timed out: {result.timed_out}, all ended: {result.code}")

result = box.run(["sh", "-c", "yes | head -n 10000"])
print(f"output: {len(result.out)} bytes kept, the rest lost: {result.truncated}")
