# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: bundles made from a dict, the runtime under test, requirements by name, the census."""
