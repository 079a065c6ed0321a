"""The fixtures and rules of the product's suite (tests/conftest.py)."""

pytest_plugins = ["tests.conftest"]
