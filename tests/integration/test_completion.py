# SPDX-License-Identifier: Apache-2.0
"""Completion in the real shells, and the man pages through the real roff."""

import os
import pty
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.console import read_until
from harness.runtime import Runtime
from wherry.cli import VERBS

pytestmark = [pytest.mark.ours, pytest.mark.one_way]


def script(runtime: Runtime, shell: str, place: Path) -> Path:
    file = place / f"completion.{shell}"
    file.write_text(runtime("completion", shell).out)
    return file


def need(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"requires {program}")


@pytest.fixture
def bash(runtime: Runtime, place: Path):  # type: ignore[no-untyped-def]
    """Completes a line at its end: bash's own words, split where bash splits them."""
    need("bash")
    file = script(runtime, "bash", place)

    def complete(*words: str) -> list[str]:
        line = " ".join(shlex.quote(word) for word in ("wherry", *words))
        text = f"PATH={Path(runtime.command).parent}:$PATH; source {file}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _wherry; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "--norc", "--noprofile", "-c", text], capture_output=True, text=True, timeout=30, cwd=place, env=runtime.env)
        assert done.stderr == "", done.stderr
        return done.stdout.split()

    return complete


def test_bash_verbs_and_flags(bash) -> None:  # type: ignore[no-untyped-def]
    assert bash("") == list(VERBS)
    assert bash("st") == ["start", "state", "stats"]
    assert bash("--ro") == ["--root", "--rootless"]
    assert "--bundle" in bash("create", "-") and "-b" in bash("create", "-") and "--help" in bash("create", "-")
    assert bash("create", "--no") == ["--no-pivot", "--no-new-keyring"]
    assert bash("delete", "x", "--f") == ["--force"]
    assert bash("--root", "/x", "de") == ["delete"], "the value of a flag is no verb"


def test_bash_values(bash, place: Path) -> None:  # type: ignore[no-untyped-def]
    (place / "dir-one").mkdir()
    (place / "dir.file").touch()
    assert bash("--log-format", "") == ["text", "json"]
    assert bash("--log-format", "=", "j") == ["json"]
    assert bash("--cgroup-manager", "=") == ["cgroupfs", "systemd", "disabled"]
    assert bash("stats", "-f", "") == ["table", "json", "prometheus"]
    assert bash("create", "--bundle", "dir") == ["dir-one"]
    assert sorted(bash("create", "-pid-file", "dir")) == ["dir-one", "dir.file"]
    assert bash("setup", "") == ["docker", "podman", "containerd", "crio", "buildah"]
    assert bash("completion", "z") == ["zsh"]
    assert bash("create", "") == [], "a new container has no name yet"
    assert bash("run", "--hostname", "") == []


@pytest.mark.requires("root")
def test_bash_containers(bash, runtime: Runtime, bundle: Bundle) -> None:  # type: ignore[no-untyped-def]
    container = runtime.create(bundle)
    root = ("--root", str(runtime.root))
    assert bash(*root, "start", "") == [container.id]
    assert bash(*root, "delete", "--force", container.id[:-1]) == [container.id]
    assert bash("--root", "=", str(runtime.root), "state", "") == [container.id]
    assert bash(*root, "stats", container.id, "") == [container.id], "one after the other"
    assert bash(*root, "state", container.id, "") == []
    assert "KILL" in bash(*root, "kill", container.id, "") and bash(*root, "kill", container.id, "US") == ["USR1", "USR2"]
    assert bash("--root", "/nonexistent", "start", "") == []


def test_bash_at_a_terminal(runtime: Runtime, place: Path) -> None:
    need("bash")
    file = script(runtime, "bash", place)
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {"PATH": f"{Path(runtime.command).parent}:/usr/bin:/bin", "TERM": "dumb", "PS1": "> "})
    try:
        read_until(master, "> ")
        os.write(master, f"source {file}; echo rea''dy\n".encode())
        read_until(master, "ready")
        os.write(master, b"wherry feat\t")
        read_until(master, "wherry features ")
        os.write(master, b"\x15wherry --log-format=js\t")
        read_until(master, "--log-format=json ")
    finally:
        os.write(master, b"\x15exit\n")
        os.waitpid(pid, 0)
        os.close(master)


def test_fish(runtime: Runtime, place: Path) -> None:
    need("fish")
    file = script(runtime, "fish", place)

    def complete(line: str) -> list[str]:
        done = subprocess.run(["fish", "--no-config", "-c", f"source {file}; complete -C {shlex.quote(line)}"], capture_output=True, text=True, timeout=30, env={**runtime.env, "HOME": str(place)})
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return [row.split("\t")[0] for row in done.stdout.splitlines()]

    assert set(VERBS) <= set(complete("wherry "))
    assert sorted(complete("wherry sta")) == ["start", "state", "stats"]
    assert complete("wherry --log-format j") == ["json"]
    assert {"--bundle", "--pid-file"} <= set(complete("wherry create --"))
    assert complete("wherry stats --format pro") == ["prometheus"]


def test_zsh(runtime: Runtime, place: Path) -> None:
    need("zsh")
    file = script(runtime, "zsh", place)
    subprocess.run(["zsh", "-n", str(file)], check=True, timeout=30)
    text = f"autoload -U compinit; compinit -D -u; source {file}; print $_comps[wherry]"
    done = subprocess.run(["zsh", "-fc", text], capture_output=True, text=True, timeout=30, env={**runtime.env, "HOME": str(place)})
    assert (done.stdout, done.stderr) == ("_wherry\n", "")


def test_zsh_at_a_terminal(runtime: Runtime, place: Path) -> None:
    need("zsh")
    file = script(runtime, "zsh", place)
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {"PATH": f"{Path(runtime.command).parent}:/usr/bin:/bin", "TERM": "vt100", "PS1": "> ", "HOME": str(place)})
    try:
        os.write(master, f"autoload -U compinit; compinit -D -u; source {file}; echo rea''dy\n".encode())
        read_until(master, "\nready")
        os.write(master, b"wherry feat\t")
        read_until(master, "features")
        os.write(master, b"\x15wherry stats --format pro\t")
        read_until(master, "prometheus")
    finally:
        os.write(master, b"\x15exit\n")
        os.waitpid(pid, 0)
        os.close(master)


def test_man_pages(runtime: Runtime, place: Path) -> None:
    written = [Path(line) for line in runtime("man", str(place)).out.splitlines()]
    assert {path.name for path in written} == {"wherry.1", *(f"wherry-{verb}.1" for verb in VERBS if verb != "help")}
    need("groff")
    for path in written:
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", str(path)], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, ""), path
    need("man")
    done = subprocess.run(["man", "--warnings", "-l", str(place / "wherry-create.1")], capture_output=True, text=True, timeout=30, env={**runtime.env, "MANWIDTH": "80"})
    text = re.sub("\x1b\\[[0-9;]*m|.\x08", "", done.stdout)
    assert done.returncode == 0 and done.stderr == "" and "--pid-file PATH" in text and "WHERRY-CREATE(1)" in text


def test_a_place_that_is_not_there(runtime: Runtime, place: Path) -> None:
    result = runtime("man", str(place / "none"), check=False)
    assert result.code == 1 and "no such directory" in result.err
    result = runtime("completion", "tcsh", check=False)
    assert result.code == 1 and "one of: bash, zsh, fish" in result.err


def test_they_are_installed(runtime: Runtime, place: Path) -> None:
    share = Path(runtime.command).resolve().parents[1] / "share"
    if not (share / "man/man1/wherry.1").exists():
        pytest.skip("requires a package that was built where all modules of the verbs can be imported")
    for line in runtime("man", str(place)).out.splitlines():
        assert (share / "man/man1" / Path(line).name).read_text() == Path(line).read_text()
    for name, shell in (("bash-completion/completions/wherry", "bash"), ("zsh/site-functions/_wherry", "zsh"), ("fish/vendor_completions.d/wherry.fish", "fish")):
        assert (share / name).read_text() == runtime("completion", shell).out
