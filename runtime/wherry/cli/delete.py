# SPDX-License-Identifier: Apache-2.0
"""wherry delete ID"""

from wherry.cli.arguments import BOOL
from wherry.container.lifecycle import delete

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli import Call

FLAGS: "dict[str, int | str]" = {"force": BOOL, "f": "force"}


def run(call: "Call") -> int:
    (id,) = call.positional(1, 1)
    call.warn(delete(call.root(), id, call.flags.on("force")))
    return 0
