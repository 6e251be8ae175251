# SPDX-License-Identifier: Apache-2.0
"""What will be done to this host, read before anything is: a plan is compiled, looked at and not executed.

Prints:
    more than 50 lines, and nothing done yet
    a network namespace of its own: False
    mounted on /data: True
"""

import sys

from wherry import Bundle, Config
from wherry.plan.describe import describe

config = Config.sandbox(sys.argv[1], ["true"]).share("network").without_mount("/sys").bind("/usr", "/data")
text = describe(Bundle.of(config).plan())
print(f"{len(text.splitlines()) > 50 and 'more than 50'} lines, and nothing done yet")
print("a network namespace of its own:", "NEWNET" in text)
print("mounted on /data:", "/data" in text)
print(text, file=sys.stderr)
