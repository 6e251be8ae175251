# SPDX-License-Identifier: Apache-2.0
"""wherry state ID"""

import posix

from wherry.container.lifecycle import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli import Call

FLAGS: "dict[str, int | str]" = {}


def run(call: "Call") -> int:
    (id,) = call.positional(1, 1)
    posix.write(1, state(call.root(), id))
    return 0
