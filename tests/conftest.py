# SPDX-License-Identifier: Apache-2.0
"""Every test sees the harness."""

pytest_plugins = ["harness.plugin"]
