# SPDX-License-Identifier: Apache-2.0
"""Every operation of the plan is called by itself in a C test, not only by way of a whole plan."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
TABLES = "".join((CSRC / name).read_text() for name in ("core/execute.c", "host/serve.c"))
OPERATIONS = sorted(set(re.findall(r"X\(OP_\w+, (op_\w+)\)", TABLES)))
TESTS = "".join(path.read_text() for path in sorted((CSRC / "tests").glob("test_*.c")))


def test_the_tables_were_found() -> None:
    assert len(OPERATIONS) > 60
    assert {"op_claim", "op_clone", "op_pivot", "op_seccomp", "op_publish"} <= set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_c_test_calls_it(operation: str) -> None:
    assert re.search(rf"\b{operation}\(", TESTS)
