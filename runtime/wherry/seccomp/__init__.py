# SPDX-License-Identifier: Apache-2.0
"""linux.seccomp as a filter program: cache.py is what create calls, compile.py what is called once for each profile."""
