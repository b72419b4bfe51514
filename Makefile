# `make demo` and `make test` are the two commands a stranger needs; both build the environment first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: help demo test docs lint format clean

help:
	@echo "make demo    environment, install, and the whole pipeline on a real task (about 8 minutes of training)"
	@echo "make test    environment, install, lint, types, import contract, all tests"
	@echo "make docs    the documentation site with the course, as plain files in build/docs (a minute)"
	@echo "make format  rewrite the sources the way lint wants them"
	@echo "make clean   remove the environment and the demo's files"

KERNELS := $(wildcard src/multistride/engines/int8/native/*.[ch])

$(INSTALLED): pyproject.toml constraints.txt src/multistride/version.py $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is too old: multistride needs Python 3.11 or newer (make PYTHON=python3.12 ...)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/cmudict/run.sh demo

test: $(INSTALLED) lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

docs: $(INSTALLED)
	$(BIN)/python docs/tools/site.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo
