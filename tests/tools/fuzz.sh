#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh [SECONDS [NAME...]]: each target of libFuzzer (csrc/tests/fuzz_NAME.c) for so many seconds (60).
# What is interesting stays in build/fuzz/corpus and is where the next run begins; what breaks something is build/fuzz/found-NAME-*.
set -uo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60} build=build/fuzz status=0
shift
names=("$@")

if ! command -v clang >/dev/null; then
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    echo "fuzz: installing clang (50 MB)"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends clang libclang-rt-dev; } >/dev/null || { echo "fuzz: apt-get could not install clang" >&2; exit 1; }
  else
    echo "fuzz: first, as root: apt-get install clang libclang-rt-dev" >&2
    exit 2
  fi
fi
mkdir -p "$build"
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
if ! { cmake -S csrc -B "$build" "${generator[@]}" -DCMAKE_C_COMPILER=clang -DWHERRY_FUZZ=ON && cmake --build "$build" -j2; } >"$build/build.log" 2>&1; then
  tail -30 "$build/build.log"
  exit 1
fi
if ((${#names[@]} == 0)); then
  for source in csrc/tests/fuzz_*.c; do source=${source##*/fuzz_}; names+=("${source%.c}"); done
fi
for name in "${names[@]}"; do
  echo "-- $name, $seconds s"
  mkdir -p "$build/corpus/$name"
  seeds=()
  [[ $name == pattern && -d tests/corpus/configs ]] && seeds=(tests/corpus/configs)
  "$build/fuzz_$name" -max_total_time="$seconds" -max_len=8192 -rss_limit_mb=2048 -timeout=10 -verbosity=0 -print_final_stats=1 -artifact_prefix="$build/found-$name-" \
    "$build/corpus/$name" "${seeds[@]}" 2>&1 | sed -u '/Recommended dictionary/,/End of recommended/d; /NEW_FUNC/d' || status=1
done
((status)) && echo "fuzz: something was found: $build/found-*, to be given to $build/fuzz_NAME"
exit $status
