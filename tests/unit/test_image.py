# SPDX-License-Identifier: Apache-2.0
"""The file of hot modules: it holds what the sources say, is what the interpreter imports from, and is not used by another one."""

import importlib.util
import marshal
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

import wherry

PACKAGE = Path(wherry.__file__).parent
IMAGE = PACKAGE / "hot.image"
SCRIPT = Path(sys.executable).parent / "wherry-python"
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not IMAGE.exists(), reason="wherry is not installed (no hot.image beside it)")


def read() -> tuple[tuple[str, ...], dict[str, bytes]]:
    data = IMAGE.read_bytes()
    assert data[:16] == MAGIC_NUMBER.ljust(16, b"\0")
    return marshal.loads(data[16:])  # type: ignore[no-any-return]


def test_it_holds_the_installed_sources() -> None:
    packages, codes = read()
    for name, code in codes.items():
        path = PACKAGE.parent / (name.replace(".", "/") + ("/__init__.py" if name in packages else ".py"))
        assert marshal.loads(code) == compile(path.read_bytes(), str(path), "exec", dont_inherit=True, optimize=0), name


def test_what_is_left_out_exists() -> None:
    spec = importlib.util.spec_from_file_location("hot_image", ROOT / "csrc/cmake/hot_image.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, codes = read()
    for name in module.COLD:
        assert importlib.util.find_spec(name), name
        assert name not in codes


def test_a_hot_verb_loads_from_it_and_nothing_else_by_path() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-v", str(SCRIPT), "state", "no-such-container"], capture_output=True, text=True, timeout=30
    )
    assert "does not exist" in done.stderr
    assert "import 'wherry.container.lifecycle' # <wherry.image.Importer" in done.stderr
    by_path = [line for line in done.stderr.splitlines() if line.startswith("# code object from") and "/wherry/" in line]
    assert all("codes" in line or "wording" in line for line in by_path), by_path


@pytest.mark.parametrize("spoil", ["other", "missing"])
def test_without_a_fitting_image_modules_are_found_by_path(tmp_path: Path, spoil: str) -> None:
    """A copy of the package in a tree of its own, whose image is of another interpreter, or gone."""
    site = tmp_path / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    site.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    import _cffi_backend

    for path in (PACKAGE, Path(_cffi_backend.__file__)):
        subprocess.run(["cp", "-r", str(path), str(site)], check=True)
    script = tmp_path / "bin" / "wherry-python"
    script.write_bytes(SCRIPT.read_bytes())
    image = site / "wherry" / "hot.image"
    if spoil == "missing":
        image.unlink()
    else:
        image.write_bytes(b"\x01\x02\r\n".ljust(16, b"\0") + image.read_bytes()[16:])
    done = subprocess.run([sys.executable, "-I", "-S", "-v", str(script), "--version"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert "wherry.image.Importer" not in done.stderr
    assert f"{tmp_path}/bin/../lib/{site.parent.name}/site-packages/wherry/" in done.stderr
