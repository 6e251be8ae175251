# SPDX-License-Identifier: Apache-2.0
"""wherry features"""

import json

from wherry.cli import Call
from wherry.cli.version import libseccomp, release
from wherry.kernel import native
from wherry.oci.features import document

FLAGS: dict[str, int | str] = {}


def run(call: Call) -> int:
    call.positional(0, 0)
    print(json.dumps(document(release(), native.build_id().hex(), libseccomp()), indent=2))
    return 0
