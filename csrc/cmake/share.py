# SPDX-License-Identifier: Apache-2.0
"""Writes man pages and completions at build time: python share.py RUNTIME EXTENSION VERSION OUTPUT, laid out as below a prefix's share/.

The tables of the verbs are imported, and they need the extension, which has just been built. Where a module that some verb imports is
not there (an isolated build has no run-time dependencies), the package is built without: `wherry man` and `wherry completion` print the same.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


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
        from wherry.cli import completion, man

        files = {f"man/man1/{name}": text for name, text in man.pages(version).items()}
        files["bash-completion/completions/wherry"] = completion.bash()
        files["zsh/site-functions/_wherry"] = completion.zsh()
        files["fish/vendor_completions.d/wherry.fish"] = completion.fish()
    except ImportError as error:
        print(f"without man pages and completions: {error}", file=sys.stderr)
        files = {}
    for name, text in files.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(text)
    (output / "made").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
