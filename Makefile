# Everything a newcomer needs: `make demo`, `make test`. Both prepare .venv first; both work offline once that is done.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Pinned, and on Linux x86-64 to the CPU build by name: without "+cpu" the package index serves gigabytes of CUDA libraries
# there. Where the CPU build is not at hand, it comes from PyTorch's own index. GPU users: see README.
TORCH_VERSION := 2.13.0
ifeq ($(shell uname -sm),Linux x86_64)
TORCH := torch==$(TORCH_VERSION)+cpu
else
TORCH := torch==$(TORCH_VERSION)
endif
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test test-fast check format docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Tenure needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11 setup")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@echo "Installing (torch first, pinned) ..."
	@$(PIP) "$(TORCH)" 2>/dev/null || $(PIP) --index-url $(TORCH_INDEX) "$(TORCH)"
	@$(PIP) "setuptools>=77"
	@$(PIP) --no-build-isolation -e ".[hf,dev]"
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

docs: setup
	$(BIN)/python spec/build.py
	for page in docs/build_*.py; do $(BIN)/python $$page || exit 1; done

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
