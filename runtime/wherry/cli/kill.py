# SPDX-License-Identifier: Apache-2.0
"""wherry kill ID [SIGNAL]"""

from wherry.cli.arguments import BOOL
from wherry.container.lifecycle import kill, signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli import Call

FLAGS: "dict[str, int | str]" = {"all": BOOL, "a": "all"}


def run(call: "Call") -> int:
    words = call.positional(1, 2)
    kill(call.root(), words[0], signal_number(words[1] if len(words) > 1 else "TERM"), call.flags.on("all"))
    return 0
