# SPDX-License-Identifier: Apache-2.0
"""The timeline of --trace: what becomes of phases and stamps, which files are refused, what is read of the shared memory."""

import errno
import json
import os
import re
from pathlib import Path
from struct import pack_into
from typing import Any

import pytest

from wherry.container.options import CreateOptions
from wherry.container.trace import ROWS, Timeline, document, record
from wherry.errors import LaunchError, UsageError
from wherry.kernel.hostfacts import HostFacts
from wherry.kernel.native import Failure
from wherry.oci.default import spec
from wherry.plan.compile import compile
from wherry.plan.describe import Plan
from wherry.plan.options import Options

FACTS = sorted((Path(__file__).parents[1] / "plan/facts").glob("*.json"))
SECOND = 1_000_000_000
BASE = 1_700_000_000 * SECOND
"""A clock as the kernel's: more nanoseconds than a float can tell apart."""


def make_plan() -> bytes:
    config: Any = spec()
    config["process"]["terminal"] = False
    return compile(config, HostFacts.from_json(json.loads(FACTS[0].read_text())), Options(build_id=b"x" * 16))


PLAN = make_plan()
STEPS = Plan(PLAN).steps


def stamps(last: str, returned: bool = True) -> list[tuple[int, int]]:
    """Step k ran from 10 k to 10 k + 5 microseconds, up to the step `last`."""
    end = next(step.number for step in STEPS if step.name == last)
    found = [(BASE + 10_000 * number, BASE + 10_000 * number + 5_000) for number in range(1, end + 1)]
    if not returned:
        found[-1] = (found[-1][0], 0)
    return found + [(0, 0)] * (len(STEPS) - end)


def events(*arguments: Any) -> list[dict[str, Any]]:
    return [event for event in document(*arguments)["traceEvents"] if event["ph"] == "X"]


def test_a_row_for_each_executor() -> None:
    rows = [event for event in document([], None, [])["traceEvents"] if event["name"] == "process_name"]
    assert {event["args"]["name"]: event["pid"] for event in rows} == ROWS
    assert sorted(ROWS) == ["caller", "init", "launcher", "python"]


def test_an_event_for_each_step_that_ran() -> None:
    found = events([("native create", BASE, BASE + SECOND)], PLAN, stamps("PUBLISH"))
    assert found[0] == {"ph": "X", "name": "native create", "pid": ROWS["python"], "tid": ROWS["python"], "ts": 0.0, "dur": 1e6, "args": {}}
    ran = [step for step in STEPS if step.name not in ("WAIT_START", "EXECUTE")]
    assert [event["args"] for event in found[1:]] == [{"step": step.number, "pointer": step.place} for step in ran]
    assert [event["name"] for event in found[1:]] == [step.text for step in ran]
    assert [event["pid"] for event in found[1:]] == [ROWS[step.executor] for step in ran]
    assert [(event["ts"], event["dur"]) for event in found[1:]] == [(10.0 * step.number, 5.0) for step in ran]


def test_nanoseconds_are_kept() -> None:
    first, second = events([("a", BASE, BASE + 1), ("b", BASE + 1, BASE + 3)], None, [])
    assert (first["ts"], first["dur"], second["ts"], second["dur"]) == (0.0, 0.001, 0.001, 0.002)


def test_a_wait_for_the_start_is_not_ours_until_it_is_over() -> None:
    names = [event["name"] for event in events([], PLAN, stamps("WAIT_START", returned=False))]
    assert "wait for start" not in names
    names = [event["name"] for event in events([], PLAN, stamps("WAIT_START"))]
    assert names[-1] == "wait for start"


def test_a_program_is_executed_when_the_runtime_knows_of_it() -> None:
    begin = stamps("EXECUTE")[-1][0]
    last = events([("start", BASE, begin + 7_000)], PLAN, stamps("EXECUTE", returned=False))[-1]
    assert (last["name"], last["dur"]) == ("execute the program", 7.0)


def test_a_clock_that_was_set_back() -> None:
    assert events([("a", BASE, BASE - SECOND)], None, [])[0]["dur"] == 0


def test_what_failed() -> None:
    step = next(step for step in STEPS if step.name == "PIVOT")
    error = LaunchError("pivot to the rootfs: invalid argument")
    error.__cause__ = Failure(errno.EINVAL, step.number - 1, "PIVOT_ROOT")
    found = document([], PLAN, stamps("PIVOT"), error)
    assert found["otherData"]["error"] == "pivot to the rootfs: invalid argument"
    assert [event["name"] for event in found["traceEvents"] if "error" in event["args"]] == [step.text]
    assert found["traceEvents"][-1]["args"]["error"] == "invalid argument"


# ---- OpenTelemetry


def check_otlp(document: dict[str, Any]) -> list[dict[str, Any]]:
    """ExportTraceServiceRequest in the JSON form of opentelemetry-proto: names, types, ids in hexadecimal, 64-bit numbers as texts. Its spans."""
    (resource,) = document["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    assert (set(document), set(resource), set(scope)) == ({"resourceSpans"}, {"resource", "scopeSpans"}, {"scope", "spans"})
    assert resource["resource"] == {"attributes": [{"key": "service.name", "value": {"stringValue": "wherry"}}]}
    spans: list[dict[str, Any]] = scope["spans"]
    wanted = "traceId spanId parentSpanId name kind startTimeUnixNano endTimeUnixNano attributes status".split()
    for span in spans:
        assert list(span) == wanted and span["name"] and span["kind"] == 1
        assert re.fullmatch("[0-9a-f]{32}", span["traceId"]) and re.fullmatch("[0-9a-f]{16}", span["spanId"])
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        assert all(type(span[key]) is str for key in ("startTimeUnixNano", "endTimeUnixNano"))
        for attribute in span["attributes"]:
            ((kind, value),) = attribute["value"].items()
            assert set(attribute) == {"key", "value"} and kind in ("stringValue", "intValue") and type(value) is str
        assert span["status"] == {} or (span["status"]["code"] == 2 and span["status"]["message"])
    assert len({span["traceId"] for span in spans}) == 1 and len({span["spanId"] for span in spans}) == len(spans)
    root, *others = spans
    assert all(span["parentSpanId"] == root["spanId"] for span in others)
    assert int(root["startTimeUnixNano"]) == min(int(span["startTimeUnixNano"]) for span in spans)
    return spans


@pytest.mark.parametrize("parent", ["", f"00-{'a' * 32}-{'b' * 16}-01", "00-short"])
def test_otlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: str) -> None:
    monkeypatch.setenv("TRACEPARENT", parent)
    chosen, file = options(), tmp_path / "trace.otlp.json"
    with pytest.raises(ZeroDivisionError), record(chosen, str(file), 0):
        chosen.phase("one")
        shared = chosen.trace(PLAN)
        assert shared is not None
        pack_into("<QQ", shared[1], 0, BASE, BASE + 1_001)
        raise ZeroDivisionError("by zero")
    root, phase, step = check_otlp(json.loads(file.read_text()))
    good = len(parent) == 55
    assert (root["traceId"] == "a" * 32, root["parentSpanId"]) == (good, "b" * 16 if good else "")
    assert (root["status"]["message"], phase["name"], step["name"]) == ("by zero", "one", STEPS[0].text)
    assert (step["startTimeUnixNano"], step["endTimeUnixNano"]) == (str(BASE), str(BASE + 1_001))
    assert {"key": "wherry.executor", "value": {"stringValue": "caller"}} in step["attributes"]
    assert {"key": "wherry.step", "value": {"intValue": "1"}} in step["attributes"]


# ---- the file


def options() -> CreateOptions:
    return CreateOptions("/run/wherry", "web", "/srv/web")


def test_the_file_is_written_at_the_end(tmp_path: Path) -> None:
    chosen, file = options(), tmp_path / "trace.json"
    with record(chosen, str(file), 0):
        chosen.phase("one")
        chosen.phase("two")
        shared = chosen.trace(PLAN)
        assert shared is not None
        pack_into("<QQ", shared[1], 0, BASE, BASE + 1_000)
        assert file.read_text() == ""
    names = [event["name"] for event in json.loads(file.read_text())["traceEvents"] if event["ph"] == "X"]
    assert names == ["one", "two", STEPS[0].text]


def test_a_failure_is_written_too_and_goes_on(tmp_path: Path) -> None:
    chosen, file = options(), tmp_path / "trace.json"
    with pytest.raises(ZeroDivisionError), record(chosen, str(file), 0):
        chosen.phase("one")
        raise ZeroDivisionError("by zero")
    assert json.loads(file.read_text())["otherData"]["error"] == "by zero"


def test_a_second_attempt_starts_anew(tmp_path: Path) -> None:
    timeline = Timeline(str(tmp_path / "trace.json"))
    pack_into("<QQ", timeline.memory(PLAN)[1], 0, BASE, BASE + 1)
    descriptor, memory = timeline.memory(PLAN)
    assert bytes(memory[:16]) == bytes(16)
    assert os.fstat(descriptor).st_size == len(STEPS) * 16
    timeline.write()


@pytest.mark.parametrize("name", ["no/such/directory", "."])
def test_a_file_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught, record(options(), str(tmp_path / name), 0):
        raise AssertionError("it went on")
    assert caught.value.code == "WHERRY-USAGE-FILE"


def test_a_full_disk_is_said_and_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    with record(options(), "/dev/full", 0):
        pass
    assert capfd.readouterr().err == "--trace /dev/full: no space left on device\n"


def test_nothing_of_ours_is_preserved(tmp_path: Path) -> None:
    """With a gap among the descriptors to preserve, ours would stand in it."""
    free = os.dup(0)
    os.close(free)
    with pytest.raises(UsageError) as caught:
        Timeline(str(tmp_path / "trace.json"), free - 2)
    assert str(free) in caught.value.message
    assert not (tmp_path / "trace.json").exists()


def test_without_a_timeline_nothing_is_kept() -> None:
    chosen = options()
    chosen.phase("one")
    assert chosen.trace(PLAN) is None
