# Shorthand for the commands people type every day; README.md explains them.
# `make demo` and `make test` set everything up on their first call and skip that afterwards.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY := runs/demo
WORKERS ?= 2
# What the demo's analysis may take; without a budget all chosen checkpoints get a spectrum.
BUDGET ?= 60s

# Programs compiled once stay compiled between commands.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PIP_INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt
# A file's tests share fixtures and compiled programs, so one worker takes them all. TYPES=1 checks
# shapes and types of every call while they run, which makes them a quarter slower.
TYPES ?=
CHECKED := --jaxtyping-packages=curvlab,tests.typechecker.check
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(if $(TYPES),$(CHECKED))

.PHONY: help demo test test-long coverage lint docs bench bench-quick figures clean
.DELETE_ON_ERROR:

help:
	@echo "make demo         train, analyse and draw a small study in $(STUDY)"
	@echo "make test         every test but the long repetitions (TYPES=1: shapes and types too)"
	@echo "make test-long    the long repetitions"
	@echo "make coverage     make test again, with the lines and branches that it leaves out"
	@echo "make lint         formatting, style, types, layers"
	@echo "make docs         build the documentation into site/"
	@echo "make figures      draw every figure from $(STUDY) again"
	@echo "make bench        measure curvlab beside other tools, 1.5 hours (bench-quick: 5 minutes)"
	@echo "make clean        delete what these commands made, except runs/"

# --- set-up -----------------------------------------------------------------------------------

$(VENV)/made:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "make: '$(PYTHON)' was not found; curvlab needs Python 3.11 or newer. Install it, or" \
	       "name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: '$(PYTHON)' is $$($(PYTHON) --version 2>&1); curvlab needs Python 3.11 or newer." \
	       "Name one: make PYTHON=python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: '$(PYTHON)' comes without venv or ensurepip (on Debian and Ubuntu: apt install" \
	       "python3-venv). Install them, or name another Python: make PYTHON=..." >&2; exit 2; }
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml constraints.txt
	@echo "Installing curvlab with what training and drawing need (once, about a minute)"
	@$(PIP_INSTALL) -e '.[agents,figures]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing the tools for tests, checks and documentation (once, about half a minute)"
	@$(PIP_INSTALL) -e '.[agents,figures,dev,docs]'
	@touch $@

# --- use --------------------------------------------------------------------------------------

demo: $(VENV)/installed
	$(BIN)/python -m agents supervised random-labels --out $(STUDY)
	$(BIN)/curvlab inspect $(STUDY)
	$(BIN)/curvlab analyze $(STUDY) --probe-sets current --budget $(BUDGET)
	$(BIN)/python -m figures make fig1 spectrum sharpness --scale quick
	@$(BIN)/curvlab compare $(STUDY)
	@echo "Runs and their settings:"; find $(STUDY) -name run.json | sort | sed 's/^/  /'
	@echo "Results (netCDF):"; find $(STUDY) -type d -name results | sort | sed 's/^/  /'
	@echo "Figures:"; find $(STUDY)/figures -name '*.p[nd][gf]' | sort | sed 's/^/  /'

figures: $(VENV)/installed
	$(BIN)/python -m figures make all --scale quick

# --- checks -----------------------------------------------------------------------------------

test: $(VENV)/installed-dev
	$(PYTEST) -m 'not long'

test-long: $(VENV)/installed-dev
	$(PYTEST) -m long

# Apart from `make test`, which it would make a third slower.
coverage: $(VENV)/installed-dev
	$(PYTEST) -m 'not long' --cov --cov-report=term

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks --publish

bench-quick: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks --quick

clean:
	rm -rf $(VENV) .cache .hypothesis .pytest_cache .ruff_cache .import_linter_cache .coverage \
	       htmlcov site dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
