# SPDX-License-Identifier: Apache-2.0
"""How the front finds its Python, for each way of installing: a verb that Python answers works, and is quick where it can be.

Each installation is laid by pip from one wheel, built from this tree; the cffi backend is a copy of the tests' own.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
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
def wheel(site: Path) -> Path:
    """A wheel of this tree, from a build directory of its own."""
    argv = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(site / "wheels"),
            f"--config-settings=build-dir={site / 'build'}", str(ROOT)]  # fmt: skip
    run(argv, env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}, timeout=120)
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


def test_editable(site: Path) -> None:
    """pip install --editable, as a contributor does it."""
    source = site / "checkout"
    source.mkdir()
    files = run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]).stdout.split("\0") if (ROOT / ".git").exists() else []
    if not files:
        pytest.skip("SKIPPED, LOUDLY: no git checkout to make an editable installation of")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    venv = site / "editable"
    run([SYSTEM, "-m", "venv", "--without-pip", "--system-site-packages", str(venv)])
    packages = venv / f"lib/{PYTHON}/site-packages"
    (packages / "tests-own.pth").write_text(str(Path(_cffi_backend.__file__).parent) + "\n")
    argv = [sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "install", "-q", "--no-deps", "--no-build-isolation",
            "--editable", str(source)]  # fmt: skip
    run(argv, timeout=120, env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
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
