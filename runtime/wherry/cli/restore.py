# SPDX-License-Identifier: Apache-2.0
"""wherry restore ID"""

from wherry.cli import Call
from wherry.cli.arguments import BOOL, TEXT
from wherry.cli.checkpoint import COMMON, common
from wherry.cli.create import FLAGS as CREATE_FLAGS
from wherry.cli.create import options_of
from wherry.container.criu.restore import RestoreOptions, restore

FLAGS: dict[str, int | str] = {
    **COMMON,
    **{name: kind for name, kind in CREATE_FLAGS.items() if name not in ("trace", "preserve-fds", "no-new-keyring")},
    "detach": BOOL,
    "d": "detach",
    "no-subreaper": BOOL,
    "lsm-profile": TEXT,
    "lsm-mount-context": TEXT,
}


def run(call: Call) -> int:
    (id,) = call.positional(1, 1)
    flags = call.flags
    profile, context = flags.text("lsm-profile") or "", flags.text("lsm-mount-context") or ""
    options = RestoreOptions(**common(call, id), lsm_profile=profile, lsm_mount_context=context)
    call.warn(restore(options, options_of(call, id), flags.on("detach"), not flags.on("no-subreaper")))
    return 0
