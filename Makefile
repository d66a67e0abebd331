# make demo    sets up and runs the main job on built-in data
# make test    sets up and runs the tests
# make check   tests, then lints, types and import contracts
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Bytecode is compiled as it is imported (--no-compile): most of what is installed never is.
# The CPU build, where one is offered; any other 2.x from 2.13 on serves too.
TORCH ?= torch==2.13.0

.PHONY: demo test test-slow unit check lint types contracts docs clean

$(VENV)/.base: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch (the largest part, once)"
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[torch,train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.base
	@$(BIN)/whet demo --out demo-run

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -q -n auto --dist loadfile

unit: $(VENV)/.dev
	@$(BIN)/python -m pytest -q tests/unit

test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -q -m slow

check: test lint types contracts

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/mypy

contracts: $(VENV)/.dev
	@$(BIN)/lint-imports

docs: $(VENV)/.dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -d site

clean:
	rm -rf $(VENV) site demo-run demo-run-model .mypy_cache .ruff_cache .pytest_cache
