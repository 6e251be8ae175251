# SPDX-License-Identifier: Apache-2.0
"""wherry pause ID"""

from wherry.cli import Call
from wherry.container.pause import pause

FLAGS: dict[str, int | str] = {}


def run(call: Call) -> int:
    (id,) = call.positional(1, 1)
    pause(call.root(), id)
    return 0
