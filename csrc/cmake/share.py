# SPDX-License-Identifier: Apache-2.0
"""Writes man pages and completions at build time: python share.py RUNTIME EXTENSION VERSION OUTPUT, laid out as below a prefix's share/.

The tables of the verbs are imported, and they need the extension, which has just been built. An isolated build has no run-time
dependencies: something that can do anything, and does nothing, stands in for them. Where that is not enough, the package is built without;
`wherry man` and `wherry completion` print the same.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock


class Absent:
    """Finds what nobody else has found, but for parts of wherry itself and of the standard library."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in ("wherry", "wherry_shim", *sys.stdlib_module_names):
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return MagicMock(name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def load_extension(path: str) -> None:
    spec = spec_from_file_location("wherry._native", path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["wherry._native"] = module


def main() -> int:
    runtime, extension, version, output = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    sys.path.insert(0, runtime)
    try:
        load_extension(extension)
        sys.meta_path.append(Absent())  # type: ignore[arg-type]
        from wherry.cli import completion, man

        files = {f"man/man1/{name}": text for name, text in man.pages(version).items()}
        files["bash-completion/completions/wherry"] = completion.bash()
        files["zsh/site-functions/_wherry"] = completion.zsh()
        files["fish/vendor_completions.d/wherry.fish"] = completion.fish()
    except Exception as error:
        print(f"without man pages and completions: {type(error).__name__}: {error}", file=sys.stderr)
        files = {}
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(text)
    (output / "made").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
