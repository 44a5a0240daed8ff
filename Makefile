# `make demo` and `make test` set themselves up in .venv from nothing; the second call reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow check clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gcsearch needs Python 3.11 or newer; name one: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)   ## from image files to the best configuration and a report, offline
	$(BIN)/gcsearch run demo --export best

test: $(READY)   ## the tests that take seconds each
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

slow: $(READY)   ## the tests that take a minute or more
	$(BIN)/python -m pytest -m slow --timeout 2400

check: $(READY)  ## linters, formatter, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV)
