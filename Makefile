# Everything runs in .venv, which is made on first use and again when the declared dependencies change.
VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; override with: make PYTHON=/path/to/python3.12 test
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# Test processes; 0 runs the tests in one process.
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
# Options of benchmarks/speed.py, such as BENCH="--peer peer/bin/python --required".
BENCH ?=
# One thread per process: the networks are small, and test processes would fight over the cores.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow check format bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(RUNTIME)  ## collect Pendulum data, train BC, TD3+BC and IQL, write a table and an HTML page
	$(BIN)/offrl quickstart

test: $(DEV)  ## the fast tests and doctests (seconds to a few minutes)
	$(BIN)/python -m pytest -n $(JOBS)

test-slow: $(DEV)  ## the slow tests: real data, resume after a kill, several processes, the notebook
	$(BIN)/python -m pytest -n $(JOBS) -m slow

check: $(DEV)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(DEV)  ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)  ## speed against a loop by hand and d3rlpy; BENCH="--quick --only iql" for a first look
	$(BIN)/python benchmarks/speed.py $(BENCH)

clean:  ## remove the environment and everything that runs wrote
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache build dist

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "lightning_offrl needs Python 3.11 or newer; none found, name one: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and pinned: a range, resolved by way of another package, may fetch a different build.
$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (a minute or two)"
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -c constraints.txt -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(RUNTIME)
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@
