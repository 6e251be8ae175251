# SPDX-License-Identifier: Apache-2.0
"""The caller's own part of a create, while init waits in its namespaces: a unit of systemd, network devices, resctrl classes. Loaded where a
plan has them. What it leaves on the host is journaled before it is made."""

from typing import Any

from wherry.kernel.native import Create, constants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.container.unit import UnitPart


class Interlude:
    """`extra` is for the journal of the create that perform() is to be called for, once for each time that init waits."""

    def __init__(self, plan: bytes, flags: int, config: dict[str, Any], id: str) -> None:
        linux = config.get("linux") or {}
        self.id = id
        self.devices: dict[str, dict[str, Any]] = linux.get("netDevices") or {}
        self.section: dict[str, Any] = linux.get("intelRdt") or {}
        self.mount, self.paths = "", list[str]()
        self.unit: UnitPart | None = None
        self._parts: list[Callable[[Create], None]] = [self._devices_and_class]
        if self.section:
            from wherry.container import resctrl

            self.mount = resctrl.mounted()
            self.paths = resctrl.paths_made(self.section, id, self.mount)
        if flags & constants.WHERRY_PLAN_UNIT:
            from wherry.container import unit

            self.unit = unit.UnitPart(plan, id)
            self.unit.index = len(self.paths)
            self._parts.insert(0, self.unit.perform)

    @property
    def extra(self) -> list[tuple[int, str]]:
        paths = [(constants.WHERRY_JOURNAL_RESCTRL, path) for path in self.paths]
        return [*paths, self.unit.extra] if self.unit else paths

    def perform(self, create: Create) -> None:
        """Raises what the parts raise; undoing the container is the caller's, and undo() after that."""
        self._parts.pop(0)(create)

    def undo(self, error: BaseException) -> None:
        if self.unit:
            self.unit.undo(error)

    def _devices_and_class(self, create: Create) -> None:
        if self.devices:
            from wherry.container import netdevices

            netdevices.move_devices(self.devices, create.pid)
        if self.section:
            self._join(create)

    def _join(self, create: Create) -> None:
        from wherry.container import resctrl

        made = set()

        def done(path: str) -> None:
            made.add(path)
            create.mark(self.paths.index(path), constants.WHERRY_JOURNAL_DONE)

        for index in range(len(self.paths)):
            create.mark(index, constants.WHERRY_JOURNAL_BEGUN)
        resctrl.join(self.section, self.id, create.pid, self.mount, done)
        for index, path in enumerate(self.paths):
            if path not in made:
                create.mark(index, constants.WHERRY_JOURNAL_FOREIGN)
