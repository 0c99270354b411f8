# Needs Python 3.11 or later and make; everything else comes from the package index into .venv.

PYTHON ?= python3
# Test workers: two are quickest on small machines, where each compiles on all cores anyway.
WORKERS ?= 2
# Of pyproject.toml.
EXTRAS ?= test
VENV := .venv
BIN := $(VENV)/bin
# Code that is linted and type-checked.
SOURCES := safety_jax configs launch docs tests

# Every worker imports all of the package: from bytecode in half the time.
export PYTHONDONTWRITEBYTECODE :=
# What needs more than this environment, see BUILD.md.
ELSEWHERE := real_data or torch or plan or browser

.PHONY: install check test demo real docs lint format types clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	touch $@

# The loop of edit and test: nothing that starts a process or compiles for long.
check: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q -m "not (slow or $(ELSEWHERE))"

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q

demo: install
	PYTHON=$(BIN)/python bash launch/demo/run.sh

# SmolLM2-135M-Instruct, from the package index: an hour or more on two cores, resumable.
real: install
	PYTHON=$(BIN)/python bash launch/real/run.sh

# The site in site/; --strict: a link that leads nowhere fails.
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

format: install
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

types: install
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
