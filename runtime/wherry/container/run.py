# SPDX-License-Identifier: Apache-2.0
"""run: create and start; attached, also stay until the program ends. On the hot path.

Attached, this interpreter becomes the static program in its role `attend`, a fraction of a megabyte: it forwards signals, pumps
the terminal, removes the container and exits with the program's status.
"""

import posix
import sys
from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIG_SETMASK,
    SIGABRT,
    SIGBUS,
    SIGCHLD,
    SIGFPE,
    SIGILL,
    SIGSEGV,
    pthread_sigmask,
    signal,
    valid_signals,
)
from time import monotonic

from wherry.container.create import check_terminal, launch, prepare
from wherry.container.lifecycle import delete, start
from wherry.errors import StateError, WherryError
from wherry.kernel import native
from wherry.kernel.native import constants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.container.options import CreateOptions

_FAULTS = (SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV)


def run(options: "CreateOptions", detach: bool, keep: bool, subreaper: bool) -> "list[str]":
    """Returns warnings, once the program executes; does not return at all when attached."""
    options.attached = not detach
    prepared = prepare(options)
    check_terminal(options, prepared)
    if prepared.flags & constants.WHERRY_PLAN_NO_PROCESS:
        raise StateError("cannot run a container without /process", code="WHERRY-STATE-NO-PROCESS")
    if not detach:
        hold_signals()
    create = launch(options, prepared)
    master = create.take_console()
    create.close()
    options.phase("start")
    _start(options, master)
    if options.timeline is not None:
        options.timeline.write()
    if not detach:
        if options.warn is not None:
            options.warn(prepared.warnings)
        _attend(options, keep, subreaper, master)
    return prepared.warnings


def hold_signals() -> None:
    """Before there is a process: what arrives from here on waits, and is forwarded. Where a parent had us ignore the ends of children there would be none
    to wait for."""
    signal(SIGCHLD, SIG_DFL)
    pthread_sigmask(SIG_SETMASK, set(valid_signals()).difference(_FAULTS))


def _start(options: "CreateOptions", master: int) -> None:
    try:
        start(options.root, options.id, options.notify, aside=options.attached)
    except WherryError as error:
        _drain(master)
        try:
            delete(options.root, options.id, force=True)
        except (WherryError, OSError) as other:
            error.also.append(other if isinstance(other, WherryError) else WherryError(str(other)))
        raise


def _drain(master: int) -> None:
    """What a startContainer hook had to say before it failed is still in the terminal."""
    if master < 0:
        return
    posix.set_blocking(master, False)
    try:
        while said := posix.read(master, 4096):
            posix.write(1, said)
    except OSError:  # EIO: all has been read
        pass


def _attend(options: "CreateOptions", keep: bool, subreaper: bool, master: int) -> None:
    """Becomes wherry-attend, which is told how this command line was started, for what only Python can do at the end."""
    become_attendant(options.root, options.id, ("k" if keep else "") + ("s" if subreaper else ""), master)


def become_attendant(root: str, id: str, letters: str, master: int, timeout: "float | None" = None) -> None:
    """For an exec the letter is x, and the id is the number of its process. After `timeout` seconds that is killed, and this command line told of
    it by WHERRY_LATE in its environment."""
    python = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]
    if timeout is not None:
        python = [sys.executable, *sys.orig_argv[1:]]
        letters += f"t{max(1, round((monotonic() + timeout) * 1000))}"
    if master >= 0:
        posix.set_inheritable(master, True)
    words = [root, id, letters or "-", str(master) if master >= 0 else "-"]
    posix.execve(native.program_fd(), ["wherry-attend", *words, *python], posix.environ)
