# SPDX-License-Identifier: Apache-2.0
"""Floor 1: the only way to the kernel. Owns descriptors, raises OSError only."""
