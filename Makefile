# Steps for people. `.ci/run` also builds a release.
PYTHON ?= python3

.PHONY: install check test slow lock

install:
	$(PYTHON) -m pip install -e '.[dev]'

check:
	ruff format --check .
	ruff check .
	mypy
	$(MAKE) test

test:
	$(PYTHON) -m pytest -n 2 --dist worksteal -m 'not slow'

slow:
	$(PYTHON) -m pytest -n 2 --dist worksteal -m slow --durations=10 --durations-min=30

# Of an environment in which `make check` has just passed.
lock:
	$(PYTHON) -m pip freeze --exclude-editable --exclude attn-surgery --exclude pip | sed 's/+cpu$$//' > requirements-dev.lock
