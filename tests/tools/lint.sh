#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lint.sh [ruff|mypy|imports|house|stubs]: one check, or all.
set -uo pipefail
cd "$(dirname "$0")/../.."
venv=${WHERRY_VENV:-$PWD/.venv}
check_ruff() { "$venv/bin/ruff" check --no-cache .; }
check_mypy() { "$venv/bin/mypy" --cache-dir build/mypy; }
check_imports() { PYTHONPATH=runtime:shim "$venv/bin/lint-imports" --no-cache; }
check_stubs() { "$venv/bin/python" tests/tools/stubs.py --check; }
check_house() { "$venv/bin/python" tests/tools/house.py; }
status=0
for check in "${@:-ruff mypy imports house stubs}"; do
  for one in $check; do echo "-- $one"; "check_$one" || status=1; done
done
exit $status
