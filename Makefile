# Everything a newcomer needs: `make demo`, `make test`. Both prepare .venv first; both work offline once that is done.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Pinned: an open range of torch lets pip choose a build with gigabytes of CUDA libraries. GPU users: see README.
TORCH  := torch==2.13.0
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test test-fast check format docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Tenure needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11 setup")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing (torch first, pinned) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e ".[hf,dev]"
	@$(BIN)/python -m tenure.models
	@touch $@

demo: setup
	@$(BIN)/tenure demo

test: setup
	$(BIN)/pytest

test-fast: setup
	$(BIN)/pytest -m "not model and not slow"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
