# SPDX-License-Identifier: Apache-2.0
# What a contributor types. The work is done by the scripts in tests/tools.
VENV ?= .venv
export WHERRY_VENV := $(abspath $(VENV))
RUN := tests/tools/run-tests.sh
SUITES ?= lint unit c front python v2 shim serve engines # of `make test`
REQUIRED ?= /dev/null # list of tests that must not be skipped: CI gives tests/must_not_skip.txt

.PHONY: all setup rebuild demo test test-v2 unit lint man fuzz shim serve docs conformance bench clean

all: setup

setup:
	tests/tools/setup.sh

rebuild: ## after a change: a few seconds
	tests/tools/setup.sh rebuild

$(VENV)/bin/wherry:
	tests/tools/setup.sh user

demo: $(VENV)/bin/wherry ## a container's life, and the plan behind it
	docs/demo.sh $(VENV)/bin/wherry

unit: ; $(RUN) unit
lint: ; $(RUN) lint
shim: ; $(RUN) shim
serve: ; $(RUN) serve

test: setup ## everything that this machine can do: guest and engines are skipped, loudly, where they cannot be had
	rm -rf build/reports
	$(RUN) $(SUITES)
	$(VENV)/bin/python tests/tools/report.py total build/reports $(REQUIRED)

test-v2: setup ## tests/integration on a pure cgroup v2 host, in User-mode Linux
	$(RUN) v2

fuzz: ## every target of libFuzzer for N seconds (60), and those of the shim's readers
	tests/tools/fuzz.sh $(N)
	$(VENV)/bin/python tests/tools/fuzz_shim.py $(N)

man: $(VENV)/bin/wherry ## man pages in build/man
	mkdir -p build/man
	$(VENV)/bin/wherry man build/man

docs: ## pages in docs/_site
	tests/tools/setup.sh docs
	$(VENV)/bin/python docs/pages.py

conformance: ## engines with wherry as their runtime; or a public suite: make conformance SUITE=runc-bats CHECKOUT=DIR PEERS=runc
	$(if $(SUITE),$(VENV)/bin/python conformance/run.py $(SUITE) $(if $(CHECKOUT),--checkout $(CHECKOUT)) $(addprefix --runtime ,$(VENV)/bin/wherry $(PEERS)) $(CONFORMANCE),$(RUN) engines)

bench: ## against runc and crun, interleaved
	$(VENV)/bin/python conformance/bench.py $(BENCH)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
