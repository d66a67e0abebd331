# make demo         sets up and runs the main job on built-in data
# make test         sets up and runs the tests
# make check        tests, then lints, types and import contracts
# make lock         resolves all dependencies anew, into constraints/
# make test-latest  the tests with the newest release of everything, in an environment of its own
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
LATEST := .venv-latest
LOCKING := .venv-lock
# Bytecode is compiled as it is imported (--no-compile): most of what is installed never is. It has to be kept then,
# or every process compiles PyTorch anew, which takes five seconds.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := -m pip install -q --no-compile --disable-pip-version-check
# The CPU build, where one is offered; any other 2.x from 2.13 on serves too (then with LOCKED= for no constraints).
TORCH ?= torch==2.13.0
LOCK := constraints/$(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null).txt
LOCKED ?= $(addprefix -c ,$(wildcard $(LOCK)))

.PHONY: demo test test-slow test-latest unit check lint types contracts docs lock clean

$(VENV)/.base: pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is none: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch (the largest part, once)"
	@$(BIN)/python $(INSTALL) $(LOCKED) $(TORCH)
	@$(BIN)/python $(INSTALL) $(LOCKED) -e '.[torch,train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(BIN)/python $(INSTALL) $(LOCKED) -e '.[dev]'
	@touch $@

demo: $(VENV)/.base
	@$(BIN)/whet demo --out demo-run

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -q -n auto --dist loadfile

unit: $(VENV)/.dev
	@$(BIN)/python -m pytest -q tests/unit

test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -q -m slow

# Not a bound of pyproject.toml is kept but the lower ones: what fails here fails users next month.
test-latest:
	@$(PYTHON) -m venv --clear $(LATEST)
	@$(LATEST)/bin/python $(INSTALL) $(TORCH) uv
	@$(LATEST)/bin/python constraints/newest.py > $(LATEST)/newest.txt
	@$(LATEST)/bin/uv pip install -q --python $(LATEST)/bin/python --override $(LATEST)/newest.txt -e '.[dev]'
	@$(LATEST)/bin/python -m pytest -q -n auto --dist loadfile

# For every Python that whet supports, from one of them. Versions that are locked stay unless UPGRADE=--upgrade.
lock:
	@test -x $(LOCKING)/bin/uv || { $(PYTHON) -m venv $(LOCKING) && $(LOCKING)/bin/python $(INSTALL) uv; }
	@for version in 3.11.5 3.12 3.13; do \
	  $(LOCKING)/bin/uv pip compile -q --no-annotate --custom-compile-command "make lock" --extra dev $(UPGRADE) \
	    --python-version $$version pyproject.toml -o constraints/py$$(echo $$version | cut -d. -f1,2 --output-delimiter=).txt || exit; \
	done

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
	rm -rf $(VENV) $(LATEST) $(LOCKING) site demo-run demo-run-model .mypy_cache .ruff_cache .pytest_cache
