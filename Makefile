# Everything a fresh machine needs beyond Python 3.11+, git and make is set up by the targets themselves.

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
SDK     := .cache/sdk
SDK1    := .cache/sdk1
FUZZ_S  ?= 60
ARGS    ?=
PIP     := PIP_DISABLE_PIP_VERSION_CHECK=1

# The end-to-end tests speak with SDK peers, each in an environment of its own.
export MCPGATE_SDK_PYTHON  ?= $(CURDIR)/$(SDK)/bin/python
export MCPGATE_SDK1_PYTHON ?= $(CURDIR)/$(SDK1)/bin/python

.PHONY: help demo test lint format bench fuzz conformance conformance-all matrix mutants audit wheel clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP)  ## run the gateway with two small servers of its own, and print lines to copy
	$(BIN)/mcpgate demo $(ARGS)

test: $(STAMP) $(SDK)/.installed $(SDK1)/.installed  ## run all tests
	$(BIN)/python -m pytest -n 4 -m "not alone" $(ARGS)
	$(BIN)/python -m pytest -m alone $(ARGS) || [ $$? -eq 5 ]  # 5: none was chosen

lint: $(STAMP)  ## style, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## run the benchmarks
	$(BIN)/python -m pytest benchmarks --benchmark-only $(ARGS)

fuzz: $(STAMP)  ## run each fuzz target for FUZZ_S seconds (atheris must have a wheel for this Python)
	$(PIP) $(BIN)/python -m pip install -q atheris
	@set -e; for target in fuzz/fuzz_*.py; do \
	    name=$$(basename $$target .py); mkdir -p .cache/corpus/$$name; seeds=fuzz/corpus/$${name#fuzz_}; \
	    [ -d $$seeds ] || seeds=; echo "== $$name"; \
	    PYTHONPATH=.:runners $(BIN)/python $$target .cache/corpus/$$name $$seeds -max_total_time=$(FUZZ_S); \
	done

conformance: $(STAMP)  ## run the official MCP conformance suite through the gateway (needs node)
	@command -v npx >/dev/null || { echo "make conformance needs node (npx) on the PATH" >&2; exit 1; }
	$(BIN)/python tests/conformance/run.py $(ARGS)

conformance-all: ARGS := --all $(ARGS)
conformance-all: conformance  ## the same with servers of every era, over stdio and HTTP, and as a client

matrix: $(STAMP) $(SDK)/.installed $(SDK1)/.installed  ## test every runner between every two transports; write docs/matrix.md
	MCPGATE_MATRIX=all $(BIN)/python -m pytest tests/matrix $(ARGS)

mutants: $(STAMP)  ## take each check of docs/threats.md away and see its test fail (some minutes)
	$(BIN)/python -m tests.threats.mutations $(ARGS)

audit: $(STAMP)  ## look installed packages up among known vulnerabilities (asks an advisory service)
	$(PYTHON) -m venv .cache/audit
	$(PIP) .cache/audit/bin/python -m pip install -q pip-audit
	.cache/audit/bin/pip-audit --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" --skip-editable

wheel: $(STAMP)  ## build the wheel into dist/
	$(PIP) $(BIN)/python -m pip wheel -q --no-deps -w dist .

clean:  ## remove all that was built
	rm -rf $(VENV) .cache build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache \
	    .import_linter_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is older than pyproject.toml when dependencies may have changed.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "mcpgate needs Python 3.11 or later; choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

$(SDK)/.installed:
	$(PYTHON) -m venv $(SDK)
	$(PIP) $(SDK)/bin/python -m pip install -q 'mcp>=2.3'
	@touch $@

$(SDK1)/.installed:
	$(PYTHON) -m venv $(SDK1)
	$(PIP) $(SDK1)/bin/python -m pip install -q 'mcp<2'
	@touch $@
