# SPDX-License-Identifier: Apache-2.0
"""A plan pattern with another configuration's texts is the plan of that configuration: the compiler decides nothing by a blank."""

from __future__ import annotations

import json
from typing import Any

import golden
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import MAPPINGS, bind, config, host, make, namespaces, options

from wherry.kernel import native
from wherry.kernel.hostfacts import HostFacts
from wherry.plan.compile import wanted
from wherry.plan.describe import Plan
from wherry.plan.options import Options

pytestmark = pytest.mark.skipif(not hasattr(native.lib, "host_facts_key"), reason="needs the extension: it has the pattern reader")

# no pattern is made where the compiler looks at joined namespaces
CASES = {name: case for name, case in golden.cases().items() if not wanted(case[0])["namespaces"]}
PLAIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"\\'), min_size=1, max_size=20)
PART = st.text("abcXYZ019._-@{}: ", min_size=1, max_size=12).filter(lambda part: part not in (".", ".."))
PATH = st.lists(PART, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


def encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def filled(config_bytes: bytes, like: bytes, facts: HostFacts, given: Options) -> dict[str, Any]:
    """The plan of the first one from the pattern that the second one makes."""
    pattern = make(json.loads(native.Pattern(like).marked()), facts, given)
    assert native.Pattern(config_bytes).pattern == native.Pattern(like).pattern
    return Plan(native.Pattern(config_bytes).fill(pattern)).document()


@pytest.mark.parametrize("name", sorted(CASES))
def test_own_texts_give_the_own_plan(name: str) -> None:
    document, facts, given = CASES[name]
    assert filled(encode(document), encode(document), facts, given) == Plan(make(document, facts, given)).document()


HOOK = {"path": "/usr/bin/hook"}


@st.composite
def containers(draw: st.DrawFn) -> dict[str, Any]:
    """What an engine varies from container to container."""
    document = config(
        hostname=draw(PLAIN),
        root__path=draw(PATH),
        process__args=["sh", "-c", draw(PLAIN)],
        process__env=["PATH=/bin:/usr/bin", f"HOSTNAME={draw(PLAIN)}", f"TOKEN={draw(st.one_of(st.just(''), PLAIN))}", "HOME=/root"],
        linux__cgroupsPath=draw(PATH),
        annotations={"io.kubernetes.cri.sandbox-id": draw(PLAIN), "b": draw(PLAIN)},
        linux__namespaces=[*namespaces("pid", "mount", "uts", "cgroup"), {"type": "network", "path": draw(PATH)}],
        hooks={"prestart": [{**HOOK, "args": ["hook", draw(PLAIN)]}], "createContainer": [{**HOOK, "args": ["hook", draw(PLAIN)]}]},
    )
    document["mounts"].append(bind("rbind", "ro", source=draw(PATH)))
    document["mounts"].append(bind("bind", destination="/etc/hosts", source=draw(PATH)))
    return document


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(containers(), containers(), st.sampled_from(["v1", "v2", "hybrid"]), st.booleans())
def test_the_texts_of_another_give_the_plan_of_the_other(one: dict[str, Any], other: dict[str, Any], where: str, mapped: bool) -> None:
    if mapped:
        for document in (one, other):
            document["linux"]["namespaces"] = namespaces("pid", "mount", "uts", "cgroup", "network", "user")
            document["linux"].update({key.removeprefix("linux__"): value for key, value in MAPPINGS.items()})
    facts, given_ = host(where), options()
    assert filled(encode(one), encode(other), facts, given_) == Plan(make(one, facts, given_)).document()


def blanks(document: dict[str, Any]) -> list[str]:
    read = native.Pattern(encode(document))
    marked = json.loads(read.marked())
    found = []

    def walk(value: Any, place: str) -> None:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            walk(item, f"{place}/{key}")
        if isinstance(value, str) and native.BLANK.decode() in value:
            found.append(place)

    walk(marked, "")
    return found


def test_where_blanks_are() -> None:
    document = config(
        annotations={"a": "1", "org.systemd.property.X": "2", "run.oci.x": "3"},
        linux__cgroupsPath="/a/b",
        process__env=["PATH=/bin", "HOME=/root", "A=b", "NOTHING"],
        linux__namespaces=[{"type": "mount"}, {"type": "network", "path": "/proc/7/ns/net"}],
        hooks={"poststop": [{"path": "/bin/x", "args": ["x"], "env": ["A=1"]}]},
    )
    document["mounts"] = [bind("bind"), {"destination": "/proc", "type": "proc", "source": "proc"}]
    assert blanks(document) == [
        "/process/args/0",
        "/process/env/2",
        "/hostname",
        "/mounts/0/source",
        "/linux/namespaces/1/path",
        "/linux/cgroupsPath",
        "/annotations/a",
        "/hooks/poststop/0/args/0",
    ]


@pytest.mark.parametrize("path", ["/", "//a", "/a/", "/a//b", "/a/./b", "/a/../b", "/a/..", "/.", "a/b", "", "/a\\u0041", "/ä"])
def test_a_path_of_another_form_is_no_blank(path: str) -> None:
    text = f'{{"root": {{"path": "{path}"}}, "linux": {{"cgroupsPath": "{path}"}}}}'.encode()
    assert native.BLANK not in native.Pattern(text).marked()


@pytest.mark.parametrize("path", ["/a", "/a/b", "/.a", "/..a/b.", "/a/...", "/a b"])
def test_a_clean_absolute_path_is_one(path: str) -> None:
    assert native.Pattern(f'{{"root": {{"path": "{path}"}}}}'.encode()).marked() == b'{"root": {"path": "/@{wherry:00}"}}'


@pytest.mark.parametrize("text", [b'{"a', b"]", b"}", b"[" * 40, b'{"hostname": "x\\"}'])
def test_what_does_not_match(text: bytes) -> None:
    with pytest.raises(OSError, match="Bad message"):
        native.Pattern(text)


def test_a_name_that_only_looks_alike_is_none() -> None:
    for text in (b'{"Hostname": "a"}', b'{"hostname2": "a"}', b'{"linux": {"hostname": "a"}}', b'[{"hostname": "a"}]', b'{"host\\u006eame": "a"}'):
        assert native.Pattern(text).marked() == text


def test_every_other_byte_is_in_the_name() -> None:
    text = encode(config(annotations={"a": "1"}))
    names = {native.Pattern(text).pattern}
    read = native.Pattern(text).marked()
    assert read != text
    for index in range(len(text)):
        changed = text[:index] + bytes([text[index] ^ 1]) + text[index + 1 :]
        try:
            other = native.Pattern(changed)
        except OSError:
            continue
        if other.marked() != read:
            assert other.pattern not in names
        else:
            assert other.exact != native.Pattern(text).exact


def test_a_text_that_looks_like_a_mark_is_not_filled_again() -> None:
    one, other = config(hostname="@{wherry:01}", process__args=["a"]), config(hostname="b", process__args=["c"])
    assert filled(encode(one), encode(other), host(), options()) == Plan(make(one)).document()


def test_a_text_much_longer_than_the_plan() -> None:
    document = config(annotations={"a": "x"})
    pattern = make(json.loads(native.Pattern(encode(document)).marked()))
    document["annotations"]["a"] = "y" * 200_000
    assert Plan(native.Pattern(encode(document)).fill(pattern)).document() == Plan(make(document)).document()
