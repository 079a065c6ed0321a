# Steps for people. `make check` is lint, types, and all tests; `.ci/run` also builds a release.
PYTHON ?= python3

.PHONY: install lint types test test-all test-benchmarks slow slow-hostile check format benchmarks faults matrix lock release

install:
	$(PYTHON) -m pip install -e '.[dev,browser]'

lint:
	ruff format --check .
	ruff check .

types:
	mypy

test:
	$(PYTHON) -m pytest -n 2 --dist worksteal -m 'not slow'

test-all:
	$(PYTHON) -m pytest -n 2 --dist worksteal

test-benchmarks:
	$(PYTHON) -m pytest -n 2 --dist worksteal --durations=10 --durations-min=30 benchmarks/tests

# The slow tests, part by part, so that a part can be repeated alone: `make slow-f`. `make -k slow`
# goes on after a part that fails. Each part says which of its tests took longest.
SLOW = $(PYTHON) -m pytest -n 2 --dist worksteal -m slow --durations=10 --durations-min=30
PARTS = a-b c-d e f g-h i-o p q-r s-z

slow: slow-hostile $(PARTS:%=slow-%)

slow-hostile:
	$(SLOW) tests/hostile

slow-%:
	$(SLOW) tests/test_[$*]*.py

check: lint types test-all test-benchmarks

format:
	ruff format .
	ruff check --fix .

benchmarks:
	$(PYTHON) benchmarks/export.py
	$(PYTHON) benchmarks/extraction.py

faults:
	$(PYTHON) -m benchmarks.faults

matrix:
	$(PYTHON) benchmarks/versions.py

# Of an environment in which `make check` has just passed.
lock:
	$(PYTHON) -m pip freeze --exclude-editable --exclude attn-surgery --exclude pip | sed 's/+cpu$$//' > requirements-dev.lock

release:
	$(PYTHON) -m build
	twine check --strict dist/*
