"""Keys of config.json that make the library fetch or run code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surgery.errors import UnsupportedError

CODE_KEYS = ("auto_map", "custom_pipelines")


def check_attention_code(config: dict[str, Any]) -> None:
    """Raises `UnsupportedError` if a part of a configuration chooses attention code."""
    for key, value in walk(config):
        if "attn_implementation" in str(key) and not (value is None or isinstance(value, bool)):
            what = "chooses attention code, which the library may download and run"
            raise UnsupportedError(f"config.json {what}", where=key, fix="remove the key")


def refuse_code(key: str, architecture: str) -> UnsupportedError:
    return UnsupportedError(
        f"the checkpoint brings its own modeling code ({key}), which is never run",
        where="config.json",
        expected=f"the library's own {architecture}",
    )


def walk(value: dict[Any, Any] | list[Any]) -> Iterator[tuple[Any, Any]]:
    """Yields the keys and values of all objects in a configuration, at any depth."""
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, (dict, list)):
            yield from walk(inner)
