# SPDX-License-Identifier: Apache-2.0
"""The shim: containers of wherry for containerd (ttrpc) and for other orchestrators (gRPC)."""
