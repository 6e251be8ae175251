# SPDX-License-Identifier: Apache-2.0
"""The caller's own part of a create, while init waits in its namespaces: network devices and resctrl classes. Loaded where a
configuration has them. What it leaves on the host is journaled before it is made."""

from typing import Any

from wherry.container import netdevices, resctrl
from wherry.kernel.native import Create, constants


class Interlude:
    """`extra` is for the journal of the create that perform() is to be called for."""

    def __init__(self, config: dict[str, Any], id: str) -> None:
        linux = config.get("linux") or {}
        self.id = id
        self.devices: dict[str, dict[str, Any]] = linux.get("netDevices") or {}
        self.section: dict[str, Any] = linux.get("intelRdt") or {}
        self.mount = resctrl.mounted() if self.section else ""
        self.paths = resctrl.paths_made(self.section, id, self.mount) if self.section else []

    @property
    def extra(self) -> list[tuple[int, str]]:
        return [(constants.WHERRY_JOURNAL_RESCTRL, path) for path in self.paths]

    def perform(self, create: Create) -> None:
        """Raises what the parts raise; undoing the container is the caller's."""
        if self.devices:
            netdevices.move_devices(self.devices, create.pid)
        if self.section:
            self._join(create)

    def _join(self, create: Create) -> None:
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
