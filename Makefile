# Folio. `make serve` and `make test` do all the set-up they need; `make help` lists the rest.

PYTHON ?= python3
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(LOCK_FLAGS) pyproject.toml

.PHONY: help setup serve test lint types format lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/ready ## the virtual environment, locked dependencies and the project, in .venv

.venv/ready: pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Folio needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version); name another: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) can't make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

serve: setup ## serve the models in models/ on http://127.0.0.1:8000
	$(BIN)/python -m service

test: setup lint types ## lint, types, tests
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

format: setup ## mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## renew requirements/ from pyproject.toml (LOCK_FLAGS=--upgrade for newer versions)
	$(LOCK) --extra trainer --extra dev -o requirements/dev.txt
	$(LOCK) --extra trainer -c requirements/dev.txt -o requirements/trainer.txt
	$(LOCK) --extra gpu -c requirements/dev.txt -o requirements/gpu.txt
	$(LOCK) -c requirements/dev.txt -o requirements/service.txt

clean: ## remove what make made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache dist
