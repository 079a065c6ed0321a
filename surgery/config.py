"""Checks what the configuration of a model and its tokenizer ask for, before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from surgery.checkpoint import ADAPTER, is_adapter, refuse_adapter
from surgery.compact import auto_map, is_compact, read_blocks
from surgery.errors import CheckpointError, UnsupportedError
from surgery.families import PROJECTIONS, Family, family_of
from surgery.privacy import check_link
from surgery.untrusted import read_json

_ELSEWHERE = {
    "transformers_weights": "names another file of weights, which would not be edited",
    "per_layer_config": "gives single blocks their own shape, which surgery does not support",
}
_CACHE = "kv_cache_scheme"
_LEFT_OUT = (  # keys of the modules that are not quantized, by method
    "modules_to_not_convert",
    "ignore",
    "ignored_layers",
    "exclude_modules",
    "llm_int8_skip_modules",
)


def check_config(config: dict[str, Any]) -> None:
    """Refuses model types without a record, quantized attention, models with their own code, and
    settings that no edit can be made with."""
    family = family_of(config)
    compact = is_compact(config)
    own = {"auto_map": auto_map(family)} if compact else {}
    for key in ("auto_map", "custom_pipelines"):
        if config.get(key) and config[key] != own.get(key):
            raise UnsupportedError(
                f"the checkpoint brings its own modeling code ({key}), which is never run",
                where="config.json",
                expected=f"the library's own {family.architecture}",
            )
    for key, value in _walk(config):
        if "attn_implementation" in str(key) and not (value is None or isinstance(value, bool)):
            what = "chooses attention code, which the library may download and run"
            raise UnsupportedError(f"config.json {what}", where=key, fix="remove the key")
    for key, what in _ELSEWHERE.items():
        if config.get(key):
            raise UnsupportedError(f"config.json {what}", where=key, fix="remove the key")
    if config.get("attention_free_blocks") and not compact:
        raise CheckpointError(
            "'attention_free_blocks' is set, and this model type has no such blocks",
            where="config.json",
            fix=f"remove it, or restore model_type {family.compact_model_type}",
        )
    for key, value in family.needs.items():
        given = config.get(key, value)
        if given != value and given is not None:
            raise UnsupportedError(
                f"{family.model_type} with {key!r} cannot be edited",
                where="config.json",
                expected=value,
                got=given,
            )
    read_blocks(config)
    _check_quantized(config, family)


def _check_quantized(config: dict[str, Any], family: Family) -> None:
    for key in ("quantization_config", "compression_config"):
        given = config.get(key)
        if not given or (key == "quantization_config" and spares_attention(config, family)):
            continue
        known = given if isinstance(given, dict) else {}
        what = "attention is quantized, or config.json does not say that it is left out"
        if known.get(_CACHE):
            what = f"{_CACHE!r} quantizes the keys and values of every block"
        raise UnsupportedError(
            f"{what}, and surgery needs plain weights there",
            where="config.json",
            got=known.get("quant_method") or key,
            fix="start from the unquantized model, and quantize the result without its attention",
        )


def find_method(config: Mapping[str, Any]) -> str | None:
    """How weights are quantized; None for plain ones."""
    given = config.get("quantization_config")
    return str(given.get("quant_method")) if isinstance(given, dict) else None


def spares_attention(config: dict[str, Any], family: Family) -> bool:
    """Whether a quantization leaves the attention of every block as it is.

    MXFP4 (gpt-oss) only takes experts. Other methods name the modules that they leave out: by name,
    by a part of it, by a pattern with `*`, or by "re:" and a regular expression. No list leaves a
    block out where keys and values are quantized on their way into the cache.
    """
    given = config["quantization_config"]
    if not isinstance(given, dict) or given.get(_CACHE):
        return False
    if find_method(config) == "mxfp4":
        return True
    lists = (given.get(key) for key in _LEFT_OUT)
    patterns = [str(one) for some in lists if isinstance(some, list) for one in some]
    names = {
        family.name(block, part).removesuffix(".weight")
        for block in range(family.dimensions(config).num_blocks)
        for part in PROJECTIONS
    }
    return all(any(_covers(pattern, name) for pattern in patterns) for name in names)


def _covers(pattern: str, name: str) -> bool:
    """Whether a pattern of modules names this one, or one that holds it."""
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except re.error:
            return False
    wild = pattern.removesuffix(".*")
    return fnmatchcase(name, wild) or fnmatchcase(name, f"{wild}.*") or f".{wild}." in f".{name}."


def check_alone(folder: Path) -> None:
    """Refuses a folder with an adapter beside the weights, and one with an adapter alone."""
    if is_adapter(lambda name: (folder / name).exists()):
        raise refuse_adapter(folder)
    if (folder / ADAPTER).exists():
        raise UnsupportedError(
            "holds an adapter, which the library would load into the model",
            where=folder / ADAPTER,
            fix="merge it into the weights, or remove it",
        )


def check_tokenizer(folder: Path) -> None:
    """Refuses a tokenizer that asks for code."""
    name = "tokenizer_config.json"
    settings = read_json(check_link(folder / name, folder))
    if any(key == "auto_map" and value for key, value in _walk(settings)):
        raise UnsupportedError(
            "the tokenizer brings its own code (auto_map), which is never run",
            where=folder / name,
        )


def _walk(value: dict[Any, Any] | list[Any]) -> Iterator[tuple[Any, Any]]:
    """Yields the keys and values of all objects in a configuration, at any depth."""
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, (dict, list)):
            yield from _walk(inner)
