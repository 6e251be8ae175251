# SPDX-License-Identifier: Apache-2.0
"""The same with Debian 13's Docker (26) and containerd (1.7), which are told our shim's name: docker run --runtime io.containerd.wherry.v2."""

from pathlib import Path

import pytest

from . import newer
from .test_docker import (  # noqa: F401
    containerd,
    docker,
    place,
    test_a_container_in_the_background,
    test_a_health_check,
    test_a_program_that_is_not_there,
    test_a_terminal,
    test_logs_and_restarts,
    test_out_of_memory,
    test_output_and_exit_code,
    test_resizing_and_signals,
)

pytestmark = pytest.mark.requires("root")


@pytest.fixture(scope="module")
def tools() -> Path:
    return newer.tools("trixie")
