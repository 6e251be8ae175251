# SPDX-License-Identifier: Apache-2.0
"""Typed clients of wherry.shim.v1."""
