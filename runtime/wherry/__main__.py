# SPDX-License-Identifier: Apache-2.0
"""`python -m wherry VERB`: every verb without the front."""

from wherry.boot import main

main()
