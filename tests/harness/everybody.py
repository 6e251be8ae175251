# SPDX-License-Identifier: Apache-2.0
"""An installation that every user of the machine may run: the one under test, copied to where they may read it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

USER = 64321
"""Nobody's id on a usual machine."""

PACKAGES = ("wherry", "cffi", "_cffi_backend", "pyseccomp", "jeepney", "rich", "pygments", "markdown_it", "mdurl", "jsonschema", "referencing", "rpds", "attr", "attrs")


def install(command: str, prefix: Path) -> Path:
    """bin/ and lib/ of the installation below `prefix`, for the system's own interpreter. Returns the command.
    Made once for each prefix."""
    if (prefix / "bin/wherry").exists():
        return prefix / "bin/wherry"
    binaries = Path(command).resolve().parent
    python = (binaries / "python").resolve()
    (site,) = (path for path in (binaries.parent / "lib").glob("python3*/site-packages") if (path / "wherry").is_dir())
    target = prefix / "lib" / site.parent.name / "site-packages"
    (prefix / "bin").mkdir(parents=True)
    target.mkdir(parents=True)
    for entry in site.iterdir():
        if entry.name.split(".")[0] in PACKAGES or entry.name.startswith("wherry-"):
            (shutil.copytree if entry.is_dir() else shutil.copy)(entry, target / entry.name)
    shutil.copy(command, prefix / "bin/wherry")
    text = (binaries / "wherry-python").read_text().partition("\n")[2]
    (prefix / "bin/wherry-python").write_text(f"#!{python}\n{text}")
    for path in (prefix / "bin").iterdir():
        path.chmod(0o755)
    subprocess.run(["chmod", "-R", "a+rX", str(prefix)], check=True)
    return prefix / "bin/wherry"


def as_user(argv: list[str], user: int = USER, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Runs it as an ordinary user, with no groups and an environment of nothing but PATH."""
    more.setdefault("env", {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    more.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(argv, user=user, group=user, extra_groups=[], cwd=more.pop("cwd", "/"), capture_output=True, text=True, timeout=60, **more)
