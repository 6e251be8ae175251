# SPDX-License-Identifier: Apache-2.0
"""The timeline of --trace as OTLP/JSON, what OpenTelemetry collectors take on /v1/traces: one ExportTraceServiceRequest. Pure but for random ids.

A span for all of it, below that of TRACEPARENT (W3C trace context) where the environment has one, and one for each phase and step.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_INTERNAL, _ERROR = 1, 2  # SPAN_KIND_INTERNAL, STATUS_CODE_ERROR


def request(events: list[dict[str, Any]], rows: Mapping[int, str], error: str | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """`events`: as wherry.container.trace has them, `ts` and `dur` in nanoseconds; `rows`: who each is of."""
    parent = _PARENT.fullmatch(environment.get("TRACEPARENT", ""))
    trace, root = (parent[1] if parent else secrets.token_hex(16)), secrets.token_hex(8)
    begin = min((event["ts"] for event in events), default=0)
    end = max((event["ts"] + event["dur"] for event in events), default=0)
    spans = [_span(trace, root, parent[2] if parent else "", "wherry", begin, end, {}, error)]
    for event in events:
        facts = {f"wherry.{name}": value for name, value in event["args"].items() if name != "error"} | {"wherry.executor": rows[event["pid"]]}
        own = secrets.token_hex(8)
        spans.append(_span(trace, own, root, event["name"], event["ts"], event["ts"] + event["dur"], facts, event["args"].get("error")))
    scope = {"scope": {"name": "wherry"}, "spans": spans}
    return {"resourceSpans": [{"resource": {"attributes": _attributes({"service.name": "wherry"})}, "scopeSpans": [scope]}]}


def _span(trace: str, own: str, parent: str, name: str, begin: int, end: int, facts: Mapping[str, Any], error: str | None) -> dict[str, Any]:
    return {
        "traceId": trace,
        "spanId": own,
        "parentSpanId": parent,
        "name": name,
        "kind": _INTERNAL,
        "startTimeUnixNano": str(begin),
        "endTimeUnixNano": str(end),
        "attributes": _attributes(facts),
        "status": {"code": _ERROR, "message": error} if error else {},
    }


def _attributes(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """64-bit numbers are texts in the JSON form of protobuf."""
    return [{"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}} for key, value in facts.items()]
