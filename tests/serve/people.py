# SPDX-License-Identifier: Apache-2.0
"""`wherry-shim ctl` as a person uses it: with pipes, or at a terminal."""

import fcntl
import os
import struct
import subprocess
import termios
from typing import Any

from click.testing import CliRunner

from harness.console import read_until
from wherry_shim.ctl.main import command

from .driver import PATIENCE, PROGRAM, Server


class Ctl:
    def __init__(self, server: Server) -> None:
        self.environment = {**os.environ, "WHERRY_SHIM_ADDRESS": server.address, "TERM": "xterm"}

    def run(self, *words: str, code: int = 0) -> str:
        """What it says on stdout; on stderr, where it is to fail. In this process, which is ten times as fast, where no process is looked at."""
        if words[0] in ("run", "exec", "attach") and "-d" not in words:
            done = self.both(*words)
            assert done.returncode == code, done
            return str(done.stderr if code else done.stdout)
        result = CliRunner().invoke(command, words, env={"WHERRY_SHIM_ADDRESS": self.environment["WHERRY_SHIM_ADDRESS"]})
        assert result.exit_code == code, (words, result.output, result.exception)
        return result.stderr if code else result.stdout

    def both(self, *words: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        streams = {"capture_output": True} if "input" in more else {"stdin": subprocess.DEVNULL, "capture_output": True}
        return subprocess.run([PROGRAM, "ctl", *words], env=self.environment, text=True, timeout=PATIENCE * 2, **{**streams, **more})

    def begin(self, *words: str, **more: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen([PROGRAM, "ctl", *words], env=self.environment, text=True, **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **more})

    def at_a_terminal(self, *words: str) -> "Terminal":
        return Terminal([PROGRAM, "ctl", *words], self.environment)


class Terminal:
    """A terminal of 80 times 24, and a program whose controlling one it is."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.master, self.slave = os.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.slave)
        words = ["setsid", "--ctty", *words]
        self.process = subprocess.Popen(words, env=environment, stdin=self.slave, stdout=self.slave, stderr=self.slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: str) -> str:
        return read_until(self.master, text, PATIENCE)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def end(self) -> int:
        """Its exit status; the terminal is as it was."""
        status = self.process.wait(PATIENCE)
        assert termios.tcgetattr(self.slave) == self.before, "the terminal was not given back"
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)
