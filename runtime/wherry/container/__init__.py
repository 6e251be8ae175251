# SPDX-License-Identifier: Apache-2.0
"""Floor 5: the life of a container. One module per agenda: create, lifecycle (start state kill delete), run, gc."""
