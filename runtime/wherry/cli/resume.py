# SPDX-License-Identifier: Apache-2.0
"""wherry resume ID"""

from wherry.cli import Call
from wherry.container.pause import resume

FLAGS: dict[str, int | str] = {}


def run(call: Call) -> int:
    (id,) = call.positional(1, 1)
    resume(call.root(), id)
    return 0
