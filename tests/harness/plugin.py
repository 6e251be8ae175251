# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: fixtures for runtime and bundles, both ways of the front, requirements, a report that CI adds up."""

import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import requirements
from .bundle import Bundle, base_config
from .census import Census, cgroups_with
from .runtime import Runtime, become_subreaper

WAYS = {"on": ["front"], "off": ["python"], "both": ["front", "python"]}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("wherry")
    group.addoption("--front", choices=sorted(WAYS), default="both", help="verbs through the front, through Python, or each test both ways")
    group.addoption("--report-json", metavar="FILE", help="write {test: outcome} there")
    group.addoption("--part", metavar="K/N", help="every Nth test, from the Kth on: for N hosts that share a suite")
    group.addoption("--runtime", metavar="FILE", default=os.environ.get("WHERRY_TEST_RUNTIME"), help="another runtime (runc, crun) to check the tests on")
    group.addoption("--generated", type=int, default=25, metavar="N", help="so many generated configurations are compared with another runtime")
    group.addoption("--whole-corpus", action="store_true", help="compare all of tests/corpus on slow hosts, too")
    group.addoption("--crun", action="store_true", help="compare with crun on a hybrid host, too: it does not see the controllers of the v2 tree")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell that has put us into the background: programs under test would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "requires(*names): skipped, loudly, where one of them is missing (harness/requirements.py)")
    config.addinivalue_line("markers", "ours: about wherry alone; not run with --runtime")
    config.addinivalue_line("markers", "v2: has something of its own to say on a pure cgroup v2 host")
    config.addinivalue_line("markers", "one_way: does not depend on the front, or is about it: run with the front alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "front" in metafunc.fixturenames:
        ways = WAYS[metafunc.config.getoption("--front")]
        if metafunc.config.getoption("--runtime"):
            ways = ways[:1]
        metafunc.parametrize("front", ways, scope="session")


def belongs_to_the_front(item: pytest.Item) -> bool:
    if "front" not in getattr(item, "fixturenames", ()):
        return bool(item.config.getoption("--front") == "off")
    return bool(item.get_closest_marker("one_way") and item.callspec.params.get("front") == "python")  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What does not depend on the front, or is about it, belongs to the run with the front. As an ordinary user: what needs no root."""
    kept = [item for item in items if not belongs_to_the_front(item)]
    if os.geteuid():
        possible = [item for item in kept if not any("root" in mark.args for mark in item.iter_markers("requires"))]
        config.stash[NEED_ROOT] = len(kept) - len(possible)
        kept = possible
    part, _, parts = (config.getoption("--part") or "1/1").partition("/")
    kept = kept[int(part) - 1 :: int(parts)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def runtime_under_test(config: pytest.Config) -> str:
    return str(config.getoption("--runtime") or Path(sys.executable).parent / "wherry")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires"):
        for name in mark.args:
            lack = requirements.missing(name, runtime_under_test(item.config))
            if lack:
                pytest.skip(f"requires {name}: {lack}")
    if item.get_closest_marker("ours") and item.config.getoption("--runtime"):
        pytest.skip("about wherry alone")


# ---- the report -------------------------------------------------------------------------------------------------------

RESULTS: pytest.StashKey[dict[str, str]] = pytest.StashKey()
NEED_ROOT: pytest.StashKey[int] = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    results = item.config.stash.setdefault(RESULTS, {})
    if report.failed:
        results[item.nodeid] = "failed"
    elif report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        results.setdefault(item.nodeid, f"skipped: {reason.removeprefix('Skipped: ')}")
    elif report.when == "call":
        results.setdefault(item.nodeid, "passed")


def pytest_sessionfinish(session: pytest.Session) -> None:
    place = session.config.getoption("--report-json")
    results = session.config.stash.get(RESULTS, {})
    left_out = session.config.stash.get(NEED_ROOT, 0)
    if left_out:
        results[f"{left_out} tests"] = "skipped: they need root"
    if place:
        Path(place).write_text(json.dumps(results, indent=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(NEED_ROOT, 0)
    if left_out:
        terminalreporter.write_line(f"NOT RUN: {left_out} tests that need root (this is user {os.geteuid()})")


# ---- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def session_directory() -> Iterator[Path]:
    """Short (sockets live below it), of a name that the census knows, readable for the user namespaces of containers."""
    become_subreaper()
    place = Path(tempfile.mkdtemp(prefix=f"wherry-t{os.getpid()}x", dir="/var/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def crun_bed(request: pytest.FixtureRequest, session_directory: Path) -> None:
    """A host that crun takes, for the rest of the session: in a mount namespace of its own, the v2 tree of a hybrid one shows no controller."""
    if request.config.getoption("--crun"):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(Path(__file__).parents[2] / "conformance"))
            importlib.import_module("bench_bed").own_mounts(session_directory)


@pytest.fixture(scope="session")
def command(request: pytest.FixtureRequest) -> str:
    """The runtime under test: the wherry beside this interpreter, or --runtime."""
    return runtime_under_test(request.config)


@pytest.fixture(scope="session")
def probe(session_directory: Path) -> Path | None:
    """The static probe that is PID 1 and reports from inside, where it has been built."""
    built = os.environ.get("WHERRY_PROBE") or Path(__file__).parents[2] / "build/probe/probe"
    return Path(built) if Path(built).exists() else None


@pytest.fixture
def other(request: pytest.FixtureRequest, place: Path, session_directory: Path, crun_bed: None) -> Iterator[Runtime]:
    """Another runtime of this machine, with a private --root."""
    if request.param == "crun" and requirements.cgroup_mode() == "v1" and not request.config.getoption("--crun"):
        pytest.skip("requires cgroup-v2: crun refuses hybrid hosts (--crun)")
    command = shutil.which(request.param, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if not command:
        pytest.skip(f"requires {request.param}: not on this machine")
    runtime = Runtime(command, place / "other", f"{session_directory.name}-{place.name}-o")
    census = Census(runtime.tag, [runtime.root])
    yield runtime
    runtime.clean_up()
    for directory in cgroups_with(runtime.tag.removesuffix("-o")) if request.param == "crun" else ():  # it leaves those of a create that it has refused
        os.rmdir(directory)
    assert not census.leftovers()


@pytest.fixture
def place(session_directory: Path) -> Iterator[Path]:
    """A directory of this test's own."""
    path = session_directory / uuid.uuid4().hex[:8]
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def runtime(command: str, place: Path, session_directory: Path, front: str) -> Iterator[Runtime]:
    """The runtime with a private --root. What the test leaves behind fails it, whatever else it found."""
    tag = f"{session_directory.name}-{place.name}"
    runtime = Runtime(command, place / "root", tag, front == "front")
    census = Census(tag, [runtime.root])
    yield runtime
    runtime.clean_up()
    left = census.leftovers()
    assert not left, f"left behind: {left}"


@pytest.fixture
def bundle(make_bundle: Callable[[], Bundle]) -> Bundle:
    return make_bundle()


@pytest.fixture
def make_bundle(place: Path, session_directory: Path, probe: Path | None) -> Callable[[], Bundle]:
    """Makes bundles; each has a cgroupsPath of its own that the census knows."""
    count = 0

    def make() -> Bundle:
        nonlocal count
        count += 1
        config = base_config()
        config["linux"]["cgroupsPath"] = f"/{session_directory.name}-{place.name}-{count}"
        if requirements.cgroup_mode() == "v2":
            config["linux"]["namespaces"].append({"type": "cgroup"})
        bundle = Bundle(place / f"bundle{count}", config, probe)
        if os.geteuid():
            bundle.by_an_ordinary_user()
        return bundle

    return make


@pytest.fixture
def alone(runtime: Runtime, place: Path) -> Runtime:
    """The same program where no wherry-python stands beside it: whatever it would leave to Python fails."""
    directory = place / "alone"
    directory.mkdir()
    shutil.copy(runtime.command, directory / "wherry")
    other = Runtime(str(directory / "wherry"), runtime.root, runtime.tag)
    other.containers = runtime.containers
    return other
