# SPDX-License-Identifier: Apache-2.0
"""The typed wrapper over the extension: errors, hooks, processes, the plan cache, and that the header's numbers arrive."""

import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wherry.kernel import native
from wherry.kernel.native import Failure, constants

CSRC = Path(__file__).parents[3] / "csrc"


def enumerators(header: str) -> list[str]:
    text = re.sub(r"/\*.*?\*/", "", (CSRC / "include/wherry" / header).read_text(), flags=re.S)
    bodies = re.findall(r"^enum \w* ?\{(.*?)^\};", text, flags=re.S | re.M)
    return [name for body in bodies for name in re.findall(r"^\s*([A-Z]\w+)\s*(?:=[^,]*)?,", body, flags=re.M)]


@pytest.mark.parametrize("header", ["plan.h", "host.h"])
def test_every_enumerator_is_a_constant(header: str) -> None:
    names = enumerators(header)
    assert len(names) > 5
    assert all(isinstance(getattr(constants, name), int) for name in names)


def test_numbers_are_those_of_the_header() -> None:
    assert (constants.OP_CLAIM, constants.WHERRY_BAD_PLAN, constants.WHERRY_RECORD_DELETING) == (1, 1000, 3)
    assert int.from_bytes(b"WHPN", "little") == constants.WHERRY_PLAN_MAGIC
    with pytest.raises(AttributeError):
        _ = constants.OP_NO_SUCH


def test_calls_have_names() -> None:
    assert native._failure(native.ffi.new("struct wherry_message *", {"error": 2, "call": constants.WHERRY_CALL_MOVE_MOUNT})).call == "MOVE_MOUNT"
    assert native._failure(native.ffi.new("struct wherry_message *", {"error": 2, "call": 60000})).call == "NONE"


def test_structs_are_known_by_name() -> None:
    assert native.sizeof("wherry_op") == 16
    assert native.offsetof("wherry_op_claim", "state_head") == 16
    assert native.sizeof("wherry_record") % 8 == 0


class TestFailure:
    def test_of_an_errno(self) -> None:
        failure = Failure(errno.EACCES, 7, "MKDIR", 9)
        assert isinstance(failure, OSError)
        assert (failure.errno, failure.error, failure.step, failure.call, failure.value) == (13, 13, 7, "MKDIR", 9)
        assert "Permission denied" in str(failure)

    def test_of_a_refusal(self) -> None:
        assert Failure(constants.WHERRY_EXISTS).step == native.NO_STEP

    def test_null_in_a_text_is_refused(self) -> None:
        with pytest.raises(OSError, match="null"):
            native.open_container("/tmp", "a\0b")


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 1000, 100_000])
def test_sha256(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    assert native.sha256(data) == hashlib.sha256(data).digest()


def test_the_program_is_sealed_and_shared() -> None:
    fd = native.program_fd()
    assert native.program_fd() == fd
    assert not os.get_inheritable(fd)
    with pytest.raises(OSError):
        os.ftruncate(fd, 0)
    assert os.fstat(fd).st_size == native.program_size()
    assert native.program_libc() in ("musl", "glibc")
    assert native.build_id() in Path(f"/proc/self/fd/{fd}").read_bytes()


class TestHook:
    def test_gets_state_arguments_and_environment(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        native.run_hook("/bin/sh", ["sh", "-c", 'cat > "$OUT"; echo "$0 $1" >> "$OUT"', "zero", "one"], [f"OUT={out}"], b"state\n")
        assert out.read_text() == "state\nzero one\n"

    def test_failure_has_the_wait_status(self) -> None:
        with pytest.raises(Failure) as caught:
            native.run_hook("/bin/sh", ["sh", "-c", "exit 3"], [], b"")
        assert caught.value.error == constants.WHERRY_HOOK_FAILED
        assert os.waitstatus_to_exitcode(caught.value.value) == 3

    def test_timeout(self) -> None:
        with pytest.raises(Failure) as caught:
            native.run_hook("/bin/sleep", ["sleep", "60"], [], b"", timeout=1)
        assert caught.value.error == constants.WHERRY_HOOK_TIMEOUT

    def test_missing_program(self) -> None:
        with pytest.raises(Failure) as caught:
            native.run_hook("/no/such/hook", [], [], b"")
        assert (caught.value.errno, caught.value.call) == (errno.ENOENT, "EXECVE")

    def test_in_many_threads(self) -> None:
        errors: list[BaseException] = []

        def run() -> None:
            try:
                for _ in range(10):
                    native.run_hook("/bin/true", [], [], b"x" * 100_000)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []


class TestProcesses:
    def test_start_time_is_that_of_proc(self) -> None:
        stat = Path("/proc/self/stat").read_text()
        assert native.start_time(os.getpid()) == int(stat[stat.rindex(")") + 2 :].split()[19])

    def test_nobody_has_no_start_time(self) -> None:
        with pytest.raises(ProcessLookupError):
            native.start_time(4_100_000)

    def test_a_name_with_parentheses(self) -> None:
        code = "import time; open('/proc/self/comm','w').write(') S 1 (x'); print('x', flush=True); time.sleep(60)"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert 0 <= native.start_time(child.pid) - native.start_time(os.getpid()) < 10**7
            child.kill()

    def test_wait_and_reap(self) -> None:
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], {})
        fd = os.pidfd_open(pid)
        assert native.pidfd_wait(fd, 10_000)
        assert native.pidfd_wait(fd)
        assert native.pidfd_reap(fd) == 5
        with pytest.raises(ChildProcessError):
            native.pidfd_reap(fd)
        os.close(fd)

    def test_reap_of_a_killed_one(self) -> None:
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        fd = os.pidfd_open(pid)
        assert not native.pidfd_wait(fd, 0)
        native.pidfd_signal(fd, signal.SIGKILL)
        assert native.pidfd_reap(fd) == 128 + signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            native.pidfd_signal(fd, 0)
        os.close(fd)

    def test_a_signal_does_not_end_the_wait_for_a_child(self) -> None:
        caught: list[int] = []
        before = signal.signal(signal.SIGUSR1, lambda number, _: caught.append(number))
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"sleep 0.2; kill -USR1 {os.getpid()}; sleep 0.2; exit 6"], {})
        fd = os.pidfd_open(pid)
        assert native.pidfd_reap(fd) == 6
        assert caught == [signal.SIGUSR1]
        signal.signal(signal.SIGUSR1, before)
        os.close(fd)

    def test_the_lock_of_the_interpreter_is_free_meanwhile(self) -> None:
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        fd = os.pidfd_open(pid)
        waiter = threading.Thread(target=native.pidfd_wait, args=(fd,))
        waiter.start()
        time.sleep(0.05)
        native.pidfd_signal(fd, signal.SIGKILL)  # reached only if the waiting thread lets us
        waiter.join()
        native.pidfd_reap(fd)
        os.close(fd)


class TestOpen:
    def test_no_such_container(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        with pytest.raises(FileNotFoundError):
            native.open_container(str(tmp_path), "nobody")
        with pytest.raises(FileNotFoundError):
            native.open_container(str(tmp_path / "no-root"), "nobody")

    def test_a_root_that_others_may_write(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        with pytest.raises(Failure) as caught:
            native.open_container(str(tmp_path), "nobody")
        assert caught.value.error == constants.WHERRY_UNSAFE_DIRECTORY

    @pytest.mark.parametrize("id", ["", ".", "..", "@plans", "a/b"])
    def test_what_is_no_id(self, tmp_path: Path, id: str) -> None:
        tmp_path.chmod(0o700)
        with pytest.raises(FileNotFoundError):
            native.open_container(str(tmp_path), id)

    @pytest.mark.parametrize(("record", "error"), [(None, errno.ENODATA), (b"", errno.EBADMSG), (b"x" * 500, errno.EBADMSG)])
    def test_damaged_ones_can_be_removed(self, tmp_path: Path, record: "bytes | None", error: int) -> None:
        tmp_path.chmod(0o700)
        place = tmp_path / "one"
        place.mkdir(0o700)
        if record is not None:
            (place / "record").write_bytes(record)
        with pytest.raises(Failure) as caught:
            native.open_container(str(tmp_path), "one")
        assert caught.value.error == error
        with native.open_container(str(tmp_path), "one", damaged=True) as container:
            assert container.damage == error
            assert container.status() == constants.HOST_STOPPED
            with pytest.raises(Failure):
                _ = container.pid
            container.lock()
            container.destroy()
        assert not place.exists()

    def test_descriptors_are_not_left_open(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        (tmp_path / "one").mkdir()
        before = os.listdir("/proc/self/fd")
        for _ in range(50):
            with pytest.raises(Failure):
                native.open_container(str(tmp_path), "one")
        assert len(os.listdir("/proc/self/fd")) == len(before)


class TestCache:
    def test_the_key_depends_on_all_that_goes_in(self) -> None:
        read = [native.Pattern(b"a"), native.Pattern(b"b"), native.Pattern(b"a", 1), native.Pattern(b"a", constants.WHERRY_OPTION_NO_PIVOT << 3)]
        keys = {name for pattern in read for name in (pattern.exact, pattern.pattern)}
        assert len(keys) == 8
        assert native.Pattern(b"a").exact == read[0].exact
        assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)

    def test_the_facts_key_depends_on_the_place(self) -> None:
        here = native.facts_key()
        code = "from wherry.kernel import native; print(native.facts_key())"
        again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert again.stdout.strip() == here
        if os.geteuid() == 0:
            elsewhere = subprocess.run(["unshare", "-u", "-n", sys.executable, "-c", code], capture_output=True, text=True, check=True)
            assert elsewhere.stdout.strip() != here

    def test_nothing_is_made_by_a_miss(self, tmp_path: Path) -> None:
        assert native.Pattern(b"{}").load(str(tmp_path / "root")) is None
        assert list(tmp_path.iterdir()) == []

    def test_what_is_no_plan_is_not_kept(self, tmp_path: Path) -> None:
        assert not native.cache_store(str(tmp_path / "root"), "0" * 64, b"no plan at all, but long enough to be looked at")


class TestCheckPlan:
    def test_garbage(self) -> None:
        with pytest.raises(Failure) as caught:
            native.check_plan(b"x" * 200)
        assert caught.value.error == constants.WHERRY_BAD_PLAN

    def test_another_version(self) -> None:
        header = bytearray(200)
        header[0:4] = constants.WHERRY_PLAN_MAGIC.to_bytes(4, "little")
        with pytest.raises(Failure) as caught:
            native.check_plan(bytes(header))
        assert caught.value.error == constants.WHERRY_WRONG_VERSION


def test_a_refused_create_changes_nothing(tmp_path: Path) -> None:
    create = native.Create(plan=b"no plan", root=str(tmp_path / "root"), id="one", bundle="/b", bundle_json="/b", config=b"")
    with pytest.raises(Failure) as caught:
        create.begin()
    assert caught.value.error == constants.WHERRY_BAD_PLAN
    create.close()
    create.close()
    assert list(tmp_path.iterdir()) == []
