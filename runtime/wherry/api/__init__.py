# SPDX-License-Identifier: Apache-2.0
"""Floor 5: wherry as a library. No process is started but the container's own.

    from wherry import run
    done = run("/srv/rootfs", ["echo", "hello"])
    done.code, done.out                        # 0, b"hello\\n"

    from wherry import Bundle, Container
    with Container.create(Bundle("/srv/bundle"), "web") as container:
        container.start()
        code = container.wait()                # deleted at the end of the with

    from wherry import Sandbox
    result = Sandbox("/srv/rootfs", memory="64M", timeout=10).run(["python3", "-c", untrusted])
    result.ok, result.oom, result.timed_out, result.usage.user

Errors are those of wherry.errors. Everything may be called from any thread; wherry.aio has the same for asyncio. A name is imported
when it is asked for: `from wherry import run` does not pay for Sandbox.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.api.bundle import Bundle as Bundle
    from wherry.api.config import Config as Config
    from wherry.api.container import Caution as Caution
    from wherry.api.container import Container as Container
    from wherry.api.ended import Ended as Ended
    from wherry.api.ended import Usage as Usage
    from wherry.api.events import Event as Event
    from wherry.api.runner import Completed as Completed
    from wherry.api.runner import run as run
    from wherry.api.sandbox import Result as Result
    from wherry.api.sandbox import Sandbox as Sandbox

PLACES = {
    "Bundle": "bundle",
    "Caution": "container",
    "Completed": "runner",
    "Config": "config",
    "Container": "container",
    "Ended": "ended",
    "Event": "events",
    "Result": "sandbox",
    "Sandbox": "sandbox",
    "Usage": "ended",
    "run": "runner",
}
"""The library's names, and the module of this package that each comes from."""


def __getattr__(name: str) -> object:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"wherry.api.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
