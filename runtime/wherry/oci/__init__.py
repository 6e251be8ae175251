# SPDX-License-Identifier: Apache-2.0
"""Floor 2: the documents of the OCI runtime specification (config, state, features). Pure: no system call, no host facts."""
