# SPDX-License-Identifier: Apache-2.0
"""Imports the hot modules from one file that the build makes (csrc/cmake/hot_image.py) instead of from forty.

Finding a module by path costs a listing of directories, two stats, an open and a check of its age: 0.1 ms each, a quarter of what a cold
create spends on imports. `wherry-python` reads the file, checks that it is of this interpreter's bytecode, and puts an Importer first in line. What is not in
the file is found as usual; without the file everything is.
"""

import _imp
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader, spec_from_file_location
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


class Importer:
    """Finder and loader in one. `codes`: name to marshalled code; `extensions`: name to path of what is loaded beside them."""

    __slots__ = ("codes", "extensions", "packages", "place")

    def __init__(self, packages: "tuple[str, ...]", codes: "dict[str, bytes]", place: str, extensions: "dict[str, str]") -> None:
        self.packages, self.codes, self.place, self.extensions = packages, codes, place, extensions

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if name in self.codes:
            directory = f"{self.place}/{name.replace('.', '/')}"
            package = name in self.packages
            origin = f"{directory}/__init__.py" if package else f"{directory}.py"
            spec = ModuleSpec(name, self, origin=origin, is_package=package)  # type: ignore[arg-type]
            spec.has_location = True
            if package:
                spec.submodule_search_locations = [directory]
            return spec
        file = self.extensions.get(name)
        return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, file)) if file else None

    def forget(self) -> None:
        """For a process that stays: what it has not loaded by now is found by path."""
        self.codes.clear()

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        return None

    def exec_module(self, module: "ModuleType") -> None:
        code = loads(self.codes[module.__name__])
        _imp._fix_co_filename(code, module.__file__)  # type: ignore[attr-defined]
        exec(code, module.__dict__)  # noqa: S102 - what every loader does
