# SPDX-License-Identifier: Apache-2.0
"""What engines write (tests/corpus): each is accepted, compiled to the same bytes everywhere, and its whole plan is kept as text."""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import HERE, check_kept, host, make, options

from corpus import load, names
from wherry.errors import WherryError
from wherry.kernel import native
from wherry.oci.validate import validate
from wherry.plan.describe import Plan

FOLDER = HERE / "golden-corpus"
FACTS = sorted(file.stem for file in (HERE / "facts").glob("*.json"))
HAS_EXTENSION = hasattr(native.lib, "host_facts_key")

# What validate has to say of them: which configurations, severity, code, pointers, and why it is true.
EXPECTED = [
    ("buildah-|v2-buildah-|spec-", "warning", "CAPABILITY", r"/process/capabilities/ambient/\d+", "ambient without inheritable: the kernel grants nothing"),
    ("docker-|v2-docker-", "warning", "DEPRECATED", "/hooks/prestart", "Docker's hook for its networks is of that kind"),
    ("spec-crun-rootless", "error", "MAPPINGS", "/linux/uidMappings", "crun makes mappings up from /etc/subuid where there are none; the specification wants them"),
]
REFUSED = {"spec-crun-rootless"}


def facts_of(name: str) -> str:
    """The kind of host that it was caught on; Podman without root makes a user namespace, and the runtime is root in there."""
    if name.startswith(("rootless-", "v2-rootless-")):
        return "nested"
    return "v2" if name.startswith("v2-") else "hybrid"


@pytest.mark.parametrize("name", names())
def test_validate_accepts_it(name: str) -> None:
    result = validate(json.dumps(load(name)).encode(), name)
    told = {number for number, (which, *_) in enumerate(EXPECTED) if re.match(which, name)}
    for finding in result.findings:
        fits = [
            number
            for number in told
            if EXPECTED[number][1] == finding.severity and f"WHERRY-CONFIG-{EXPECTED[number][2]}" == finding.code and re.fullmatch(EXPECTED[number][3], finding.pointer)
        ]
        assert fits, str(finding)
    assert result.valid == (name not in REFUSED)


def test_every_expected_finding_is_found() -> None:
    found = {(finding.severity, finding.code) for name in names() for finding in validate(json.dumps(load(name)).encode(), name).findings}
    assert found == {(severity, f"WHERRY-CONFIG-{code}") for _, severity, code, _, _ in EXPECTED}


# ---- plans as text


def text_of(name: str) -> list[str]:
    """Without the numbers of steps and mounts, and with short ids: what is the same shows as the same."""
    plan = Plan(make(load(name), host(facts_of(name)), options()))
    text = re.sub(r"/mounts/\d+", "/mounts/-", re.sub(r"\b(0[1-9])\1{31}\b", r"ID\1", plan.text()))
    return [re.sub(r"^ *\d+ ", "", line) for line in text.splitlines()[1:]]


def base_of(name: str) -> str:
    """The engine's plan without options, which the others are told by their difference from."""
    parts = name.split("-")
    base = f"v2-{parts[1]}-default" if parts[0] == "v2" else {"cri": "cri-container", "spec": "spec-runc"}.get(parts[0], f"{parts[0]}-default")
    return base if base in names() else f"{parts[1]}-default"


def kept_as(name: str) -> str:
    own, base = text_of(name), base_of(name)
    if base == name:
        return "\n".join(own) + "\n"
    lines = difflib.unified_diff(text_of(base), own, n=0, lineterm="")
    told = [line for number, line in enumerate(lines) if number > 1 and not line.startswith("@@")]
    return "\n".join([f"as {base}, but:", *told]) + "\n"


@pytest.mark.parametrize("name", [name for name in names() if name not in REFUSED])
def test_plan(name: str, request: pytest.FixtureRequest) -> None:
    check_kept(FOLDER / f"{name}.txt", kept_as(name), request.config)


def test_no_kept_plan_without_a_configuration() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(names()) - REFUSED


# ---- the same bytes everywhere

PROGRAM = """
import sys
sys.path[:0] = {path!r}
from test_corpus_plans import digests
print(digests())
"""


def outcome(name: str, facts: str, real_filters: bool) -> bytes:
    """The plan's bytes, or what is wrong with that configuration on that host."""
    given = options()
    if real_filters:
        from wherry.seccomp.cache import flags_of
        from wherry.seccomp.compile import compile_section

        given.seccomp = lambda section: (compile_section(section), flags_of(section))
    try:
        return make(load(name), host(facts), given)
    except WherryError as error:
        assert error.pointer, error
        return f"{error.code} {error.pointer} {error}".encode()


def digests() -> str:
    """One hash of all plans for three kinds of hosts."""
    import hashlib

    whole = hashlib.sha256()
    for name in names():
        for facts in ("hybrid", "v2", "nested"):
            whole.update(outcome(name, facts, facts == "v2" and name.endswith(("default", "capabilities"))))
    return whole.hexdigest()


def test_the_same_bytes_in_other_processes() -> None:
    path = [str(HERE), str(Path(__file__).parents[2]), *sys.path]
    found = {digests()}
    for seed in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", PROGRAM.format(path=path)], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    assert len(found) == 1


@pytest.mark.skipif(not HAS_EXTENSION, reason="needs the extension, which has the strict decoder")
@pytest.mark.parametrize("facts", FACTS)
def test_the_decoder_takes_them(facts: str) -> None:
    for name in names():
        given = options(build_id=b"")
        try:
            plan = make(load(name), host(facts), given)
        except WherryError:
            continue
        native.check_plan(plan)


@pytest.mark.parametrize("facts", ["v1", "hybrid", "v2"])
def test_root_is_refused_nothing_but_the_profile_of_a_missing_apparmor(facts: str) -> None:
    for name in set(names()) - REFUSED:
        text = outcome(name, facts, False)
        assert text[:7] != b"WHERRY-" or text.startswith(b"WHERRY-HOST-KERNEL /process/apparmorProfile"), f"{name}: {text.decode()}"
