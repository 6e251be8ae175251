# SPDX-License-Identifier: Apache-2.0
"""The same with newer containerds than Debian 12's: 1.7, which refuses an answer of version 3, and 2.x. WHERRY_LONG=1: all that can differ."""

import os

import pytest

from .test_containerd import (  # noqa: F401
    test_a_killed_server_takes_its_container_along,
    test_a_pod_has_one_server,
    test_a_terminal,
    test_an_exit_while_containerd_is_away,
    test_exec,
    test_output_and_exit_code,
    test_pause_and_resume,
)

if os.environ.get("WHERRY_LONG"):
    from .test_containerd import (  # noqa: F401
        test_a_program_that_is_not_there,
        test_a_stopped_task_waits_for_its_delete,
        test_containerd_restarts,
        test_exec_on_a_terminal,
        test_kill,
        test_metrics_and_processes,
        test_standard_input,
    )

pytestmark = pytest.mark.requires("root")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("daemon", ["trixie", "sid"], indirect=True, scope="module")
