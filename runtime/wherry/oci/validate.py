# SPDX-License-Identifier: Apache-2.0
"""`wherry validate`: everything that can be said about a configuration without touching the host. May import anything.

Three sources, in one list, each finding with pointer, line and column: the rules (wherry.oci.checks, which word things best), the
JSON Schema (specs/config.schema.json, for what no rule says), and the bundle that the configuration stands in. The schema has no
oneOf, so each of its errors is about one value; one that a rule has spoken about at the same place is left out.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry.errors import JsonError
from wherry.oci import checks
from wherry.oci.reader import Reader, escape
from wherry.oci.shape import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema.exceptions import ValidationError

    from wherry.oci.model import Config

SEVERITIES = ("error", "warning")


class Result:
    """What `validate` found, in the order of the text."""

    def __init__(self, name: str, findings: list[Finding], places: dict[int, tuple[int, int]] | None = None) -> None:
        self.name = name
        self.findings = findings
        self._places = places or {}

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def valid(self) -> bool:
        return self.count("error") == 0

    def lines(self) -> Iterator[str]:
        """For a person: FILE:LINE:COLUMN: severity: pointer: message (remedy) [code]"""
        for finding in self.findings:
            place = ":".join((self.name, *map(str, self._places.get(id(finding), ()))))
            yield f"{place}: {finding.severity}: {finding} [{finding.code}]"
        errors, warnings = (_plural(self.count(severity), severity) for severity in SEVERITIES)
        yield f"{self.name}: {'valid' if self.valid else 'not valid'}, {errors}, {warnings}"

    def document(self) -> dict[str, Any]:
        """For a program."""
        findings: list[dict[str, Any]] = []
        for finding in self.findings:
            document: dict[str, Any] = finding.document()
            if id(finding) in self._places:
                document["line"], document["column"] = self._places[id(finding)]
            findings.append(document)
        return {
            "file": self.name,
            "valid": self.valid,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": findings,
        }


def validate(data: bytes, name: str = "config.json", bundle: Path | None = None) -> Result:
    """Never raises for what is wrong with the document."""
    try:
        reader = Reader(data, name)
        config: Any = reader.document()
    except JsonError as error:
        finding = Finding("error", error.code, error.pointer or "", error.message, error.remedy)
        places = {id(finding): (error.facts["line"], error.facts["column"])} if "line" in error.facts else {}
        return Result(name, [finding], places)
    findings = checks.findings(config)
    spoken = {finding.pointer for finding in findings if finding.severity == "error"}
    findings += (finding for finding in schema_findings(config) if finding.pointer not in spoken)
    if bundle is not None:
        findings += bundle_findings(config, bundle)
    places = {id(finding): reader.place(finding.pointer) for finding in findings}
    findings.sort(key=lambda finding: places[id(finding)])
    return Result(name, findings, places)


# ---- the schema


@functools.cache
def schema() -> dict[str, Any]:
    """As installed beside this module, or in a source tree."""
    beside = Path(__file__).with_name("config.schema.json")
    if not beside.exists():
        beside = Path(__file__).parents[3] / "specs" / "config.schema.json"
    document: dict[str, Any] = json.loads(beside.read_text())
    return document


def schema_findings(config: Any) -> list[Finding]:
    return [_worded(error) for error in _validator().iter_errors(config)]


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _worded(error: ValidationError) -> Finding:
    pointer = "".join(f"/{escape(str(part))}" for part in error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        pointer += f"/{escape(str(error.instance))}"
    instance: Any = error.instance
    wanted: Any = error.validator_value
    code, message = "VALUE", str(error.message)
    if error.validator == "required":
        missing = message.split("'")[1]  # one error for each; nothing but the text says for which
        return Finding("error", "WHERRY-CONFIG-REQUIRED", f"{pointer}/{escape(missing)}", "this property is required")
    if error.validator == "type":
        code, message = "TYPE", f"must be of type {wanted}"
    elif error.validator == "enum":
        code, message = "UNKNOWN-VALUE", f"{json.dumps(instance)} is not one of {', '.join(wanted)}"
    elif error.validator in ("minimum", "maximum"):
        least = error.validator == "minimum"
        code, message = "RANGE", f"{instance} is too {'small' if least else 'large'}, {wanted} is the limit"
    elif error.validator == "pattern":
        message = f"{json.dumps(instance)} is not of the form {wanted}"
    elif error.validator in ("minLength", "minItems"):
        message = "must not be empty"
    elif error.validator == "maxLength":
        code, message = "RANGE", f"longer than {wanted} characters"
    return Finding("error", f"WHERRY-CONFIG-{code}", pointer, message, _description(error))


def _description(error: ValidationError) -> str | None:
    text = error.schema.get("description") if isinstance(error.schema, dict) else None
    return str(text).rstrip(".") if text else None


# ---- the bundle


def bundle_findings(config: Config, bundle: Path) -> list[Finding]:
    root = config.get("root")
    path = root.get("path") if isinstance(root, dict) else None
    if not isinstance(path, str) or not path:
        return []
    rootfs = bundle / path
    if rootfs.is_symlink():
        return [Finding("error", "WHERRY-BUNDLE-SYMLINK", "/root/path", f"{rootfs} is a symbolic link", "name the directory itself")]
    if not rootfs.exists():
        return [Finding("error", "WHERRY-BUNDLE-ROOTFS", "/root/path", f"{rootfs} does not exist")]
    if not rootfs.is_dir():
        return [Finding("error", "WHERRY-BUNDLE-ROOTFS", "/root/path", f"{rootfs} is not a directory")]
    return [*_links(config, rootfs), *_sources(config, bundle)]


def _links(config: Config, rootfs: Path) -> Iterator[Finding]:
    """/proc and /sys as symbolic links are an old way out of a container, so create refuses to mount there."""
    for index, mount in enumerate(_dicts(config.get("mounts"))):
        destination = mount.get("destination")
        if destination in ("/proc", "/sys") and (rootfs / destination[1:]).is_symlink():
            message = f"{rootfs}{destination} is a symbolic link"
            yield Finding("error", "WHERRY-BUNDLE-SYMLINK", f"/mounts/{index}/destination", message, "make it a directory")


def _sources(config: Config, bundle: Path) -> Iterator[Finding]:
    for index, mount in enumerate(_dicts(config.get("mounts"))):
        options, source = mount.get("options"), mount.get("source")
        if not isinstance(options, list) or not isinstance(source, str) or not {"bind", "rbind"} & {*map(str, options)}:
            continue
        if source and not (bundle / source).exists():
            yield Finding("warning", "WHERRY-BUNDLE-RISK", f"/mounts/{index}/source", f"{bundle / source} does not exist here")


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    for item in value if isinstance(value, list) else ():
        yield item if isinstance(item, dict) else {}


def _plural(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
