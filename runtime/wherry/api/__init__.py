# SPDX-License-Identifier: Apache-2.0
"""Floor 5: wherry as a library. No process is started but the container's own.

    from wherry import run
    done = run("/srv/rootfs", ["echo", "hello"])
    done.code, done.out                        # 0, b"hello\\n"

    from wherry import Bundle, Container
    with Container.create(Bundle("/srv/bundle"), "web") as container:
        container.start()
        code = container.wait()                # deleted at the end of the with

Errors are those of wherry.errors. Everything may be called from any thread.
"""

from wherry.api.bundle import Bundle
from wherry.api.container import Container
from wherry.api.run import Completed, run

__all__ = ["Bundle", "Completed", "Container", "run"]
