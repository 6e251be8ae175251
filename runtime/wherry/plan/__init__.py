# SPDX-License-Identifier: Apache-2.0
"""Floor 4: the compiler. compile(config, facts, options) -> the bytes of a launch plan. Pure: no system call below here.

options    what the command line says             encode     operations -> bytes (the structs of plan.h)
compile    the agenda: which operations, in order  describe   bytes -> text and JSON (late: no create needs it)
namespaces, mounts, process: the parts that every container has
devices, hooks, idmaps, scheduling, sysctl, cgroups: each is loaded where the configuration has its section
"""
