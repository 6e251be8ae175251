# SPDX-License-Identifier: Apache-2.0
"""`wherry-shim ctl`."""
