#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv (or $WHERRY_VENV) with the system's Python, the build and test tools, and wherry itself.
#   tests/tools/setup.sh            everything
#   tests/tools/setup.sh rebuild    wherry alone, from the kept build directory (a few seconds)
#   tests/tools/setup.sh test       without the linters
#   tests/tools/setup.sh user       without pytest as well: what `make demo` needs
#   tests/tools/setup.sh docs       what `make docs` needs, and nothing else
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=${WHERRY_VENV:-$PWD/.venv} python=${PYTHON:-/usr/bin/python3} mode=${1:-all}

# What is missing of Debian's packages is installed (root), or named in one line (anybody else).
missing=()
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
[[ -e $("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] || missing+=(python3-dev)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
[[ $(PATH=$PATH:/usr/sbin:/sbin ldconfig -p) == *libseccomp.so.2* ]] || missing+=(libseccomp2)
command -v musl-gcc >/dev/null || missing+=(musl-tools)
PATH=$PATH:/usr/bin:/bin command -v busybox >/dev/null || missing+=(busybox-static)
if ((${#missing[@]})) && ((EUID == 0)) && command -v apt-get >/dev/null; then
  echo "setup: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >/dev/null || { echo "setup: apt-get could not install ${missing[*]}" >&2; exit 1; }
elif ((${#missing[@]})) && [[ "${missing[*]}" != musl-tools ]]; then # without musl-tools the program is a glibc one: bigger, slower to start
  echo "setup: first, as root: apt-get install ${missing[*]}" >&2
  exit 2
fi

if [[ ! -x $venv/bin/python ]]; then "$python" -m venv "$venv"; fi
pip() { PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip --quiet "$@"; }

if [[ $mode == docs ]]; then
  pip install mkdocs-material "mkdocstrings[python]"
  exit
fi
if [[ $mode != rebuild ]]; then
  build=("cffi>=2.1" "scikit-build-core>=0.11")
  # Debian's cmake and ninja are used where they are; the wheels of both are 60 MB
  command -v cmake >/dev/null || build+=("cmake>=3.25")
  command -v ninja >/dev/null || build+=(ninja)
  tools=()
  if [[ $mode == all || $mode == test ]]; then tools=(pytest pytest-timeout hypothesis); fi
  if [[ $mode == all ]]; then tools+=(uv ruff mypy import-linter types-jsonschema types-protobuf types-grpcio types-cffi grpcio-tools==1.85.1); fi
  pip install "${build[@]}" click googleapis-common-protos "grpcio>=1.85.1" grpcio-health-checking grpcio-reflection grpcio-status \
    jeepney jsonschema prometheus-client "protobuf>=7.35.1" pyseccomp rich "${tools[@]}"
fi
mkdir -p build
exec 9>build/.lock # one build at a time in one build directory
flock 9
PATH=$venv/bin:$PATH pip install --no-build-isolation --no-deps --force-reinstall .
