# SPDX-License-Identifier: Apache-2.0
"""wherry start ID"""

from wherry.container.lifecycle import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli import Call

FLAGS: "dict[str, int | str]" = {}


def run(call: "Call") -> int:
    (id,) = call.positional(1, 1)
    start(call.root(), id, call.notify())
    return 0
