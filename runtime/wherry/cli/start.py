# SPDX-License-Identifier: Apache-2.0
"""wherry start ID"""

from wherry.cli.arguments import TEXT
from wherry.container.lifecycle import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli import Call

FLAGS: "dict[str, int | str]" = {"trace": TEXT}


def run(call: "Call") -> int:
    (id,) = call.positional(1, 1)
    file = call.flags.text("trace")
    if file is None and not call.globals.on("debug"):
        start(call.root(), id, call.notify())
        return 0
    from wherry.cli.debug import lines
    from wherry.container.options import Traced, absolute
    from wherry.container.trace import record

    traced = Traced()
    with record(traced, file and absolute(file), 0, lines(call)):
        start(call.root(), id, call.notify(), phase=traced.phase)
    return 0
