# SPDX-License-Identifier: Apache-2.0
"""Compiles the modules of the hot verbs into one file: python hot_image.py RUNTIME OUTPUT. See runtime/wherry/image.py, which reads it.

Layout: the interpreter's bytecode magic padded to 16 bytes, then marshal of (packages, {module: marshalled code}).
"""

import marshal
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

COLD = (
    "wherry.api",
    "wherry.cgroup.dbus",
    "wherry.cgroup.gvariant",
    "wherry.cgroup.systemd",
    "wherry.cgroup.units",
    "wherry.codes",
    "wherry.__main__",
    "wherry.cli.catalogue",
    "wherry.cli.completion",
    "wherry.cli.doctor",
    "wherry.cli.engines",
    "wherry.cli.features",
    "wherry.cli.gc",
    "wherry.cli.help",
    "wherry.cli.list",
    "wherry.cli.man",
    "wherry.cli.plan",
    "wherry.cli.screen",
    "wherry.cli.setup",
    "wherry.cli.spec",
    "wherry.cli.stats",
    "wherry.cli.validate",
    "wherry.cli.version",
    "wherry.container.delegation",
    "wherry.container.gc",
    "wherry.container.interlude",
    "wherry.container.metrics",
    "wherry.container.netdevices",
    "wherry.container.resctrl",
    "wherry.container.unit",
    "wherry.container.wording",
    "wherry.kernel.memory",
    "wherry.kernel.rtnetlink",
    "wherry.kernel.trials",
    "wherry.kernel.trials_cgroup",
    "wherry.oci.default",
    "wherry.oci.features",
    "wherry.oci.model",
    "wherry.oci.reader",
    "wherry.oci.suggest",
    "wherry.oci.validate",
    "wherry.plan.describe",
    "wherry.plan.unit",
    "wherry.seccomp.compile",
)
"""What no hot verb loads on its usual way; it is found by path."""


def main() -> int:
    runtime, output = Path(sys.argv[1]), Path(sys.argv[2])
    packages, codes = [], {}
    for file in sorted(runtime.rglob("wherry/**/*.py")):
        parts = list(file.relative_to(runtime).with_suffix("").parts)
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        if any(name == cold or name.startswith(cold + ".") for cold in COLD):
            continue
        if package:
            packages.append(name)
        codes[name] = marshal.dumps(compile(file.read_bytes(), str(file.relative_to(runtime)), "exec", dont_inherit=True, optimize=0))
    output.write_bytes(MAGIC_NUMBER.ljust(16, b"\0") + marshal.dumps((tuple(packages), codes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
