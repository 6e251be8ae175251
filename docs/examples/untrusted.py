# SPDX-License-Identifier: Apache-2.0
"""A program that nobody has read, behind all walls that this host and this user can have.

Prints:
    the root filesystem: Read-only file system
    the network: lo
    its children: ended with it
"""

import os
import sys

from wherry import Sandbox

PROGRAM = b"""
touch /tmp/mine && touch /theirs 2>&1 | sed 's/.*: /the root filesystem: /'
echo the network: $(sed -n 's/^ *\\([a-z0-9]*\\):.*/\\1/p' /proc/net/dev)
sleep 1000 &
"""

# limits need a cgroup, which an ordinary user may not have: said aloud, or Sandbox raises HostError
missing = {"memory", "pids", "cpu"} if os.geteuid() else ()
box = Sandbox(sys.argv[1], memory="64M", pids=20, timeout=10, allow_missing=missing, root=os.environ.get("WHERRY_ROOT"))
result = box.run(["sh"], input=PROGRAM)
print(result.text, end="")
print("its children:", "ended with it" if result.ok and result.wall < 10 else result)
print("layers:", ", ".join(f"{name} {how}" for name, how in result.layers.items()), file=sys.stderr)
