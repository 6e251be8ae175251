# SPDX-License-Identifier: Apache-2.0
"""Makes shim/wherry_shim/proto/ from specs/*.proto with the pinned grpcio-tools (pyproject.toml, [stubs]); `--check` only says whether it is up to date.

protoc writes `import x_pb2`, which would be a module of the top level: here the modules are in a package.
"""

import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

HOME = Path(__file__).parents[2]
TARGET = HOME / "shim/wherry_shim/proto"
FILES = ["containerd_types", "containerd_v1_types", "containerd_task_v3", "wherry_shim_v1"]
SERVICES = ["containerd_task_v3", "wherry_shim_v1"]
IMPORT = re.compile(r"^import (containerd_\w+_pb2|wherry_\w+_pb2) as", re.MULTILINE)
HEAD = "# SPDX-License-Identifier: Apache-2.0\n"


def generate(target: Path) -> None:
    from grpc_tools import protoc

    specs = HOME / "specs"
    common = ["protoc", f"-I{specs}", f"-I{files('grpc_tools') / '_proto'}"]
    sources = [str(specs / f"{name}.proto") for name in FILES]
    services = [str(specs / f"{name}.proto") for name in SERVICES]
    if protoc.main([*common, f"--python_out={target}", f"--pyi_out={target}", *sources]):
        raise SystemExit("protoc has refused specs/*.proto")
    if protoc.main([*common, f"--grpc_python_out={target}", *services]):
        raise SystemExit("protoc has refused the services of specs/*.proto")
    for path in target.iterdir():
        path.write_text(HEAD + IMPORT.sub(r"from wherry_shim.proto import \1 as", path.read_text()))
    (target / "__init__.py").write_text(HEAD + '"""Generated from specs/*.proto by tests/tools/stubs.py: not to be edited."""\n')


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        made = {path.name: path.read_bytes() for path in Path(directory).iterdir()}
    there = {path.name: path.read_bytes() for path in TARGET.iterdir() if path.is_file()} if TARGET.is_dir() else {}
    if "--check" in sys.argv:
        stale = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
        raise SystemExit(f"not as specs/*.proto say: {', '.join(stale)}: run tests/tools/stubs.py" if stale else 0)
    TARGET.mkdir(exist_ok=True)
    for name in there.keys() - made.keys():
        (TARGET / name).unlink()
    for name, data in made.items():
        (TARGET / name).write_bytes(data)


if __name__ == "__main__":
    main()
