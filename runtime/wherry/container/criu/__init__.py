# SPDX-License-Identifier: Apache-2.0
"""Checkpoint and restore, by CRIU: what is external to a container is named by its plan, on both sides."""
