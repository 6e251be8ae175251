# SPDX-License-Identifier: Apache-2.0
"""Our codec against protobuf: what one writes, the other reads, for every message of every table, and for bytes that are no message."""

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry_shim import messages, messages_rare, wire

from .protos import SPECS, message_class

PACKAGES = {**messages.PACKAGES, **messages_rare.PACKAGES}
TABLES = {**messages.TABLE, **messages_rare.TABLE}
NAMES = sorted(TABLES)
RANGES = {"int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1), "uint32": (0, (1 << 32) - 1), "uint64": (0, (1 << 64) - 1)}
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SLOW = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))


def real(name: str) -> type[Message]:
    prefix, _, short = name.partition(".")
    return message_class(f"{PACKAGES[prefix]}.{short}")


def scalar(kind: str) -> st.SearchStrategy[object]:
    if kind in RANGES:
        low, high = RANGES[kind]
        return st.integers(low, high) | st.integers(max(low, -1), 3)
    return {"bool": st.booleans(), "double": st.floats(allow_nan=False), "bytes": st.binary(max_size=12), "string": TEXT}[kind]


def values(name: str, depth: int = 3) -> st.SearchStrategy[dict[str, object]]:
    fields = {}
    for field in wire._message(name).fields:
        if field.message and depth == 0:
            continue
        one = values(field.message, depth - 1) if field.message else scalar(field.kind)
        many = {"*": st.lists(one, max_size=3), "%": st.dictionaries(TEXT, one, max_size=3)}
        fields[field.name] = many[field.many] if field.many else one | st.none() if field.message else one
    return st.fixed_dictionaries({}, optional=fields)


def fill(message: Message, name: str, given: dict[str, object]) -> Message:
    for field in wire._message(name).fields:
        value = given.get(field.name)
        if value is None:
            continue
        place = getattr(message, field.name)
        if field.many == "%":
            place.update(value)
        elif field.many and field.message:
            for one in value:
                fill(place.add(), field.message, one)
        elif field.many:
            place.extend(value)
        elif field.message:
            place.SetInParent()
            fill(place, field.message, value)
        else:
            setattr(message, field.name, value)
    return message


def as_values(message: Message, name: str) -> dict[str, object]:
    out = {}
    for field in wire._message(name).fields:
        value = getattr(message, field.name)
        if field.many == "%":
            value = dict(value)
        elif field.many:
            value = [as_values(one, field.message) if field.message else one for one in value]
        elif field.message:
            value = as_values(value, field.message) if message.HasField(field.name) else None
        out[field.name] = value
    return out


@pytest.mark.parametrize("name", NAMES)
def test_tables_and_protos_say_the_same(name: str) -> None:
    descriptor = real(name).DESCRIPTOR
    theirs = {(field.name, field.number) for field in descriptor.fields}
    assert {(field.name, field.number) for field in wire._message(name).fields} == theirs


@pytest.mark.parametrize("name", NAMES)
def test_round_trips(name: str) -> None:
    @SLOW
    @given(values(name))
    def check(sent: dict[str, object]) -> None:
        message = fill(real(name)(), name, sent)
        encoded = wire.encode(name, sent)
        assert as_values(real(name).FromString(encoded), name) == as_values(message, name)
        assert wire.decode(name, encoded) == as_values(message, name)
        assert wire.decode(name, message.SerializeToString()) == as_values(message, name)

    check()


@pytest.mark.parametrize("name", ["task.CreateTaskRequest", "task.StateResponse", "ttrpc.Request", "cgroups2.PSIStats", "boot.BootstrapResult", "task.UpdateTaskRequest"])
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused(name: str) -> None:
    """Mutations of good messages, their concatenations (fields twice: merged), and noise."""

    @settings(SLOW, max_examples=150)
    @given(values(name), values(name), st.binary(max_size=30), st.integers(0, 200), st.integers(0, 255))
    def check(one: dict[str, object], two: dict[str, object], noise: bytes, place: int, byte: int) -> None:
        data = bytearray(wire.encode(name, one) + wire.encode(name, two))
        if place < len(data):
            data[place] = byte
        compare(name, bytes(data) + noise)
        compare(name, noise)

    check()


def compare(name: str, data: bytes) -> None:
    try:
        theirs = as_values(real(name).FromString(data), name)
    except DecodeError:
        theirs = None
    try:
        ours = wire.decode(name, data)
    except wire.DecodeError:
        ours = None
    if ours and theirs:  # an entry of a map with a field that is no key and no value: theirs sets it aside, Go's and ours take what they know
        for field in wire._message(name).fields:
            if field.many == "%" and theirs[field.name].keys() <= ours[field.name].keys():  # a key that came before keeps its value there
                ours[field.name] = theirs[field.name]
    assert plain(ours) == plain(theirs)


def plain(value: object) -> object:
    """Comparable: nan is nan, a map has no order."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else repr(value)


@pytest.mark.parametrize(
    "data",
    [
        "00",  # field 0
        "0a05616263",  # a length beyond the end
        "0a02fffe",  # not UTF-8
        "80808080808080808080808001",  # a tag that never ends
        "18ffffffffffffffffffffff01",  # a number of twelve bytes
        "0c",  # the end of a group that never began
        "7b",  # a group that never ends
        "7b8401",  # a group that ends with another number
        "7e",  # wire type 6
        "79010203",  # half a fixed64
    ],
)  # fmt: skip
def test_malformed(data: str) -> None:
    with pytest.raises(wire.DecodeError):
        wire.decode("task.StateResponse", bytes.fromhex(data))


def test_unknown_fields_are_skipped() -> None:
    data = bytes.fromhex("0a0161" "f80701" "f907" + "00" * 8 + "fd07" + "00" * 4 + "fa070161" "fb07" "0801" "12026162" "fc07" "1801")
    assert wire.decode("task.StateResponse", data) | {"id": "a", "pid": 1} == wire.decode("task.StateResponse", b"\x0a\x01a\x18\x01")


def test_deep_nesting_is_refused() -> None:
    data = b""
    for _ in range(200):
        data = b"\x7b" + data + b"\x7c"
    with pytest.raises(wire.DecodeError):
        wire.decode("task.StateResponse", data)


@pytest.mark.parametrize(("numbers", "expected"), [("2203010203", [1, 2, 3]), ("200120022003", [1, 2, 3]), ("220201022003", [1, 2, 3])])
def test_packed_and_unpacked(numbers: str, expected: list[int]) -> None:
    assert wire.decode("cgroups1.CPUUsage", bytes.fromhex(numbers))["per_cpu"] == expected


def test_version_3_of_the_task_service_is_version_2() -> None:
    first, second = ((SPECS / f"containerd_task_v{number}.proto").read_text().split("\n", 3)[3].replace(f"task.v{number}", "task") for number in (2, 3))
    assert first == second


ZERO = {"seconds": -62135596800, "nanos": 0}
AT = {"seconds": 1795303409, "nanos": 58793791}
EXIT = {"container_id": "tt4", "id": "tt4", "pid": 22281, "exit_status": 137, "exited_at": AT}


@pytest.mark.parametrize(
    ("name", "message", "golden"),
    [
        ("task.ConnectResponse", {"shim_pid": 22223, "task_pid": 22281}, "08cfad011089ae01"),
        ("task.WaitResponse", {"exit_status": 137, "exited_at": AT}, "088901120b08f1cf88d80610bfbe841c"),
        ("task.StateResponse", {"id": "tt4", "bundle": "/b", "pid": 7, "status": 2, "exited_at": ZERO}, "0a0374743412022f6218072002520b088092b8c398feffffff01"),
        ("task.DeleteResponse", {"pid": 22281, "exit_status": 137, "exited_at": AT}, "0889ae011089011a0b08f1cf88d80610bfbe841c"),
        ("events.TaskExit", EXIT, "0a0374743412037474341889ae012089012a0b08f1cf88d80610bfbe841c"),
        ("rpc.Status", {"code": 5, "message": "container not created: not found"}, "08051220636f6e7461696e6572206e6f7420637265617465643a206e6f7420666f756e64"),
        ("boot.BootstrapParams", {"instance_id": "abc", "namespace": "k8s.io", "log_level": -4}, "0a0361626312066b38732e696f18fcffffffffffffffff01"),
        ("cgroups2.Metrics", {"pids": {"current": 1}, "cpu": {"usage_usec": 300}, "memory": {"usage": 4096}}, "0a020801120308ac02220480028020"),
    ],
)  # fmt: skip
def test_golden(name: str, message: dict[str, object], golden: str) -> None:
    assert wire.encode(name, message).hex() == golden
    assert {key: value for key, value in wire.decode(name, bytes.fromhex(golden)).items() if key in message and not isinstance(value, dict)} == {
        key: value for key, value in message.items() if not isinstance(value, dict)
    }


def test_no_library_is_loaded(loaded_modules) -> None:
    assert not {name for name in loaded_modules("import wherry_shim.messages, wherry_shim.messages_rare") if "protobuf" in name or name in ("re", "os", "typing")}
