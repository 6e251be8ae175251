# SPDX-License-Identifier: Apache-2.0
"""What names the plan of an exec in all containers of a kind: for who compiles it, and for who knows the container before the exec. Otherwise what is
filled in, the front and native.exec_plan() know by themselves."""

import posix

from wherry._native import ffi, lib
from wherry.kernel.native import BLANK, Container, Pattern, _bytes, _check, _loaded

NAMESPACES = ("user", "mnt", "pid", "net", "cgroup", "uts", "ipc", "time")
"""By their files in /proc/PID/ns."""
NOT_ITS = b"@{wherry:--}"
"""In what no exec of the kind may have in its plan. No mark: it is never filled in."""


def mark(index: int) -> bytes:
    return b"%s%02x}" % (BLANK, index)


class Kind(Pattern):
    """What is the container's own is a blank too: the number of its init is blank 0, those behind it stand in the paths of its cgroups. OSError where
    it is not like others."""

    __slots__ = ("_given", "_own", "_text")

    def __init__(self, container: Container, config: bytes, text: bytes, file: bool, facts: str) -> None:
        """text, file: as of a Pattern. config: as it is kept of the container; its variables are the exec's too where the text is no process.json."""
        self._config, self._text = text, config  # the blanks are in them
        self._read = ffi.new("struct host_pattern *")
        whole = ffi.new("struct host_bytes *", (ffi.from_buffer(config), len(config)))
        _check(lib.host_exec_kind(self._read, container.opened, whole, file, ffi.from_buffer(text), len(text), facts.encode()))
        self._given = Pattern(config, facts=facts)
        blanks = self._given._read.blanks
        self._own = [] if file else [index for index in range(self._given._read.count) if blanks[index].variable]

    @property
    def cgroups(self) -> int:
        """So many blanks."""
        count: int = self._read.kind.cgroups
        return count

    @property
    def namespaces(self) -> list[str]:
        """Those of init that are not ours, by their files in /proc/PID/ns."""
        relations = zip(NAMESPACES, self._read.kind.relations, strict=True)
        return [name for name, relation in relations if relation == lib.HOST_OTHER_NAMESPACE]

    def config(self) -> bytes:
        """With marks for the variables that are the exec's too, and NOT_ITS in the other blanks."""
        marks = [NOT_ITS] * self._given._read.count
        for number, index in enumerate(self._own, 1 + self.cgroups):
            marks[index] = mark(number)
        return self._given.marked(marks=marks)

    def text(self) -> bytes:
        """With a mark in each blank."""
        return self.marked(1 + self.cgroups + len(self._own))


class Foreseen:
    """The kind of one container, without the process.json that an exec brings: what is found with it is what native.exec_plan() would find, as long as
    the facts and the relations of the namespaces are what they were. Nothing of the container is open. OSError where it is of no kind."""

    __slots__ = ("_read",)

    def __init__(self, container: Container, facts: str) -> None:
        found = lib.native_foresee(container.opened, facts.encode())
        if found == ffi.NULL:
            raise OSError(95, posix.strerror(95))
        self._read = ffi.gc(found, lib.native_foreseen_free)

    @property
    def others(self) -> list[str]:
        """Of the namespaces of init, those that are not ours."""
        relations = ffi.new("uint8_t[]", len(NAMESPACES))
        lib.native_foreseen_relations(self._read, relations)
        return [name for name, relation in zip(NAMESPACES, relations, strict=True) if relation == lib.HOST_OTHER_NAMESPACE]

    def plan(self, root: str, text: bytes) -> "bytes | None":
        return _loaded(lib.native_foreseen_plan, self._read, _bytes(root), ffi.from_buffer(text), len(text))
