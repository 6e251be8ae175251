# SPDX-License-Identifier: Apache-2.0
"""One program in a container of its own, as root or as an ordinary user.

Prints:
    status 0: hello from web
"""

import os
import sys

from wherry import Config, run

config = Config.sandbox(sys.argv[1], ["sh", "-c", "echo hello from $(hostname)"]).hostname("web")
if os.geteuid():
    config = config.map_self().without_limits()  # an ordinary user has one id to give, and no cgroup
done = run(config, root=os.environ.get("WHERRY_ROOT"), timeout=30)
print(f"status {done.code}: {done.out.decode().strip()}")
