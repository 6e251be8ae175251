#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs suites, each with its log and counts in build/reports:
#
#   tests/tools/run-tests.sh SUITE...
#
#   lint      ruff, mypy, import floors, house rules (sizes, licence lines, plan numbers), generated stubs
#   unit      tests/unit, no privileges needed
#   c         csrc/tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   front     tests/integration with the front; python: the same with WHERRY_FRONT=off
#   v2        tests/integration on a pure cgroup v2 host: two User-mode Linux guests (tests/hosts) share it
#   minimal   `make demo` and `make test` in a minimal Debian root, as root and as an ordinary user
#   shim      tests/shim: the shim's codec, transport, service, and containerd with it
#   serve     tests/serve: the gRPC server, its client and ctl
#   engines   containerd, Podman, Docker, Buildah with wherry as their runtime
#
# A test that fails is run once more, alone: where it passes then, it is FLAKY, counted as passed and shown.
set -uo pipefail
cd "$(dirname "$0")/../.."
venv=${WHERRY_VENV:-$PWD/.venv}
reports=${WHERRY_REPORTS:-$PWD/build/reports}
mkdir -p "$reports"
export PATH=$venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1

count() { "$venv/bin/python" tests/tools/report.py "$@"; }
heading() { printf '\n==== %s ====\n' "$1"; }

# pytest_suite NAME ARGUMENT...: a suite that never ran counts as one failure
pytest_suite() {
  local suite=$1 status=0; shift
  local file=$reports/$suite.json
  rm -f "$file"
  heading "$suite"
  "$venv/bin/pytest" -q -p no:cacheprovider --report-json="$file" "$@" || status=$?
  if ((status > 1)) || [[ ! -s $file ]]; then count single "$file" "$suite: pytest ended with status $status" failed; fi
}

# again NAME ARGUMENT...: each failed test of the suite once more, alone
again() {
  local suite=$1 test; shift
  local file=$reports/$suite.json tests=()
  mapfile -t tests < <(count failed "$file" | grep ::)
  if ((${#tests[@]} == 0 || ${#tests[@]} > 20)); then return; fi
  for test in "${tests[@]}"; do
    heading "$suite: once more, alone: $test"
    if "$venv/bin/pytest" -q -p no:cacheprovider "$@" "$test"; then
      echo "FLAKY: $test failed at first and passed alone"
      count flaky "$file" "$test"
    fi
  done
}

suite_lint() {
  heading lint
  local file=$reports/lint.json check
  rm -f "$file"
  for check in ruff mypy imports house stubs; do
    if tests/tools/lint.sh "$check"; then count single "$file" "lint: $check" passed; else count single "$file" "lint: $check" failed; fi
  done
}

suite_unit() { pytest_suite unit tests/unit; again unit; }

suite_c() {
  heading "C tests"
  local build=build/c junit=$reports/ctest.xml generator=()
  rm -f "$junit" "$reports/c.json"
  command -v ninja >/dev/null && generator=(-G Ninja)
  if cmake -S csrc -B "$build" "${generator[@]}" -DWHERRY_TESTS=ON -DWHERRY_SANITIZE=ON >"$reports/c.log" 2>&1 && cmake --build "$build" -j2 >>"$reports/c.log" 2>&1; then
    ctest --test-dir "$build" --repeat until-pass:2 --output-on-failure --test-output-size-passed 100000 --test-output-size-failed 100000 --output-junit "$junit"
    count ctest "$reports/c.json" "$junit"
  else
    tail -50 "$reports/c.log"
    count single "$reports/c.json" "csrc/tests: build" failed
  fi
}

build_probe() { if [[ -e tests/probe/Makefile ]]; then flock build make -s -C tests/probe >/dev/null || echo "the probe does not build: tests go on without it" >&2; fi; }
suite_front() { build_probe; pytest_suite front tests/integration --front=on; again front --front=on; }
suite_python() { build_probe; pytest_suite python tests/integration --front=off; again python --front=off; }

suite_v2() {
  heading "v2: pure cgroup v2, systemd, AppArmor (User-mode Linux)"
  local file=$reports/v2.json
  rm -f "$file"
  local guest=(tests/hosts/uml-run)
  if ((EUID)); then
    echo "SKIPPED, LOUDLY: the guest needs root, nothing was tested on cgroup v2"
    count single "$file" "tests/hosts/uml-run: the guest" "skipped: it needs root"
    return
  fi
  case $PWD/ in /tmp/*) guest+=(-d "$PWD") ;; esac # the guest has a /tmp of its own
  if ! "${guest[@]}" -t 60 -- true; then
    echo "SKIPPED, LOUDLY: no User-mode Linux guest can be had here, nothing was tested on cgroup v2"
    count single "$file" "tests/hosts/uml-run: the guest" "skipped: no User-mode Linux can be had here"
    return
  fi
  build_probe
  [[ $reports/ == /tmp/* ]] || guest+=(-d "$reports")
  # a guest has one processor: two of them take half the time where there are two
  local part parts=$(($(nproc) > 1 ? 2 : 1)) guests=()
  for ((part = 1; part <= parts; part++)); do
    rm -f "$reports/v2-part$part.json"
    "${guest[@]}" -t 1500 -- env WHERRY_REPORTS="$reports" WHERRY_VENV="$venv" PART="$part/$parts" tests/tools/run-tests.sh in-guest >"$reports/v2-part$part.log" 2>&1 </dev/null &
    guests+=($!)
  done
  wait "${guests[@]}"
  for ((part = 1; part <= parts; part++)); do
    cat "$reports/v2-part$part.log"
    [[ -s $reports/v2-part$part.json ]] || count single "$file" "tests/hosts/uml-run: guest $part of $parts gave no result" failed
    count merge "$file" "$reports/v2-part$part.json"
  done
}
# Of the shim, what differs there: limits, statistics, pause, kills of all, systemd, and containerd with it.
V2_SHIM=(tests/shim/test_service_host.py tests/shim/test_exec_alone.py tests/shim/test_kept.py tests/shim/test_service.py::test_{pause_and_resume,the_death_of_a_paused_container,update_and_stats}
  tests/shim/test_service.py::test_{kill_all_where_the_pid_namespace_is_shared,pids_name_execs} tests/shim/test_service_deaths.py::test_what_delete_takes_away
  tests/shim/test_containerd.py::test_{output_and_exit_code,exec,pause_and_resume,metrics_and_processes,kill} tests/shim/test_systemd.py)
# How the front finds its Python has nothing to do with cgroups, and needs a compiler for a minute.
suite_in-guest() {
  local suite=v2-part${PART%/*}
  pytest_suite "$suite" tests/integration tests/engines/test_systemd.py tests/serve/test_systemd.py "${V2_SHIM[@]}" --front=on --part="$PART" --timeout=180 --ignore=tests/integration/test_installation.py
  again "$suite" --front=on --timeout=180
}

suite_minimal() {
  heading "minimal Debian root"
  tests/tools/minimal-root.sh "$reports"
}

suite_shim() {
  pytest_suite shim tests/shim --timeout=180
  again shim --timeout=180
}

suite_serve() {
  if ((EUID)); then
    heading serve
    echo "SKIPPED, LOUDLY: the server's containers need root"
    rm -f "$reports/serve.json"
    count single "$reports/serve.json" "tests/serve" "skipped: its containers need root"
    return
  fi
  pytest_suite serve tests/serve --timeout=180
  again serve --timeout=180
}

suite_engines() {
  if ((EUID)); then
    heading engines
    echo "SKIPPED, LOUDLY: engines need root"
    rm -f "$reports/engines.json"
    count single "$reports/engines.json" "tests/engines" "skipped: they need root"
    return
  fi
  pytest_suite engines tests/engines --timeout=180
  again engines --timeout=180
}

# Of all that has been waited for, in seconds: what the suite takes where nothing else runs.
processor_time() { awk '{ print int(($16 + $17) / 100) }' /proc/$$/stat; }

for suite in "$@"; do
  SECONDS=0 before=$(processor_time)
  "suite_$suite"
  echo "-- $suite took $SECONDS s, $(($(processor_time) - before)) s of a processor"
done
