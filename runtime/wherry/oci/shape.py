# SPDX-License-Identifier: Apache-2.0
"""How the shape of a JSON document is written down and compared: the engine below wherry.oci.checks.

A shape says what a value may be:

    str  bool            that type
    (low, high)          an integer in this range, both ends included
    frozenset            one of these strings
    [shape]              an array of it
    Object, Map, Late    see the classes

A rule of an Object or Map sees one value whose shape is right, and its pointer. Rules read and report, they change nothing.
Two ways to run: the first error is raised (create, fast), or everything is collected (validate).
"""

from wherry.errors import ConfigError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

U16 = (0, (1 << 16) - 1)
U32 = (0, (1 << 32) - 1)
ID = (0, (1 << 32) - 2)
"""Of a user or a group: the last number means "as it is" to the kernel, which would leave a program root that is to be somebody else."""
U64 = (0, (1 << 64) - 1)
I32 = (-(1 << 31), (1 << 31) - 1)
I64 = (-(1 << 63), (1 << 63) - 1)


class Finding:
    """One thing that is wrong ("error") or dubious ("warning") with a configuration."""

    __slots__ = ("code", "message", "pointer", "remedy", "severity")

    def __init__(self, severity: str, code: str, pointer: str, message: str, remedy: "str | None" = None) -> None:
        self.severity = severity
        self.code = code
        self.pointer = pointer
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        text = printable(f"{self.pointer}: {self.message}" if self.pointer else self.message)
        return f"{text} ({self.remedy})" if self.remedy else text

    def __repr__(self) -> str:
        return f"<{self.severity} {self.code} {self}>"

    def document(self) -> "dict[str, str]":
        document = {"severity": self.severity, "code": self.code, "pointer": self.pointer, "message": self.message}
        if self.remedy:
            document["remedy"] = self.remedy
        return document


class Report:
    """Takes what shapes and rules have to say. `collect` false: the first error is raised as ConfigError."""

    __slots__ = ("bad", "collect", "findings")

    def __init__(self, collect: bool = False) -> None:
        self.collect = collect
        self.findings: "list[Finding]" = []
        self.bad: "list[str]" = []  # pointers of values whose shape is wrong

    def error(self, name: str, pointer: str, message: str, remedy: "str | None" = None) -> None:
        for place, words in _FAMILIAR.items():
            if pointer.startswith(place):
                message = f"{words}: {message}"
        if not self.collect:
            raise ConfigError(message, code=f"WHERRY-CONFIG-{name}", pointer=pointer, remedy=remedy)
        self.findings.append(Finding("error", f"WHERRY-CONFIG-{name}", pointer, message, remedy))

    def warn(self, name: str, pointer: str, message: str, remedy: "str | None" = None) -> None:
        self.findings.append(Finding("warning", f"WHERRY-CONFIG-{name}", pointer, message, remedy))


# What users of other runtimes search for.
_FAMILIAR = {f"/linux/memoryPolicy/{name}": f"invalid memory policy {name.rstrip('s')}" for name in ("mode", "flags", "nodes")}


class Object:
    """A JSON object with known properties. Others are ignored, as the specification wants (`findings` warns)."""

    __slots__ = ("properties", "required", "rules")

    def __init__(self, properties: "dict[str, Any]", required: "tuple[str, ...]" = (), rules: "tuple[Rule, ...]" = ()) -> None:
        self.properties = properties
        self.required = required
        self.rules = rules


class Map:
    """A JSON object with any keys and values of one shape."""

    __slots__ = ("rules", "values")

    def __init__(self, values: "Any", rules: "tuple[Rule, ...]" = ()) -> None:
        self.values = values
        self.rules = rules


class Late:
    """A shape in a module that is imported when a value for it turns up."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def load(self) -> "Any":
        return getattr(__import__(f"wherry.oci.{self.module}", fromlist=(self.name,)), self.name)


if TYPE_CHECKING:
    Rule = Callable[[Any, str, Report], None]


def escape(key: str) -> str:
    """One reference token of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1") if "/" in key or "~" in key else key


# ---- shapes


def walk(value: "Any", want: "Any", place: str, report: Report) -> bool:
    """Compare a value with its shape. False: it cannot be used (only where errors are collected)."""
    kind = want.__class__
    if kind is Late:
        want = want.load()
        kind = want.__class__
    if kind is list:
        return _array(value, want[0], place, report)
    if kind is Object:
        return _object(value, want, place, report)
    if kind is tuple:
        return _integer(value, want, place, report)
    if kind is frozenset:
        return _choice(value, want, place, report)
    if kind is Map:
        return _map(value, want, place, report)
    if value.__class__ is want:
        return want is bool or not report.collect or _clean(value, place, report)
    return _mistyped(value, "a string" if want is str else "true or false", place, report)


def _object(value: "Any", shape: Object, place: str, report: Report) -> bool:
    if value.__class__ is not dict:
        return _mistyped(value, "an object", place, report)
    before = len(report.bad)
    usable = True
    properties = shape.properties
    collect = report.collect
    if not collect and not value.keys() <= properties.keys():
        _respell(value, properties, place, report)
    for key in shape.required:
        if key not in value:
            report.error("REQUIRED", f"{place}/{key}", "this property is required")
            usable = False
    for key, item in value.items():
        want = properties.get(key)
        if want is str and item.__class__ is str and not collect:
            continue
        if want is None:
            if collect:
                _unknown(key, properties, place, report)
        elif not walk(item, want, f"{place}/{key}", report):
            report.bad.append(f"{place}/{key}")
            usable = usable and key not in shape.required
    if usable and len(report.bad) == before:
        for rule in shape.rules:
            rule(value, place, report)
    elif report.collect:
        from wherry.oci.collect import rules_for_the_rest

        rules_for_the_rest(value, shape, place, report)
    return usable


TAKEN = "it is taken for"


def _respell(value: "dict[str, Any]", properties: "dict[str, Any]", place: str, report: Report) -> None:
    """Runtimes that are written in Go read `pagesize` as pageSize, and there are configurations that rely on it."""
    names = {name.lower(): name for name in properties}
    for key in [key for key in value if key not in properties]:
        name = names.get(key.lower())
        if name is not None and name not in value:
            value[name] = value.pop(key)
            report.warn("VALUE", f"{place}/{escape(key)}", f"{TAKEN} {name}")


def _map(value: "Any", shape: Map, place: str, report: Report) -> bool:
    if value.__class__ is not dict:
        return _mistyped(value, "an object", place, report)
    before = len(report.bad)
    want = shape.values
    for key, item in value.items():
        if not walk(item, want, f"{place}/{escape(key)}", report):
            report.bad.append(f"{place}/{escape(key)}")
    if len(report.bad) == before:
        for rule in shape.rules:
            rule(value, place, report)
    return True


def _array(value: "Any", want: "Any", place: str, report: Report) -> bool:
    if value.__class__ is not list:
        return _mistyped(value, "an array", place, report)
    usable = True
    if want is str and not report.collect:
        for item in value:
            if item.__class__ is not str:
                index = next(index for index, item in enumerate(value) if item.__class__ is not str)
                return _mistyped(value[index], "a string", f"{place}/{index}", report)
        return True
    if want.__class__ is Late:
        want = want.load()
    before = len(report.bad)
    for index, item in enumerate(value):
        usable = walk(item, want, f"{place}/{index}", report) and usable
    return usable and len(report.bad) == before


def _integer(value: "Any", want: "tuple[int, int]", place: str, report: Report) -> bool:
    if value.__class__ is not int:
        return _mistyped(value, "an integer", place, report)
    low, high = want
    if low <= value <= high:
        return True
    if value < low:
        report.error("RANGE", place, f"{value} is too small, {low} is the smallest value")
    else:
        report.error("RANGE", place, f"{value} is too large, {high} is the largest value")
    return False


def _choice(value: "Any", want: "frozenset[str]", place: str, report: Report) -> bool:
    if value.__class__ is not str:
        return _mistyped(value, "a string", place, report)
    if value in want:
        return True
    report.error("UNKNOWN-VALUE", place, f'"{value}" is not known here', "one of " + ", ".join(sorted(want)))
    return False


_TYPES = {str: "a string", bool: "a boolean", int: "a number", float: "a number with a fraction", list: "an array", dict: "an object"}


def _mistyped(value: "Any", wanted: str, place: str, report: Report) -> bool:
    report.error("TYPE", place, f"must be {wanted}, not {_TYPES.get(value.__class__, 'null')}")
    return False


def _clean(value: str, place: str, report: Report) -> bool:
    """config.load has refused NUL already; `findings` may get a document from elsewhere."""
    if "\0" not in value:
        return True
    report.error("VALUE", place, "the string holds a NUL character")
    return False


def _unknown(key: str, properties: "dict[str, Any]", place: str, report: Report) -> None:
    from wherry.oci.suggest import nearest

    report.warn(
        "UNKNOWN-PROPERTY", f"{place}/{escape(key)}", "the specification has no such property: it is ignored", nearest(key, properties)
    )
