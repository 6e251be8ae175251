# SPDX-License-Identifier: Apache-2.0
"""Generated from specs/*.proto by tests/tools/stubs.py: not to be edited."""
