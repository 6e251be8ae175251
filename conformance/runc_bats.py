# SPDX-License-Identifier: Apache-2.0
"""opencontainers/runc, tests/integration: bats files that call whatever stands in RUNC.

The checkout must be ready: the suite's helper programs built by the suite's own Makefile (`make test-binaries`), and its two images in
tests/integration/testdata (it downloads them itself; images.py makes stand-ins from Debian's packages where it cannot).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import tap
import terminal

TITLE = re.compile(r'^@test "(.*)" \{')
CGROUPS = ("runc-cgroups-integration-test",)  # that it leaves
CASE_SECONDS, SECONDS_EACH = 90, 8  # what one may take; what each adds to that of its file
NEEDED = {"bats": "bats", "jq": "jq", "gawk": "gawk", "go": "golang-go"}  # `go env GOARCH` is how the suite finds its images


def lacking(checkout: Path) -> list[str]:
    """What keeps the suite from running here."""
    lack = [f"{command} (apt-get install {package})" for command, package in NEEDED.items() if not shutil.which(command)]
    if not (checkout / "tests/integration/helpers.bash").exists():
        return [*lack, f"{checkout} is no checkout of opencontainers/runc"]
    if not (checkout / "tests/cmd/_bin/recvtty").exists():
        lack.append(f"the suite's helper programs (make -C {checkout} test-binaries)")
    if not list((checkout / "tests/integration/testdata").glob("busybox-*")):
        lack.append(f"the suite's images (tests/integration/get-images.sh there, or conformance/images.py {checkout})")
    return lack


def groups(checkout: Path) -> list[str]:
    return sorted(path.stem for path in (checkout / "tests/integration").glob("*.bats"))


def titles(file: Path) -> list[str]:
    return [found[1].replace('\\"', '"').replace("\\$", "$") for line in file.read_text().splitlines() if (found := TITLE.match(line))]


def environment(runtime: Path, place: Path) -> dict[str, str]:
    """The suite asks the name of the file to be runc, and creates containers whose users must be able to walk to their bundle."""
    link = place / "bin" / "runc"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(runtime)
    (place / "tmp").mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "GOROOT", "GOCACHE", "GOTOOLCHAIN", "RUNC_ALLOW_UNSAFE_TESTS") if name in os.environ}
    return {**kept, "RUNC": str(link), "TERM": "xterm", "TMPDIR": str(place / "tmp")}


def run(checkout: Path, runtime: Path, place: Path, group: str, only: str | None, log: Path) -> Iterator[tap.Case]:
    """The cases of one file. After one that hangs the rest are run one by one. (The suite's own `wait` waits for the timer of bats, so
    that BATS_TEST_TIMEOUT cannot be used.)"""
    file = checkout / "tests/integration" / f"{group}.bats"
    rest = [name for name in titles(file) if not only or re.search(only, name)]
    words = environment(runtime, place)
    text, alone = "", False
    while rest:
        first = rest[0]
        wanted = ["--filter", exactly(rest[0])] if alone else ["--filter", only] if only else []
        outcome = terminal.run(["bats", "--tap", *wanted, str(file)], words, checkout, CASE_SECONDS + (0 if alone else SECONDS_EACH * len(rest)))
        text += outcome.text
        log.write_text(text)
        for case in tap.parse(outcome.text)[1]:
            yield case
            rest = [name for name in rest if name != case.name]
        if rest and (first in rest if alone else outcome.status < 0 or outcome.status > 1):
            yield tap.Case(rest.pop(0), "died", ["its time was up" if outcome.status < 0 else f"bats ended with status {outcome.status}"])
        elif rest and not tap.parse(outcome.text)[1]:
            raise SystemExit(f"conformance: {file}: no verdict: {outcome.text}")
        alone = True


def exactly(name: str) -> str:
    return "^" + re.sub(r"([\\\[\](){}.*+?^$|/])", r"\\\1", name) + "$"


def version(checkout: Path) -> str:
    done = subprocess.run(["git", "-C", checkout, "describe", "--always", "--tags"], capture_output=True, text=True)
    return done.stdout.strip() or "version " + (checkout / "VERSION").read_text().strip()
