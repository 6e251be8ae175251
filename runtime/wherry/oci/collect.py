# SPDX-License-Identifier: Apache-2.0
"""The other way to run shapes and rules: everything that is wrong, not only the first. Loaded by `validate`, never by create.

A rule may take shapes for granted. So that the rules can run although something has the wrong shape, they see the document without it;
and a rule that asks for just that, or for a required property which is missing, is given up: it has nothing to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wherry.oci.checks import CONFIG, RULES, namespace_paths
from wherry.oci.shape import Finding, Object, Report, escape, walk

if TYPE_CHECKING:
    from wherry.oci.model import Config


class Rest(dict[str, Any]):
    """An object without its values of wrong shape. Asking for one of them is a KeyError, not an answer."""

    def __init__(self, value: dict[str, Any], hidden: set[str]) -> None:
        super().__init__((key, item) for key, item in value.items() if key not in hidden)
        self.hidden = hidden

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self.hidden else super().get(key, default)

    def __contains__(self, key: object) -> bool:
        if key in self.hidden:
            raise KeyError(key)
        return super().__contains__(key)


def rules_for_the_rest(value: dict[str, Any], shape: Object, place: str, report: Report) -> None:
    rest = Rest(value, {key for key in value if f"{place}/{escape(key)}" in report.bad})
    for rule in shape.rules:
        try:
            rule(rest, place, report)
        except KeyError:
            continue


class Unknown(dict[str, str]):
    """Namespaces that nobody can tell, because their list has the wrong shape."""

    def __contains__(self, key: object) -> bool:
        raise KeyError(key)


def collect(config: Config) -> list[Finding]:
    report = Report(collect=True)
    walk(config, CONFIG, "", report)
    if not isinstance(config, dict):
        return report.findings
    rest: Config = _without(config, report.bad, "")
    try:
        spaces = namespace_paths(rest)
    except KeyError:
        spaces = Unknown()
    for rule in RULES:
        try:
            rule(rest, spaces, report)
        except KeyError:
            continue
    return report.findings


def _without(value: Any, bad: list[str], place: str) -> Any:
    """A copy with Rests for the objects that hold something bad. Where an element of an array is bad, so is the whole array."""
    if not any(pointer.startswith(f"{place}/") for pointer in bad):
        return value
    if isinstance(value, list):
        return [_without(item, bad, f"{place}/{index}") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    hidden = {key for key in value if f"{place}/{escape(key)}" in bad}
    return Rest({key: _without(item, bad, f"{place}/{escape(key)}") for key, item in value.items()}, hidden)
