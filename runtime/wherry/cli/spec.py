# SPDX-License-Identifier: Apache-2.0
"""wherry spec: an example config.json, for a person who changes it from there."""

import json
import os

from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.container.options import absolute
from wherry.errors import UsageError
from wherry.oci.default import spec

FLAGS: dict[str, int | str] = {"bundle": TEXT, "b": "bundle", "rootless": BOOL}


def run(call: Call) -> int:
    call.positional(0, 0)
    path = absolute(call.flags.text("bundle") or ".") + "/config.json"
    config = spec(
        rootless=call.flags.on("rootless"), uid=os.geteuid(), gid=os.getegid(), cgroup_namespace=os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    )  # on cgroup v1 programs look for their limits at the paths of /proc/self/cgroup, as runc and Docker leave them
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(config, file, indent="\t")
            file.write("\n")
    except FileExistsError:
        raise UsageError(f"file {path} exists. Remove it first", code="WHERRY-USAGE-FILE") from None
    return 0
