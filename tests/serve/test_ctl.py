# SPDX-License-Identifier: Apache-2.0
"""wherry-shim ctl against a real server: what a person does, and what is said when it cannot be done."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle

from .driver import PROGRAM, Server
from .people import Ctl, Terminal

pytestmark = pytest.mark.requires("root")
HOLD = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


@pytest.fixture
def ctl(server: Server) -> Ctl:
    return Ctl(server)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for one in made:
        one.close()


# ---- pipes


def test_a_life(ctl: Ctl, bundle: Bundle) -> None:
    bundle.shell("echo out; echo err >&2; exit 7").save()
    assert ctl.run("create", "--name", "a", "--label", "app=web", str(bundle.path)) == "a\n"
    assert "created" in ctl.run("ps", "-a") and ctl.run("ps", "-q") == ""
    assert ctl.run("start", "a") == "a\n"
    assert ctl.run("wait", "a") == "7\n"
    logs = ctl.both("logs", "a")
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")
    assert ctl.run("logs", "--stderr", "a") == ""
    listed = json.loads(ctl.run("ps", "-a", "--json", "--filter", "label=app=web", "--filter", "status=stopped"))
    assert (listed["id"], listed["exit"]["status"]) == ("a", 7)
    assert "exited (7)" in ctl.run("ps", "-a") and ctl.run("ps", "-aq", "--filter", "label=app=db") == ""
    assert json.loads(ctl.run("inspect", "a"))[0]["labels"] == {"app": "web"}
    assert ctl.run("rm", "a") == "a\n"
    seen = [json.loads(line)["type"] for line in ctl.run("events", "--no-follow", "--json", "--filter", "id=a").splitlines()]
    assert seen == ["created", "started", "exit", "stopped", "deleted"]


def test_run_stays_with_it(ctl: Ctl, bundle: Bundle) -> None:
    bundle.shell("echo out; echo err >&2; exit 7").save()
    done = ctl.both("run", "--rm", "--name", "a", str(bundle.path))
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert ctl.run("ps", "-aq") == ""
    done = ctl.both("run", "--rm", "-e", "A=1", "-e", "TERM", "-w", "/tmp", str(bundle.path), "sh", "-c", "echo $A $TERM $PWD")
    assert done.stdout == "1 xterm /tmp\n"
    done = ctl.both("run", "--rm", "-i", str(bundle.path), "cat", input="typed\n")
    assert done.stdout == "typed\n"


def test_run_detached(ctl: Ctl, bundle: Bundle) -> None:
    bundle.shell(HOLD).save()
    assert ctl.run("run", "-d", "--rm", "--name", "a", str(bundle.path)) == "a\n"
    assert "running" in ctl.run("ps") and "sleep" in ctl.run("top", "a")
    assert ctl.run("pause", "a") == "a\n" and "paused" in ctl.run("ps")
    assert ctl.run("unpause", "a") == "a\n"
    assert ctl.run("update", "--pids", "77", "--label", "x=y", "--restart", "on-failure:3", "a") == "a\n"
    one = json.loads(ctl.run("inspect", "a"))[0]
    assert (one["labels"], one["restart"]["when"], one["restart"]["limit"]) == ({"x": "y"}, "on-failure", 3)
    sample = json.loads(ctl.run("stats", "--once", "--json"))
    assert sample["id"] == "a" and sample["pids_limit"] == 77
    assert ctl.run("stats", "--once").splitlines()[0].startswith("ID")
    assert ctl.run("stop", "-t", "5", "a") == "a\n"
    assert ctl.run("wait", "--until", "removed", "a") == "0\n"  # gone already: --rm
    assert ctl.run("ps", "-aq") == ""


def test_exec(ctl: Ctl, bundle: Bundle) -> None:
    bundle.shell(HOLD).save()
    ctl.run("run", "-d", "--name", "a", str(bundle.path))
    done = ctl.both("exec", "-e", "A=1", "-w", "/tmp", "-u", "1000", "a", "sh", "-c", "echo $A $PWD $(id -u); echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "1 /tmp 1000\n", "err\n")
    done = ctl.both("exec", "-i", "a", "cat", input="x" * 200_000)
    assert done.stdout == "x" * 200_000
    id = ctl.run("exec", "-d", "a", "sh", "-c", "echo kept; exit 3").strip()
    assert ctl.both("attach", "--exec", id, "a").stdout == "kept\n"
    assert ctl.both("exec", "--timeout", "300ms", "a", "sleep", "100").returncode in (137, 124)


def test_exit_codes_of_what_cannot_be_executed(ctl: Ctl, bundle: Bundle, make_bundle: Callable[[], Bundle]) -> None:
    bundle.shell(HOLD).save()
    other = make_bundle().save()
    ctl.run("run", "-d", "--name", "a", str(bundle.path))
    assert '"missing"' in ctl.run("exec", "a", "missing", code=127)
    assert '"/etc"' in ctl.run("exec", "a", "/etc", code=126)
    assert "NOT_FOUND" in ctl.run("exec", "b", "true", code=125)
    assert '"missing"' in ctl.run("run", "--rm", str(other.path), "missing", code=127)
    assert "ALREADY_EXISTS" in ctl.run("run", "--name", "a", str(bundle.path), code=125)
    assert ctl.run("ps", "-aq") == "a\n"  # what failed left nothing


def test_errors_name_code_place_and_remedy(ctl: Ctl, bundle: Bundle, place: Path) -> None:
    bundle.mount("/data", place / "missing", "bind", ["rbind"]).save()
    said = ctl.run("run", str(bundle.path), code=125)
    assert "/mounts/" in said and "missing" in said and "[" in said
    assert "make the source" in said
    said = ctl.run("rm", "nothing", code=125)
    assert "NOT_FOUND" in said and "remedy" in said
    assert "Traceback" not in said and "Traceback" in ctl.run("--debug", "rm", "nothing", code=125)
    assert "remedy: is a server there?" in ctl.run("--address", "unix:///run/nowhere/x", "ps", code=125)
    for words in (["run"], ["kill", "-s", "FOO", "a"], ["run", "--restart", "sometimes", str(bundle.path)], ["events", "--filter", "x=1"], ["exec", "a"]):
        assert "Usage" in ctl.run(*words, code=125)
    bundle.config["process"]["cwd"] = "relative"
    bundle.save()
    assert ctl.both("validate", str(bundle.path)).returncode == 1
    assert "/process/cwd" in ctl.both("validate", "--config", str(bundle.path / "config.json")).stdout


def test_what_is_asked_before_anything_runs(ctl: Ctl, bundle: Bundle) -> None:
    bundle.save()
    assert "execute the program" in ctl.run("plan", str(bundle.path))
    assert json.loads(ctl.run("plan", "--json", str(bundle.path)))["steps"]
    assert ctl.run("validate", str(bundle.path)) == ""
    assert json.loads(ctl.run("version", "--json"))["server"]["role"] == "admin"
    assert json.loads(ctl.run("info"))["features"]["ociVersionMax"]
    assert "Validate" in ctl.run("audit")


def test_streams_go_on_over_a_servers_death(ctl: Ctl, server: Server, bundle: Bundle) -> None:
    bundle.shell("i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; exit 4").save()
    run = ctl.begin("run", "--name", "a", str(bundle.path))
    server.until(lambda: ctl.run("ps", "-q") == "a\n")
    events, logs, wait = ctl.begin("events", "--since", "oldest", "--json"), ctl.begin("logs", "-f", "a"), ctl.begin("wait", "a")
    time.sleep(1)
    server.restart()
    time.sleep(0.5)
    server.restart()
    lines = "".join(f"line {number}\n" for number in range(40))
    assert run.communicate(timeout=30)[0] == lines and run.returncode == 4
    assert logs.communicate(timeout=30)[0] == lines and logs.returncode == 0
    assert wait.communicate(timeout=30)[0] == "4\n"
    events.send_signal(signal.SIGINT)
    seen = [json.loads(line)["type"] for line in events.communicate(timeout=30)[0].splitlines()]
    assert seen == ["created", "started", "exit", "stopped"] and events.returncode == 130


def test_signals_are_passed_on(ctl: Ctl, server: Server, bundle: Bundle) -> None:
    bundle.shell("trap 'echo usr1' USR1; trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done").save()
    run = ctl.begin("run", "--rm", "--name", "a", str(bundle.path))
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGUSR1)
    assert run.stdout.readline() == "usr1\n"
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 9
    run.stdout.close()


def test_a_reader_that_has_enough(ctl: Ctl, bundle: Bundle) -> None:
    bundle.shell("seq 1 20000").save()
    ctl.run("run", "-d", "--name", "a", str(bundle.path))
    ctl.run("wait", "a")
    logs = ctl.begin("logs", "a", stderr=subprocess.PIPE)
    assert logs.stdout is not None and logs.stdout.readline() == "1\n"
    logs.stdout.close()
    assert logs.wait(30) == 141 and logs.stderr is not None and logs.stderr.read() == ""
    logs.stderr.close()


def test_restarts_and_probes(ctl: Ctl, server: Server, bundle: Bundle) -> None:
    bundle.shell(HOLD).save()
    ctl.run("run", "-d", "--name", "a", "--restart", "always", "--restart-backoff", "50ms", "--probe", "true", "--probe-interval", "200ms", str(bundle.path))
    assert ctl.run("wait", "--until", "healthy", "a") == "healthy\n"
    assert "healthy" in ctl.run("ps")
    ctl.run("kill", "a")
    server.until(lambda: json.loads(ctl.run("inspect", "a"))[0]["run"] == 2)
    ctl.run("wait", "--until", "healthy", "a")
    one = json.loads(ctl.run("inspect", "--plan", "a"))[0]
    assert [end["run"] for end in one["exits"]] == [1] and one["last_probe"]["status"] == 0 and one["probe_failures"] == 0
    assert one["args"] == one["config"]["process"]["args"] == ["/bin/sh", "-c", HOLD] and one["plan"]["steps"]
    assert ctl.run("inspect", "--format", "{{.exit.status}} {{.restart.when}}", "a") == "137 always\n"
    ctl.run("rm", "-f", "a")


def test_what_a_person_looks_for(ctl: Ctl, make_bundle: Callable[[], Bundle]) -> None:
    one, other = make_bundle().shell(HOLD).save(), make_bundle().shell("exit 3").save()
    assert ctl.run("run", "--name", "done", str(other.path), code=3) == ""
    ctl.run("run", "-d", "--name", "web", str(one.path))
    head, line = ctl.run("ps").splitlines()
    assert head.split() == ["ID", "COMMAND", "CREATED", "STATUS", "PID", "RESTARTS", "POLICY", "BUNDLE", "LABELS"]
    assert line.startswith("web  /bin/sh -c") and "…" in line and "ago " in line and "running" in line and "sleep 0.1; done" in ctl.run("ps", "--no-trunc")
    assert ctl.run("ps", "-aq").split() == ["web", "done"] and ctl.run("ps", "-n", "1", "-q") == "web\n", "the newest first"
    assert ctl.run("ps", "-q", "--filter", "exited=3") == "done\n" and ctl.run("ps", "-aq", "--filter", "exited=4") == ""
    assert ctl.run("ps", "-a", "--format", "{{.ID}}:{{.State}}:{{.Image}}") == f"web:running:{one.path}\ndone:stopped:{other.path}\n"
    assert json.loads(ctl.run("ps", "--format", "json"))["id"] == "web"
    assert "--format" in ctl.run("ps", "--format", "{{.x}}", code=125) and "--filter" in ctl.run("ps", "--filter", "x=1", code=125)
    assert ctl.run("restart", "-t", "0", "web") == "web\n"
    assert ctl.run("ps", "--format", "{{.run}} {{.exit.reason}}") == "2 stopped\n"
    assert ctl.run("pause", "web") == ctl.run("resume", "web") == "web\n"
    assert ctl.run("prune") == "done\n" and ctl.run("ps", "-aq") == "web\n"
    ctl.run("rm", "-f", "web")


def test_attach_and_the_runs_that_follow(ctl: Ctl, server: Server, bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    """Without --follow it ends with its run, and says that another one begins; `run` stays to the last one."""
    bundle.shell("echo run; sleep 0.3; exit 4").save()
    again = ("--restart", "on-failure:1", "--restart-backoff", "500ms")
    done = ctl.both("run", *again, "--name", "a", str(bundle.path))
    assert (done.returncode, done.stdout) == (4, "run\nrun\n")
    bundle.shell("until [ -e /tmp/go ]; do sleep 0.05; done; echo run; exit 4").save()
    ctl.run("run", "-d", *again, "--name", "b", str(bundle.path))
    short, whole = ctl.begin("attach", "b"), ctl.begin("attach", "-f", "b")
    server.until(lambda: (server.data / "audit").read_text().count("BEGUN") == 3)
    (bundle.rootfs / "tmp/go").write_text("")
    assert whole.communicate(timeout=30)[0] == "run\nrun\n" and whole.returncode == 4
    assert short.communicate(timeout=30)[0] == "run\n" and short.returncode == 4
    assert capfd.readouterr().err.count("run 1 has ended (4), and b begins anew") == 1


# ---- a terminal


def test_a_terminal(ctl: Ctl, bundle: Bundle, terminals: list[Terminal]) -> None:
    bundle.args("sh").save()
    terminals.append(at := ctl.at_a_terminal("run", "--rm", "-it", "--name", "a", str(bundle.path)))
    at.type("stty size; tty; echo $TERM\n")
    assert "24 80" in at.until("xterm")
    at.resize(100, 30)
    at.type("sleep 0.3; stty size\n")
    at.until("30 100")
    at.type("sleep 100\n")
    at.until("sleep 100")
    time.sleep(0.3)
    at.type("\x03")  # the process's, not ctl's
    at.type("exit 6\n")
    assert at.end() == 6
    assert ctl.run("ps", "-aq") == ""


def test_leave_and_come_back(ctl: Ctl, bundle: Bundle, terminals: list[Terminal]) -> None:
    bundle.args("sh").save()
    terminals.append(at := ctl.at_a_terminal("run", "-it", "--name", "a", str(bundle.path)))
    at.type("X=kept\n")
    at.type("echo $X$X\n")
    at.until("keptkept")
    at.type("\x10\x11")
    assert at.end() == 0
    assert "running" in ctl.run("ps")
    terminals.append(again := ctl.at_a_terminal("attach", "--detach-keys", "ctrl-x,x", "a"))
    time.sleep(1)
    again.type("echo $X-again\n")
    again.until("kept-again")
    again.type("\x18x")
    assert again.end() == 0
    terminals.append(last := ctl.at_a_terminal("attach", "a"))
    time.sleep(1)
    last.type("exit 2\n")
    assert last.end() == 2


def test_exec_with_a_terminal_survives_the_servers_death(ctl: Ctl, server: Server, bundle: Bundle, terminals: list[Terminal]) -> None:
    bundle.shell(HOLD).save()
    ctl.run("run", "-d", "--name", "a", str(bundle.path))
    terminals.append(at := ctl.at_a_terminal("exec", "-it", "a", "sh"))
    at.type("X=kept; echo $X-1\n")
    at.until("kept-1")
    server.kill()
    at.type("echo $X-2\n")  # typed while no server is there
    time.sleep(0.3)
    at.resize(101, 31)
    server.start()
    at.until("kept-2")
    at.type("stty size; echo $X-3\n")
    assert "31 101" in at.until("kept-3")
    server.restart()
    at.type("echo $X-4; exit 8\n")
    seen = at.until("kept-4")
    assert seen.count("kept-3") == 0 and at.end() == 8


def test_the_terminal_is_given_back_when_the_server_never_comes_back(ctl: Ctl, server: Server, bundle: Bundle, terminals: list[Terminal]) -> None:
    bundle.shell(HOLD).save()
    ctl.run("run", "-d", "--name", "a", str(bundle.path))
    terminals.append(at := ctl.at_a_terminal("exec", "-it", "a", "sh"))
    at.type("echo $((40+2))\n")
    at.until("42")
    server.kill()
    at.type("\x10\x11")  # leaving needs no server
    assert at.end() == 0
    server.start()
    terminals.append(other := ctl.at_a_terminal("exec", "--no-sig-proxy", "-it", "a", "sh"))
    other.type("echo $((40+2))\n")
    other.until("42")
    os.kill(other.process.pid, signal.SIGTERM)
    assert other.end() == 128 + 15


def test_a_terminal_that_is_none(ctl: Ctl, bundle: Bundle) -> None:
    bundle.shell("tty; exit 3").save()
    assert "-t wants a terminal" in ctl.run("run", "-it", str(bundle.path), code=125)
    done = ctl.both("run", "--rm", "-t", str(bundle.path))
    assert "/dev/pts" in done.stdout and done.returncode == 3


def test_stats_that_are_drawn_anew(ctl: Ctl, bundle: Bundle, terminals: list[Terminal]) -> None:
    bundle.shell(HOLD).save()
    ctl.run("run", "-d", "--name", "a", str(bundle.path))
    terminals.append(at := ctl.at_a_terminal("stats", "--interval", "200ms"))
    at.until("MEMORY")
    assert "a" in at.until("KiB") + at.until("KiB")
    at.type("\x03")
    assert at.end() == 130


def test_completion(ctl: Ctl, bundle: Bundle) -> None:
    bundle.save()
    ctl.run("create", "--name", "alpha", str(bundle.path))
    for shell in ("bash", "zsh", "fish"):
        assert "_WHERRY_SHIM_COMPLETE" in ctl.run("completion", shell)
    environment = {**ctl.environment, "_WHERRY_SHIM_COMPLETE": "bash_complete", "COMP_WORDS": "wherry-shim ctl rm al", "COMP_CWORD": "3"}
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, timeout=30)
    assert "alpha" in done.stdout
    environment |= {"COMP_WORDS": "wherry-shim ctl rm alpha al", "COMP_CWORD": "4"}
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, timeout=30)
    assert "alpha" not in done.stdout, "it is there already"
    ctl.run("start", "alpha")
    ctl.run("exec", "-d", "--exec-id", "beta", "alpha", "sleep", "1000")
    environment |= {"COMP_WORDS": "wherry-shim ctl kill alpha --exec be", "COMP_CWORD": "5"}
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, timeout=30)
    assert "beta" in done.stdout
    environment |= {"COMP_WORDS": "wherry-shim ctl p", "COMP_CWORD": "2"}
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, timeout=30)
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == {"ps", "pause", "plan", "prune"}
