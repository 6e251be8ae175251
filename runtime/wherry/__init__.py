# SPDX-License-Identifier: Apache-2.0
"""wherry: a low-level OCI container runtime. Python decides, C does.

    6  cli/                  one module per verb
    5  container/, api/      the life of a container; the library
    4  plan/                 configuration and host facts -> launch plan. Pure
    3  cgroup/, seccomp/     their parts of a plan. Pure
    2  oci/                  config.json and the other documents. Pure
    1  kernel/               the only way to the kernel
    0  errors.py

Imports go down only. This module imports nothing; the library's names are found when they are asked for:

    from wherry import Bundle, Config, Container, Sandbox, run
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry import aio as aio
    from wherry.api import Bundle as Bundle
    from wherry.api import Caution as Caution
    from wherry.api import Completed as Completed
    from wherry.api import Config as Config
    from wherry.api import Container as Container
    from wherry.api import Event as Event
    from wherry.api import Result as Result
    from wherry.api import Sandbox as Sandbox
    from wherry.api import Usage as Usage
    from wherry.api import run as run

_OF_THE_LIBRARY = ("Bundle", "Caution", "Completed", "Config", "Container", "Event", "Result", "Sandbox", "Usage", "run")


def __getattr__(name: str) -> object:
    if name == "aio":
        import wherry.aio

        return wherry.aio
    if name not in _OF_THE_LIBRARY:
        raise AttributeError(f"module 'wherry' has no attribute {name!r}")
    import wherry.api

    return getattr(wherry.api, name)


def __dir__() -> "list[str]":
    return sorted({*globals(), *_OF_THE_LIBRARY, "aio"})
