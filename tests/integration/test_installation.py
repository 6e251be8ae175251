# SPDX-License-Identifier: Apache-2.0
"""How the front finds its Python, for each way of installing: a verb that Python answers works, and is quick where it can be.

Each installation is laid by pip from one wheel, built from an archive of this tree's source; the cffi backend is a copy of the tests' own.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import _cffi_backend
import pytest

pytestmark = [pytest.mark.ours, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
SYSTEM = "/usr/bin/python3"
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("installations")
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def source(site: Path) -> Path:
    """What is in an archive of this tree's source, unpacked."""
    made = "import sys; from scikit_build_core.build import build_sdist; print(build_sdist(sys.argv[1]))"
    name = run([sys.executable, "-c", made, str(site)], cwd=ROOT).stdout.split()[-1]
    run(["tar", "-C", str(site), "-xzf", str(site / name)])
    return site / name.removesuffix(".tar.gz")


def building(site: Path) -> list[str]:
    """The extension and the programs are compiled once for all tests."""
    return ["-q", "--no-deps", "--no-build-isolation", f"--config-settings=build-dir={site / 'build'}"]


TOOLS = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def wheel(site: Path, source: Path) -> Path:
    run([sys.executable, "-m", "pip", "wheel", *building(site), "-w", str(site / "wheels"), str(source)], env=TOOLS, timeout=240)
    (found,) = (site / "wheels").glob("wherry-*.whl")
    return found


def run(argv: list[str], timeout: float = 60, **more: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done  # type: ignore[no-any-return]


def pip(*words: str, python: str = sys.executable, **environment: str) -> None:
    argv = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", "--no-warn-script-location", *words]
    run(argv, env={**os.environ, **environment})


def give_backend(packages: Path) -> None:
    shutil.copy(_cffi_backend.__file__, packages)


def make_venv(place: Path, wheel: Path) -> Path:
    run([SYSTEM, "-m", "venv", "--without-pip", str(place)])
    pip(str(wheel), python=str(place / "bin/python"))
    give_backend(place / f"lib/{PYTHON}/site-packages")
    return place


def loaded_by(command: Path | str, **environment: str) -> str:
    """Asks for an unknown container, which Python answers; returns what its import trace says of where wherry came from."""
    env = {"PATH": "/usr/bin:/bin", **environment}
    done = subprocess.run([str(command), "--root", "/nonexistent", "state", "nobody"], capture_output=True, text=True, timeout=30, env=env)
    assert done.returncode == 1, done.stderr
    assert 'container "nobody" does not exist' in done.stderr or "does not exist" in done.stderr
    version = run([str(command), "--version"], env=env)
    assert version.stdout.startswith("wherry version ")
    return version.stdout


def test_venv(site: Path, wheel: Path) -> None:
    loaded_by(make_venv(site / "venv", wheel) / "bin/wherry")


def test_what_is_in_the_archive_of_the_source(source: Path) -> None:
    """All that git has, and nothing that it ignores."""
    if not (ROOT / ".git").exists():
        pytest.skip("SKIPPED, LOUDLY: no git checkout to compare the archive with")
    packed = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    tracked = run(["git", "-C", str(ROOT), "ls-tree", "-r", "--name-only", "HEAD"]).stdout.splitlines()
    assert not {name for name in tracked if (ROOT / name).is_file()} - packed
    ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "--stdin"], input="\n".join(packed), capture_output=True, text=True)
    assert not ignored.stdout


def test_what_is_in_the_wheel(wheel: Path) -> None:
    """Two packages, the programs, what shells and man read, and the licences: ours, and that of the musl in the programs."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    data = info.replace(".dist-info", ".data")
    tops = {name.split("/")[0] for name in names}
    assert tops == {"wherry", "wherry_shim", info, data}
    assert {name for name in names if "/licenses/" in name} == {f"{info}/licenses/LICENSE", f"{info}/licenses/csrc/program/LICENSE.musl"}
    programs = {Path(name).name for name in names if name.startswith(f"{data}/scripts/")}
    assert programs == {"wherry", "wherry-python", "containerd-shim-wherry-v2", "containerd-shim-wherry-python"}
    kinds = {Path(name).suffix for name in names if name.startswith(("wherry/", "wherry_shim/"))}
    assert kinds == {".py", ".pyi", ".so", ".image", ".json", ".typed", ".service", ".socket", ""}
    assert {name for name in names if not Path(name).suffix and name.startswith(("wherry/", "wherry_shim/"))} == {"wherry/wherry-monitor"}
    assert not [name for name in names if re.search(r"test|conftest|\.[ch]$|\.pyc$", name)]
    shares = {name.removeprefix(f"{data}/data/share/").split("/")[0] for name in names if name.startswith(f"{data}/data/")}
    assert shares == {"man", "bash-completion", "fish", "zsh"}


def test_uninstalled(site: Path, wheel: Path) -> None:
    """Nothing stays of it, bytecode included."""

    def files() -> set[str]:
        return {str(path) for path in venv.rglob("*")}

    venv = site / "uninstalled"
    run([SYSTEM, "-m", "venv", "--without-pip", str(venv)])
    before = files()
    pip(str(wheel), python=str(venv / "bin/python"))
    backend = venv / f"lib/{PYTHON}/site-packages/{Path(_cffi_backend.__file__).name}"
    shutil.copy(_cffi_backend.__file__, backend)
    loaded_by(venv / "bin/wherry")
    backend.unlink()
    run([sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "uninstall", "-q", "--yes", "wherry"])
    left = {path.removeprefix(f"{venv}/") for path in files() - before if Path(path).is_file()}
    assert not left


def test_environment_is_empty(site: Path, wheel: Path) -> None:
    """Podman calls with no PATH and no HOME."""
    venv = make_venv(site / "bare", wheel)
    done = subprocess.run([str(venv / "bin/wherry"), "--root", "/nonexistent", "state", "nobody"], capture_output=True, text=True, timeout=30, env={})
    assert "does not exist" in done.stderr


def test_moved_venv(site: Path, wheel: Path) -> None:
    make_venv(site / "before", wheel).rename(site / "after")
    loaded_by(site / "after/bin/wherry")


def test_symlink(site: Path, wheel: Path) -> None:
    venv = make_venv(site / "linked", wheel)
    (site / "link").symlink_to(venv / "bin/wherry")
    loaded_by(site / "link")


def test_user_installation(site: Path, wheel: Path) -> None:
    base = site / "user"
    pip("--user", "--break-system-packages", str(wheel), python=SYSTEM, PYTHONUSERBASE=str(base))
    give_backend(base / f"lib/{PYTHON}/site-packages")
    loaded_by(base / "bin/wherry")


def test_debian_layout(site: Path, wheel: Path) -> None:
    """As a package would lay it: PREFIX/lib/python3.N/dist-packages beside PREFIX/bin."""
    prefix = site / "prefix"
    packages = prefix / f"lib/{PYTHON}/dist-packages"
    venv = make_venv(site / "source", wheel)
    shutil.copytree(venv / f"lib/{PYTHON}/site-packages", packages)
    (prefix / "bin").mkdir()
    shutil.copy(venv / "bin/wherry", prefix / "bin")
    script = (venv / "bin/wherry-python").read_text()
    (prefix / "bin/wherry-python").write_text(f"#!{SYSTEM}\n" + script.partition("\n")[2])
    loaded_by(prefix / "bin/wherry")


def test_packages_that_only_site_knows(site: Path, wheel: Path) -> None:
    """As an editable installation: a .pth file leads to the package."""
    venv = make_venv(site / "pth", wheel)
    packages = venv / f"lib/{PYTHON}/site-packages"
    elsewhere = site / "elsewhere"
    elsewhere.mkdir()
    (packages / "wherry").rename(elsewhere / "wherry")
    (packages / "wherry.pth").write_text(f"{elsewhere}\n")
    loaded_by(venv / "bin/wherry")


def test_editable(site: Path, source: Path, wheel: Path) -> None:
    """pip install --editable, as a contributor does it."""
    venv = site / "editable"
    run([SYSTEM, "-m", "venv", "--without-pip", "--system-site-packages", str(venv)])
    packages = venv / f"lib/{PYTHON}/site-packages"
    (packages / "tests-own.pth").write_text(str(Path(_cffi_backend.__file__).parent) + "\n")
    run([sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "install", *building(site), "--editable", str(source)], timeout=240, env=TOOLS)
    loaded_by(venv / "bin/wherry")


def test_venv_with_a_long_path_with_spaces(site: Path, wheel: Path) -> None:
    """Longer than the kernel lets a first line be, and one that it would split."""
    venv = make_venv(site / ("long " * 40) / ("y" * 120), wheel)
    loaded_by(venv / "bin/wherry")


def uv(*words: str | Path, **environment: str) -> None:
    """Without the network, its caches, or a Python of its own."""
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not found:
        pytest.skip("SKIPPED, LOUDLY: no uv beside the tests' Python (pip install uv)")
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", **environment}
    run([found, "--offline", "--no-cache", "--no-config", "--quiet", *map(str, words)], env=env)


def make_uv_venv(place: Path, wheel: Path, *options: str) -> Path:
    uv("venv", "--python", SYSTEM, *options, place)
    uv("pip", "install", "--no-deps", "--no-index", "--python", place / "bin/python", wheel)
    give_backend(place / f"lib/{PYTHON}/site-packages")
    return place


def test_uv_venv(site: Path, wheel: Path) -> None:
    venv = make_uv_venv(site / "uv", wheel)
    assert (venv / "bin/wherry-python").read_text().startswith(f"#!{venv}/bin/python")
    loaded_by(venv / "bin/wherry")


def test_uv_venv_that_is_moved(site: Path, wheel: Path) -> None:
    make_uv_venv(site / "uv-before", wheel, "--relocatable").rename(site / "uv-after")
    assert (site / "uv-after/bin/wherry-python").read_text().startswith("#!/bin/sh\n")
    loaded_by(site / "uv-after/bin/wherry")


def test_uv_tool(site: Path, wheel: Path) -> None:
    """A venv of its own, and links to its programs."""
    excluded = site / "excluded"
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    excluded.write_text("".join(f"{re.match('[A-Za-z0-9_-]+', need)[0]}\n" for need in needed))  # type: ignore[index]
    places = {"UV_TOOL_DIR": str(site / "tools"), "UV_TOOL_BIN_DIR": str(site / "tool-bin")}
    uv("tool", "install", "--no-index", "--excludes", excluded, "--python", SYSTEM, wheel, **places)
    give_backend(site / f"tools/wherry/lib/{PYTHON}/site-packages")
    assert (site / "tool-bin/wherry").resolve() == site / "tools/wherry/bin/wherry"
    loaded_by(site / "tool-bin/wherry")


def test_no_interpreter_at_all(site: Path, wheel: Path) -> None:
    venv = make_venv(site / "gone", wheel)
    for name in ("python", "python3", PYTHON):
        (venv / "bin" / name).unlink(missing_ok=True)
    done = subprocess.run([str(venv / "bin/wherry"), "list"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert f"{venv}/bin/python" in done.stderr
    assert f"{venv}/bin/python3" in done.stderr


def test_program_and_package_of_different_builds(site: Path, wheel: Path) -> None:
    """The front of one build with the Python of another: said, not muddled through."""
    venv = make_venv(site / "mixed", wheel)
    program = venv / "bin/wherry"
    data = bytearray(program.read_bytes())
    ours = run([str(venv / "bin/python"), "-c", "from wherry.kernel.native import build_id; print(build_id().hex())"]).stdout.strip()
    at = data.find(bytes.fromhex(ours))
    assert at > 0
    data[at] ^= 0xFF
    program.write_bytes(data)
    done = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=30)
    assert "build" in (done.stdout + done.stderr).lower()
