# SPDX-License-Identifier: Apache-2.0
"""The runner of the public suites: what it reads, how it counts, the terminal that it gives."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CONFORMANCE = Path(__file__).parents[2] / "conformance"
MODULES = ("tap", "table", "terminal", "runc_bats", "runtime_tools", "images", "bench_bed")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.syspath_prepend(str(CONFORMANCE))
    yield {name: __import__(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name, None)


TEXT = """1..4
ok 1 one works
not ok 2 two # of them
# (in test file x.bats, line 3)
#   `false' failed
ok 3 three # skip test requires rootless
ok 4 - four - with a dash
"""


def test_tap(modules: dict[str, Any]) -> None:
    planned, cases = modules["tap"].parse(TEXT)
    assert planned == 4
    assert [(case.name, case.verdict) for case in cases] == [
        ("one works", "passed"),
        ("two # of them", "failed"),
        ("three", "skipped"),
        ("four - with a dash", "passed"),
    ]
    assert cases[1].notes == ["(in test file x.bats, line 3)", "`false' failed"]
    assert cases[2].notes == ["test requires rootless"]


def test_a_title_selects_itself_alone(modules: dict[str, Any], tmp_path: Path) -> None:
    import re

    file = tmp_path / "a.bats"
    file.write_text('@test "run [a b] (c/d) x.y*" {\n}\n  @test "no title" {\n@test "with \\"quotes\\"" {\n')
    titles = modules["runc_bats"].titles(file)
    assert titles == ["run [a b] (c/d) x.y*", 'with "quotes"']
    assert re.search(modules["runc_bats"].exactly(titles[0]), titles[0])
    assert not re.search(modules["runc_bats"].exactly(titles[0]), "run [a b] (c/d) xzyy")


def test_after_a_case_that_hangs_each_other_has_its_verdict(modules: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["one", "hangs", "three", "four", "ends bats"]
    (tmp_path / "tests/integration").mkdir(parents=True)
    (tmp_path / "tests/integration/a.bats").write_text("".join(f'@test "{name}" {{\n}}\n' for name in names))
    outcome = modules["terminal"].Outcome

    def run(command: list[str], *_: object) -> Any:
        wanted = command[command.index("--filter") + 1][1:-1] if "--filter" in command else ""
        if not wanted:
            return outcome("1..5\nok 1 one\n", -1, 1.0)
        return outcome("", 1, 1.0) if wanted == "ends bats" else outcome(f"1..1\nok 1 {wanted}\n", 0, 1.0)

    monkeypatch.setattr(modules["terminal"], "run", run)
    found = modules["runc_bats"].run(tmp_path, tmp_path / "runc", tmp_path, "a", None, tmp_path / "log")
    assert [(case.name, case.verdict) for case in found] == [(name, "died" if name in ("hangs", "ends bats") else "passed") for name in names]


@pytest.mark.parametrize(
    ("text", "status", "verdict"),
    [
        ("ok 1\nok 2\n1..2\n", 0, "passed"),
        ("ok 1\nnot ok 2\n1..2\n", 0, "failed"),
        ("ok 1\n1..2\n", 0, "died"),
        ("ok 1\n", 2, "died"),
        ("1..0\n", 0, "skipped"),
        ("1..1\nok 1 # SKIP no such kernel\n", 0, "skipped"),
    ],
)
def test_verdict_of_a_validation_program(modules: dict[str, Any], text: str, status: int, verdict: str) -> None:
    outcome = modules["terminal"].Outcome(text, status, 1.0)
    assert modules["runtime_tools"].verdict(outcome, *modules["tap"].parse(text)) == verdict


def test_tables(modules: dict[str, Any]) -> None:
    case = modules["tap"].Case
    verdicts = {
        "ours": {"a": [case("x", "passed"), case("y|z", "failed")]},
        "theirs": {"a": [case("x", "passed"), case("y|z", "passed")]},
    }
    table = modules["table"]
    assert table.totals(verdicts)[1:] == [["ours", "1", "1", "0", "0", "2"], ["theirs", "2", "0", "0", "0", "2"]]
    assert table.differences(verdicts)[1:] == [["a", "y|z", "failed", "passed"]]
    assert "| a | y\\|z | failed | passed | ? |" in table.markdown("suite", "1.0", verdicts)
    assert table.text(verdicts).endswith("theirs  2       0       0        0     2")


def test_every_reason_names_a_kind(modules: dict[str, Any]) -> None:
    import re
    import tomllib

    for reasons in tomllib.loads((CONFORMANCE / "reasons.toml").read_text()).values():
        for place, why in reasons.items():
            re.compile(place)
            assert why.partition(":")[0] in ("machine", "runc", "wherry", "suite"), place


SCRIPT = """
import sys
import time
sys.path.insert(0, sys.argv[1])
import terminal
terminal.become_subreaper()
outcome = terminal.run(["sh", "-c", "tty; : < /dev/tty && echo controlling; (setsid sleep 1000 &) ; exit 3"], {"PATH": "/bin:/usr/bin"}, "/", 20)
print(outcome.status, "controlling" in outcome.text, "/dev/" in outcome.text, terminal.descendants())
print(terminal.run(["sleep", "1000"], {"PATH": "/bin:/usr/bin"}, "/", 0.3).status)
print(terminal.run(["/no/such"], {}, "/", 5).status)
"""


def test_terminal() -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-c", SCRIPT, CONFORMANCE], capture_output=True, text=True, timeout=50)
    assert done.stdout.splitlines() == ["3 True True []", "-1", "127"], done.stderr


def test_image_of_busybox(modules: dict[str, Any], tmp_path: Path) -> None:
    import tarfile
    from shutil import which

    if not which("busybox"):
        pytest.skip("needs busybox")
    modules["images"].busybox(tmp_path / "image")
    with tarfile.open(tmp_path / "image") as archive:
        names = archive.getnames()
        assert {"./bin/busybox", "./bin/sh", "./etc/passwd", "./dev"} <= set(names)
        assert archive.getmember("./bin/sh").islnk()


def test_a_bench_knows_what_a_killed_one_left(modules: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bed = modules["bench_bed"]
    gone = subprocess.Popen(["true"])
    gone.wait()
    for directory in (f"places/wherry-bench-{gone.pid}", f"cgroups/pids/wherry/wherry-bench-{gone.pid}-3", "places/wherry-bench-else"):
        (tmp_path / directory).mkdir(parents=True)
    lives = subprocess.Popen([sys.executable, "-c", "input()", "bench.py"], stdin=subprocess.PIPE)
    while not Path(f"/proc/{lives.pid}/cmdline").read_bytes():  # for a moment after its exec it has no arguments
        time.sleep(0.001)
    (tmp_path / f"places/wherry-bench-{lives.pid}").mkdir()
    monkeypatch.setattr(bed, "PLACES", (tmp_path / "places",))
    monkeypatch.setattr(bed, "CGROUPS", tmp_path / "cgroups")
    try:
        assert bed.left_by_others() == {f"wherry-bench-{gone.pid}"}
    finally:
        lives.communicate(b"\n")
    bed.remove(f"wherry-bench-{gone.pid}", patience=1)
    assert sorted(path.name for path in tmp_path.rglob("wherry-bench*")) == sorted(("wherry-bench-else", f"wherry-bench-{lives.pid}"))


def test_what_carries_the_tag_is_ended(modules: dict[str, Any]) -> None:
    bed = modules["bench_bed"]
    tag = f"wherry-bench-{os.getpid()}0000"
    process = subprocess.Popen(["sh", "-c", "read line", f"/var/tmp/{tag}/server"], stdin=subprocess.PIPE)
    another = subprocess.Popen(["sh", "-c", "read line", f"/var/tmp/{tag}1/server"], stdin=subprocess.PIPE)
    try:
        assert bed.tagged_processes(tag) == [process.pid]
    finally:
        for each in (process, another):
            each.communicate(b"\n")


def test_a_signal_unwinds(tmp_path: Path) -> None:
    program = "import sys, time; sys.path.insert(0, sys.argv[1]); import host\nwith host.ended_by_signals():\n try: print('ready', flush=True); time.sleep(60)\n finally: print('clean')"
    process = subprocess.Popen([sys.executable, "-c", program, str(CONFORMANCE)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.communicate(timeout=30)[0] == "clean\n"
    assert process.returncode == 128 + 15
