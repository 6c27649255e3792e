# `make demo` and `make test` do all their own set-up: a virtual environment in
# $(VENV) and, once for each change of pyproject.toml, what the target needs in it.
#
#   make demo                    train on long-tailed digits, compare, draw
#   make test                    the tests, on TensorFlow and then on JAX
#   make test-slow               the longer ones, some of them for an hour
#   make bench                   the time of a training step beside PyTorch, for hours
#   make test PYTHON=python3.12  with another Python (3.10 or newer)

PYTHON ?= python3
VENV ?= .venv
# Three processes, each with whole files, in the order of tests/conftest.py: on two
# cores, one waits while others compile.
PARALLEL ?= -n 3 --dist=loadfile --no-loadscope-reorder

RUN := $(VENV)/bin/python
# The tests' warnings are errors, and the libraries' start-up lines are noise.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow lint format docs docs-check bench clean

help:
	@sed -n 's/^#  *\(make .*\)/\1/p' Makefile
	@echo "also: lint, format, docs, docs-check, clean"

$(RUN):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	    "Python 3.10 or newer is needed; name one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras, so that the demo installs nothing it does not use.
$(VENV)/.installed: pyproject.toml | $(RUN)
	$(RUN) -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(RUN)
	$(RUN) -m pip install --quiet --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed
	$(RUN) recipes/digitslt.py --compare --workdir=runs/digits

test: $(VENV)/.installed-test
	KERAS_BACKEND=tensorflow $(RUN) -m pytest -q $(PARALLEL) -m "not slow"
	KERAS_BACKEND=jax $(RUN) -m pytest -q $(PARALLEL) -m "not slow and not tensorflow"

test-slow: $(VENV)/.installed-test
	KERAS_BACKEND=tensorflow $(RUN) -m pytest -q $(PARALLEL) -m slow
	KERAS_BACKEND=jax $(RUN) -m pytest -q $(PARALLEL) -m "slow and not tensorflow"

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/.installed-test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(VENV)/.installed
	$(RUN) docs/build_api.py

docs-check: $(VENV)/.installed
	$(RUN) docs/build_api.py --check

# Hours; started again, it goes on with the cells that runs/bench/matrix.json lacks.
# BENCH="--quick" is a minute, BENCH="--cells wrn-10-2/at" one cell, measured again.
BENCH ?= --resume

bench: $(VENV)/.installed-bench
	$(RUN) benchmarks/matrix.py $(BENCH) --document=docs/performance.md

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
