"""Checks what the configuration of a model and its tokenizer ask for, before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from surgery.checkpoint.source import ADAPTER, PROCESSORS, is_adapter, refuse_adapter
from surgery.errors import CheckpointError, UnsupportedError
from surgery.families import Family
from surgery.families.code import CODE_KEYS, check_attention_code, refuse_code, walk
from surgery.families.rotary import check_positions
from surgery.privacy import check_link
from surgery.untrusted import read_json


def check_config(config: dict[str, Any], family: Family) -> None:
    """Refuses quantized attention, models with their own code, and settings that cannot be run."""
    for key in ("quantization_config", "compression_config"):
        given = config.get(key)
        if given and not (key == "quantization_config" and spares_attention(config, family)):
            known = given if isinstance(given, dict) else {}
            what = "attention is quantized, or config.json does not say that it is left out"
            if known.get(_CACHE):
                what = f"{_CACHE!r} quantizes the keys and values of every block"
            raise refuse_quantized(what, known.get("quant_method") or key)
    compact = config.get("model_type") == family.compact_model_type
    for key in CODE_KEYS:
        if config.get(key) and not (compact and key == "auto_map"):
            raise refuse_code(key, family.architecture)
    check_attention_code(config)
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
        if given != value and (given is not None or value is True):  # null is false
            raise UnsupportedError(
                f"{family.title} with {key!r} cannot be edited",
                where="config.json",
                expected=value,
                got="null" if given is None else given,
            )
    _check_positions(config, family)
    epsilon = config.get(family.epsilon, 1e-5) if family.epsilon else 1e-5
    if type(epsilon) is not float or not 0 <= epsilon < 1:
        raise CheckpointError(
            f"the library cannot load this {family.epsilon!r}",
            where="config.json",
            expected="a decimal number from 0.0 up, such as 1e-05",
            got=repr(epsilon)[:50],
        )


def _check_positions(config: Mapping[str, Any], family: Family) -> None:
    """Refuses positions that versions of the library read differently, such as a key beside the
    scaled ones that newer versions put in place of theirs."""
    if family.rotary is not None:
        check_positions(config, family.rotary)
    key = "original_max_position_embeddings"
    given = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(given, dict) or given.get("rope_type", given.get("type")) == "default":
        return
    if key in family.unknown_keys(config) and config[key] != given.get(key):
        raise UnsupportedError(
            f"config.json gives {key!r} beside the scaled positions, and versions of the library "
            "differ in what that means",
            where="config.json",
            expected=given.get(key),
            got=config[key],
            fix="move it into 'rope_parameters' ('rope_scaling' in older versions)",
        )


_CACHE = "kv_cache_scheme"
_LEFT_OUT = (  # keys of the modules that are not quantized, by method
    "modules_to_not_convert",
    "ignore",
    "ignored_layers",
    "exclude_modules",
    "llm_int8_skip_modules",
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
        rule.name.format(block=block).rpartition(".")[0]
        for block in range(family.dimensions(config).num_blocks)
        for rule in family.rules
        if rule.role is not None and rule.role.endswith("_weight") and not rule.optional
        if rule.blocks is None or rule.blocks(config, block)
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


_ELSEWHERE = {
    "transformers_weights": "names another file of weights, which would not be edited",
    "per_layer_config": "gives single blocks their own shape, which surgery does not support",
}


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


def check_processors(folder: Path) -> None:
    """Refuses a tokenizer, or a processor of images, that asks for code."""
    for name in ("tokenizer_config.json", *PROCESSORS):
        settings = read_json(check_link(folder / name, folder))
        if any(key == "auto_map" and value for key, value in walk(settings)):
            what = "processor" if name in PROCESSORS else "tokenizer"
            raise UnsupportedError(
                f"the {what} brings its own code (auto_map), which is never run",
                where=folder / name,
            )


def refuse_quantized(what: str, got: object) -> UnsupportedError:
    return UnsupportedError(
        f"{what}, and surgery needs plain weights there",
        where="config.json",
        got=got,
        fix="start from the unquantized model, and quantize the result without its attention",
    )
