# SPDX-License-Identifier: Apache-2.0
"""containerd and Docker of newer Debian suites than this machine's, in a cache outside the repository.

Their packages are unpacked, not installed: each program gets the interpreter and the libraries that came with it, and otherwise lives in this machine's
world. Fetched once, signatures checked, from the mirror that apt is set up with, into ${WHERRY_NEWER:-~/.cache/wherry-newer}/SUITE.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = {"trixie": "containerd,docker.io,docker-cli", "sid": "containerd"}
PROGRAMS = ("containerd", "ctr", "dockerd", "docker", "docker-proxy")
PLACE = Path(os.environ.get("WHERRY_NEWER") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wherry-newer")


def tools(suite: str) -> Path:
    """The directory of a suite's programs. Skips where it cannot be had."""
    place = PLACE / suite
    if not (place / "bin").is_dir():
        fetch(suite, place)
    return place / "bin"


def fetch(suite: str, place: Path) -> None:
    for command in ("mmdebstrap", "patchelf", "apt-get"):
        if not shutil.which(command):
            pytest.skip(f"SKIPPED, LOUDLY: no {command}, so the containerd of {suite} cannot be had")
    listed = subprocess.run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Identifier: Packages"], capture_output=True, text=True).stdout
    mirrors = [line.split()[1] for line in listed.splitlines() if line.startswith("Debian ") and "security" not in line]
    fresh = place.with_name(f"{suite}.{os.getpid()}")
    # the index of a suite that moves may be past its date; that check alone is waived, the signature is not
    argv = ["mmdebstrap", "--quiet", "--aptopt=Acquire::Check-Valid-Until \"false\"", "--aptopt=APT::Install-Recommends \"false\"", "--variant=extract",
            f"--include={PACKAGES[suite]}", suite, str(fresh / "root"), f"deb {mirrors[0]} {suite} main"] if mirrors else ["false"]  # fmt: skip
    fresh.mkdir(parents=True, exist_ok=True)
    try:
        if not mirrors or subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=170).returncode:
            pytest.skip(f"SKIPPED, LOUDLY: the packages of {suite} cannot be had, nothing was tested with its containerd")
        (fresh / "root").rename(place / "root") if place.is_dir() else fresh.rename(place)
        adapt(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def adapt(place: Path) -> None:
    root, ready = place / "root", place / "bin.new"
    ready.mkdir(exist_ok=True)
    for name in PROGRAMS:
        found = next((path for path in (root / "usr/bin" / name, root / "usr/sbin" / name) if path.exists()), None)
        if found:
            shutil.copy(found, ready / name)
            libraries = ["--force-rpath", "--set-interpreter", f"{root}/usr/lib64/ld-linux-x86-64.so.2", "--set-rpath", f"{root}/usr/lib/x86_64-linux-gnu"]
            subprocess.run(["patchelf", *libraries, str(ready / name)], check=True)
    ready.rename(place / "bin")
