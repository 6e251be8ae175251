# SPDX-License-Identifier: Apache-2.0
"""Terminals: the console socket, /dev/console, size, controlling terminal, an attached run on a terminal."""

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bundle import Bundle
from harness.console import Receiver, read_until
from harness.runtime import Runtime, wait_until

pytestmark = pytest.mark.requires("containers")


@pytest.fixture
def receiver(place: Path) -> Iterator[Receiver]:
    receiver = Receiver(place / "socket")
    yield receiver
    receiver.close()


@pytest.mark.v2
def test_console_socket(runtime: Runtime, bundle: Bundle, receiver: Receiver) -> None:
    bundle.process["terminal"] = True
    container = runtime.create(bundle.shell("tty; read line; echo got $line"), "--console-socket", receiver.path)
    master, name = receiver.receive()
    assert name
    container.start()
    read_until(master, "/dev/pts/0")
    os.write(master, b"words\n")
    read_until(master, "got words")
    os.close(master)
    assert container.wait() == 0


def test_terminal_is_the_controlling_one(runtime: Runtime, bundle: Bundle, receiver: Receiver) -> None:
    bundle.process["terminal"] = True
    container = runtime.create(bundle.shell("trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.1; done"), "--console-socket", receiver.path)
    master, _ = receiver.receive()
    container.start()
    read_until(master, "ready")
    os.write(master, b"\x03")
    read_until(master, "interrupted")
    assert container.wait() == 9
    os.close(master)


def test_console_size(runtime: Runtime, bundle: Bundle, receiver: Receiver) -> None:
    bundle.process.update({"terminal": True, "consoleSize": {"height": 33, "width": 111}})
    container = runtime.create(bundle.args("stty", "size"), "--console-socket", receiver.path)
    master, _ = receiver.receive()
    container.start()
    read_until(master, "33 111")
    os.close(master)
    container.wait()


def test_dev_console_is_the_terminal(runtime: Runtime, bundle: Bundle, receiver: Receiver) -> None:
    bundle.process["terminal"] = True
    container = runtime.create(bundle.shell("echo through > /dev/console; ls -l /dev/console; sleep 1000"), "--console-socket", receiver.path)
    master, _ = receiver.receive()
    container.start()
    read_until(master, "through")
    container.kill("KILL")
    container.wait()
    os.close(master)


@pytest.mark.requires("root")
def test_terminal_belongs_to_the_user(runtime: Runtime, bundle: Bundle, receiver: Receiver) -> None:
    bundle.process.update({"terminal": True, "user": {"uid": 1000, "gid": 1000}})
    container = runtime.create(bundle.shell("stat -c 'owner=%u' /dev/pts/0"), "--console-socket", receiver.path)
    master, _ = receiver.receive()
    container.start()
    read_until(master, "owner=1000")
    os.close(master)
    container.wait()


@pytest.mark.requires("root", "userns")
def test_terminal_in_a_user_namespace(runtime: Runtime, bundle: Bundle, receiver: Receiver) -> None:
    bundle.user_namespace().process["terminal"] = True
    container = runtime.create(bundle.args("tty"), "--console-socket", receiver.path)
    master, _ = receiver.receive()
    container.start()
    read_until(master, "/dev/pts/0")
    os.close(master)
    container.wait()


def test_terminal_without_console_socket_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    container = runtime.create(bundle, check=False)
    assert container.result.code == 1
    assert re.search(r"cannot allocate tty if \w+ will detach without setting console socket", container.stderr)
    assert not container.exists()


def test_console_socket_without_terminal_is_refused(runtime: Runtime, bundle: Bundle, receiver: Receiver) -> None:
    container = runtime.create(bundle, "--console-socket", receiver.path, check=False)
    assert container.result.code == 1
    assert re.search(r"cannot use console socket if \w+ will not detach or allocate tty", container.stderr)


def test_console_socket_that_is_none_is_refused(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    bundle.process["terminal"] = True
    container = runtime.create(bundle, "--console-socket", place / "nothing", check=False)
    assert container.result.code == 1
    assert not container.exists()


@pytest.mark.ours
def test_pidfd_socket(runtime: Runtime, bundle: Bundle, receiver: Receiver) -> None:
    container = runtime.create(bundle, "--pidfd-socket", receiver.path)
    pidfd, _ = receiver.receive()
    assert f"Pid:\t{container.pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)


@pytest.mark.ours  # runc wants a /dev/tty for that
@pytest.mark.parametrize("verb", ["run", "exec"])
def test_output_of_a_terminal_into_a_pipe_has_no_carriage_returns(runtime: Runtime, bundle: Bundle, verb: str) -> None:
    if verb == "exec":
        container = runtime.start_new(bundle)
        assert runtime("exec", "--tty", container.id, "echo", "words").out == "words\n"
        return
    bundle.process["terminal"] = True
    assert runtime.run(bundle.args("echo", "words")).out == "words\n"


def test_attached_run_on_a_terminal(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    bundle.shell("tty; stty size; read line; echo got $line; exit 6").save()  # carriage returns are the outer terminal's to add
    master, slave = pty.openpty()
    with subprocess.Popen(runtime.argv("run", "--bundle", bundle.path, runtime.new_id()), stdin=slave, stdout=slave, stderr=slave,
                          env=runtime.env, start_new_session=True) as process:  # fmt: skip
        os.close(slave)
        read_until(master, "/dev/pts/0")
        os.write(master, b"words\n")
        assert "got words\r\n" in read_until(master, "got words\r\n").replace("\r\r", "twice")
        wait_until(lambda: process.poll() is not None, "the end of run")
    os.close(master)
    assert process.returncode == 6
