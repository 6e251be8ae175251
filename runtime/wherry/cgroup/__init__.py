# SPDX-License-Identifier: Apache-2.0
"""Control groups, pure part: linux.resources as files and values, device rules as a program."""
