# SPDX-License-Identifier: Apache-2.0
"""The annotation that asks for Landlock."""

import json

import pytest

from wherry.oci.landlock import KEY, parse


def test_rules_by_kind() -> None:
    assert parse(json.dumps({"write": ["/tmp"], "read": ["/", "/usr"]})) == [("read", "/"), ("read", "/usr"), ("write", "/tmp")]
    assert parse("{}") == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"reed": ["/"]}', '{"read": "/"}', '{"read": ["tmp"]}', '{"read": [1]}', '{"read": [""]}', '{"read": ["/\\u0000"]}', "7"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not "):
        parse(text)


def test_a_configuration_with_a_bad_one_is_refused() -> None:
    from wherry.errors import ConfigError
    from wherry.oci.checks import check
    from wherry.oci.default import spec

    config = {**spec(), "annotations": {KEY: "no"}}
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert caught.value.pointer == f"/annotations/{KEY}"
