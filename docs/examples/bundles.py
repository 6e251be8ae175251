# SPDX-License-Identifier: Apache-2.0
"""One configuration as the beginning of many: each is written to a bundle, checked, and run. Needs root.

Prints:
    /process/env/0: PATH=/bin
    blue: JOB=blue uid=1000 limit 33554432
    green: JOB=green uid=1000 limit 33554432
    a mistake is found by its place: /process/cwd
"""

import os
import sys
import tempfile

from wherry import Bundle, Config, run
from wherry.errors import ConfigError

SCRIPT = "echo JOB=$JOB uid=$(id -u)"
base = Config.spec("sh", "-c", SCRIPT, rootfs=os.path.abspath(sys.argv[1])).without_env().env(PATH="/bin").user(1000).memory("32M")
print("/process/env/0:", base.get("/process/env/0"))

with tempfile.TemporaryDirectory() as place:
    for name in ("blue", "green"):
        config = base.env(JOB=name).hostname(name).annotate(job=name).tmpfs("/tmp", "1M").check()
        config.save(f"{place}/{name}")
        done = run(Bundle(f"{place}/{name}"), root=os.environ.get("WHERRY_ROOT"))
        print(f"{name}: {done.out.decode().strip()} limit {config.get('/linux/resources/memory/limit')}")

try:
    base.cwd("tmp").check()
except ConfigError as error:
    print("a mistake is found by its place:", error.pointer)
