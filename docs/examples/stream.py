# SPDX-License-Identifier: Apache-2.0
"""Output as it comes, and a program that is ended once enough has been seen.

Prints:
    stdout: line 1
    stderr: and a complaint
    stdout: line 2
    killed: 137
"""

import os
import sys

from wherry import Sandbox

SCRIPT = """
echo line 1; sleep 0.1; echo and a complaint >&2; sleep 0.1; echo line 2
while :; do sleep 1; done
"""

box = Sandbox(sys.argv[1], allow_missing={"memory", "pids", "cpu"}, root=os.environ.get("WHERRY_ROOT"))
with box.stream(["sh", "-c", SCRIPT]) as stream:
    for name, data in stream:
        print(f"{name}: {data.decode()}", end="")
        if b"line 2" in data:
            stream.kill()
    print(f"killed: {stream.result.code}")
