# SPDX-License-Identifier: Apache-2.0
"""A container's life in steps, and what its events tell meanwhile. Needs root.

Prints:
    it is created
    event created
    event started
    it is running
    event exited, status 7
    it is stopped
    it is gone
"""

import os
import sys

from wherry import Config, Container

ROOT = os.environ.get("WHERRY_ROOT")
config = Config.sandbox(sys.argv[1], ["sh", "-c", "sleep 1; exit 7"])

with Container.create(config, f"example-{os.getpid()}", ROOT) as container:
    print("it is", container.status)
    for event in container.events(timeout=30):
        print("event", event.kind if event.code is None else f"{event.kind}, status {event.code}")
        if event.kind == "created":
            container.start()
        if event.kind == "started":
            print("it is", container.status)
    print("it is", container.status)

known = [other.id for other in Container.list(ROOT)]
print("it is", "still there" if container.id in known else "gone")
