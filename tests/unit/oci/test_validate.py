# SPDX-License-Identifier: Apache-2.0
"""What `wherry validate` says: places in the text, the bundle, one finding for one fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wherry.oci.default import spec
from wherry.oci.validate import validate

from .configs import full


def text(config: Any) -> bytes:
    return json.dumps(config, indent=2).encode()


def bundle(path: Path, **changes: Any) -> Path:
    (path / "rootfs" / "proc").mkdir(parents=True)
    (path / "config.json").write_bytes(text({**spec(), **changes}))
    return path


def findings(path: Path) -> dict[str, tuple[str, str]]:
    result = validate((path / "config.json").read_bytes(), "config.json", path)
    return {finding.pointer: (finding.severity, finding.code) for finding in result.findings}


def test_a_valid_configuration() -> None:
    result = validate(text(full()), "x.json")
    assert result.valid
    assert list(result.lines()) == ["x.json: valid, no errors, no warnings"]
    assert result.document() == {"file": "x.json", "valid": True, "errors": 0, "warnings": 0, "findings": []}


def test_places_in_the_order_of_the_text() -> None:
    data = b'{\n  "ociVersion": "1.0.0",\n  "hostname": 5,\n  "root": {"path": ""}, "mystery": 1\n}'
    result = validate(data, "x.json")
    assert not result.valid
    assert list(result.lines()) == [
        "x.json:3:15: error: /hostname: must be a string, not a number [WHERRY-CONFIG-TYPE]",
        "x.json:4:20: error: /root/path: must not be empty [WHERRY-CONFIG-VALUE]",
        "x.json:4:36: warning: /mystery: the specification has no such property: it is ignored [WHERRY-CONFIG-UNKNOWN-PROPERTY]",
        "x.json: not valid, 2 errors, 1 warning",
    ]
    (first, *_) = result.document()["findings"]
    assert first == {
        "severity": "error",
        "code": "WHERRY-CONFIG-TYPE",
        "pointer": "/hostname",
        "message": "must be a string, not a number",
        "line": 3,
        "column": 15,
    }


def test_what_is_no_json_is_one_finding() -> None:
    result = validate(b'{\n"a": 1,\n}', "x.json")
    assert list(result.lines()) == [
        'x.json:2:7: error: a comma before "}" (remove the comma) [WHERRY-JSON-SYNTAX]',
        "x.json: not valid, 1 error, no warnings",
    ]
    assert next(validate(b"\xef\xbb\xbf{}", "x.json").lines()).startswith("x.json: error: the file begins with")


def test_rule_and_schema_speak_once_about_a_place() -> None:
    config = full()
    config["process"]["cwd"] = "relative"
    config["linux"]["timeOffsets"]["other"] = {}
    found = validate(text(config)).findings
    assert [finding.pointer for finding in found] == ["/process/cwd", "/linux/timeOffsets/other"]


def test_a_control_character_cannot_forge_a_line() -> None:
    config = full()
    config["annotations"]["a\nwherry: valid"] = 5
    lines = list(validate(text(config), "x.json").lines())
    assert len(lines) == 2 and "a\\nwherry" in lines[0]


def test_a_good_bundle(tmp_path: Path) -> None:
    assert findings(bundle(tmp_path)) == {}


def test_no_rootfs(tmp_path: Path) -> None:
    assert findings(bundle(tmp_path, root={"path": "other"})) == {"/root/path": ("error", "WHERRY-BUNDLE-ROOTFS")}


def test_rootfs_is_a_file(tmp_path: Path) -> None:
    assert findings(bundle(tmp_path, root={"path": "config.json"})) == {"/root/path": ("error", "WHERRY-BUNDLE-ROOTFS")}


def test_rootfs_is_a_link(tmp_path: Path) -> None:
    bundle(tmp_path, root={"path": "link"})
    (tmp_path / "link").symlink_to("rootfs")
    assert findings(tmp_path) == {"/root/path": ("error", "WHERRY-BUNDLE-SYMLINK")}


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_is_a_link(tmp_path: Path, name: str) -> None:
    bundle(tmp_path)
    if name == "proc":
        (tmp_path / "rootfs" / name).rmdir()
    (tmp_path / "rootfs" / name).symlink_to("/")
    index = [mount["destination"] for mount in spec()["mounts"]].index(f"/{name}")
    assert findings(tmp_path) == {f"/mounts/{index}/destination": ("error", "WHERRY-BUNDLE-SYMLINK")}


def test_missing_bind_source(tmp_path: Path) -> None:
    mounts = [
        {"destination": "/a", "source": "rootfs", "options": ["bind"]},
        {"destination": "/b", "source": "missing", "options": ["rbind"]},
        {"destination": "/c", "source": str(tmp_path / "missing"), "options": ["bind"]},
        {"destination": "/d", "source": "missing", "type": "tmpfs"},
    ]
    found = findings(bundle(tmp_path, mounts=mounts))
    assert found == {f"/mounts/{index}/source": ("warning", "WHERRY-BUNDLE-RISK") for index in (1, 2)}


@pytest.mark.parametrize("changes", [{"root": 5}, {"root": {"path": 5}}, {"mounts": 5}, {"mounts": [5, {"options": 5}]}])
def test_bundle_checks_take_anything(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "error" in {severity for severity, _ in findings(bundle(tmp_path, **changes)).values()}
