"""Checks a source against its family: each tensor matches one rule, and none is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from surgery.checkpoint.source import HEADS
from surgery.checkpoint.tensors import FLOATING, TensorInfo
from surgery.errors import CheckpointError, UnsupportedError
from surgery.families import Dimensions, Family, TensorRule, family_of
from surgery.families.record import expert_of
from surgery.families.rotary import rotary_positions
from surgery.untrusted import read_json
from surgery.variants import Kind

_AFFINE = ("affine_weight", "affine_bias")


@dataclass(frozen=True)
class Inventory:
    """The tensors of a source. `take_inventory` checks them.

    `config`: the keys of config.json that the family knows. `compact_blocks`: block without an
    attention module → what replaces it (affine, constant, none).
    """

    family: Family
    dimensions: Dimensions
    config: dict[str, Any]
    infos: Mapping[str, TensorInfo]
    compact_blocks: dict[int, str]

    @property
    def is_compact(self) -> bool:
        return bool(self.config.get("model_type") == self.family.compact_model_type)

    @property
    def is_quantized(self) -> bool:
        """Whether weights outside attention may be quantized: they are only copied."""
        return bool(self.config.get("quantization_config"))

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(info.nbytes for info in self.infos.values())

    @property
    def num_parameters(self) -> int:
        """Numbers in the stored parameters, without buffers; a tied head counts once."""
        return sum(
            math.prod(info.shape)
            for name, info in self.parameters.items()
            if not (self.is_tied and name in HEADS)
        )

    @cached_property
    def dtype(self) -> str:
        """The safetensors tag of its parameters."""
        return next(iter(self.dtypes))

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """Each dtype of parameters that must have the same, and the first that has it."""
        first: dict[str, str] = {}
        for name, info in self.parameters.items():
            match = self.family.match(name)
            is_free = match is not None and match[0].any_dtype
            if not (is_free or (self.is_quantized and self.family.is_outside_attention(name))):
                first.setdefault(info.dtype, name)
        return first

    @cached_property
    def parameters(self) -> dict[str, TensorInfo]:
        """The stored tensors without buffers (no rule gives the shape of a buffer)."""
        found = {name: (info, self.family.match(name)) for name, info in self.infos.items()}
        return {name: info for name, (info, match) in found.items() if match and match[0].shape}

    @property
    def is_tied(self) -> bool:
        return bool(self.config.get("tie_word_embeddings", self.family.tied_head))


def take_inventory(config: dict[str, Any], infos: Mapping[str, TensorInfo]) -> Inventory:
    """Matches a parsed config.json and the tensors' names, dtypes and shapes to a family.

    **Raises:** `UnsupportedError` for an architecture that cannot be edited (checked first),
    quantized attention, or code in the source; `CheckpointError` for an unknown, missing or
    misshapen tensor, or parameters of more than one dtype.
    """
    family = family_of(config)
    check_config(config, family)
    if family.rotary is not None:
        head_size = family.dimensions(config).head_size
        rotary_positions(
            config, family.rotary, head_size, family.rotary.layer_type(config, block=0)
        )
    inventory = make_inventory(config, infos)
    for name, info in infos.items():
        _check_tensor(name, info, inventory)
    check_complete(inventory)
    _check_dtype(inventory)
    return inventory


def check_complete(inventory: Inventory) -> None:
    """Raises `CheckpointError` unless every tensor that config.json implies is there."""
    check_biases(inventory)
    for name in list_needed(inventory):
        if name not in inventory.infos:
            raise CheckpointError(
                f"tensor {name!r} is missing from the checkpoint",
                fix="the download is incomplete, or config.json belongs to another model",
            )
    if not inventory.is_tied and not any(head in inventory.infos for head in HEADS):
        head = next(head for head in HEADS if inventory.family.match(head))
        raise CheckpointError(
            f"tensor {head!r} is missing from the checkpoint, and config.json does not tie it to "
            "the embedding"
        )


def check_biases(inventory: Inventory) -> None:
    """Raises `CheckpointError` if all the biases are gone that a key of config.json switches on."""
    switches = {
        rule.when: rule.name.format(block=0)
        for rule in inventory.family.rules
        if rule.when and rule.role and rule.role.endswith("_bias") and _exists(rule, inventory)
        if any(_belongs(rule, block, inventory) for block in range(inventory.dimensions.num_blocks))
    }
    stored = {rule[0].when for rule in map(inventory.family.match, inventory.infos) if rule}
    for switch, name in switches.items():
        if switch not in stored and inventory.infos:
            raise CheckpointError(
                f"{switch.key!r} is {str(switch.value).lower()}, and all of its biases are "
                f"missing, such as {name!r}",
                where="config.json",
                fix="a tool dropped them, as mergekit does; if they held an edit, it is undone: "
                "merge the models first, and edit the result",
            )


def make_inventory(config: dict[str, Any], infos: Mapping[str, TensorInfo]) -> Inventory:
    """Makes an inventory without checking the tensors."""
    family = family_of(config)
    dimensions = family.dimensions(config)
    blocks = _read_compact_blocks(config, family, dimensions)
    return Inventory(family, dimensions, family.known_config(config), infos, blocks)


def list_needed(inventory: Inventory) -> Iterator[str]:
    """Names of the tensors that the library would otherwise fill with random numbers."""
    for rule in inventory.family.rules:
        if _exists(rule, inventory) and (not rule.optional or rule.role in _AFFINE):
            for block in range(inventory.dimensions.num_blocks) if rule.per_block else (0,):
                if _belongs(rule, block, inventory):
                    yield from _list_names(rule, block, inventory)


def _list_names(rule: TensorRule, block: int, inventory: Inventory) -> Iterator[str]:
    """The names of a rule's tensors in a block: one, or one for each expert."""
    other = rule.instead_of and rule.instead_of.format(block=block)
    if other is not None and other in inventory.infos:
        return
    if inventory.is_quantized and rule.role is None and "{expert}" not in rule.name:
        owner = rule.name.format(block=block).rpartition(".")[0] + "."
        if any(name.startswith(owner) for name in inventory.infos):
            return  # under another name
    experts = inventory.dimensions.sizes.get("experts", 1) if "{expert}" in rule.name else 1
    for expert in range(experts):
        yield rule.name.format(block=block, expert=expert)


def _exists(rule: TensorRule, inventory: Inventory) -> bool:
    """Whether config.json gives the model such a tensor."""
    return rule.when is None or rule.when.on(inventory.config)


def _belongs(rule: TensorRule, block: int, inventory: Inventory) -> bool:
    """Whether a block has such a tensor, if the model has.

    The library would ignore one that does not belong, while surgery would use it.
    """
    if rule.blocks is not None and not rule.blocks(inventory.config, block):
        return False
    if rule.role is None:
        return True
    kind = inventory.compact_blocks.get(block)  # None: attention
    if rule.role in _AFFINE:
        return kind == "affine" or (kind == "constant" and rule.role == "affine_bias")
    return kind is None


def _check_dtype(inventory: Inventory) -> None:
    first = inventory.dtypes
    if len(first) > 1:
        raise CheckpointError(
            "the parameters have more than one dtype",
            expected="one",
            got=", ".join(f"{dtype} ({name})" for dtype, name in first.items()),
            fix="load and save the model in one dtype first",
        )


def _check_tensor(name: str, info: TensorInfo, inventory: Inventory) -> None:
    family, dimensions = inventory.family, inventory.dimensions
    rule, block = family.match(name) or (None, None)
    block, expert = block or 0, expert_of(name) or 0
    if name.startswith(family.others):
        return
    if dimensions.num_blocks <= block < dimensions.num_blocks + _count_beyond(inventory):
        return
    if inventory.is_quantized and block < dimensions.num_blocks:
        if family.is_outside_attention(name):
            return
        if rule is None:
            raise _refuse_quantized(f"tensor {name!r} is of quantized attention", None)
    if (
        rule is None
        or block >= dimensions.num_blocks
        or expert >= dimensions.sizes.get("experts", 1)
        or not (_exists(rule, inventory) and _belongs(rule, block, inventory))
        or (rule.instead_of and rule.instead_of.format(block=block) in inventory.infos)
    ):
        raise CheckpointError(
            f"unknown tensor {name!r}",
            expected=f"the tensors of a {family.title} model of {dimensions.num_blocks} blocks",
            fix="remove the tensor, or report the architecture that it belongs to",
        )
    if rule.shape is None:
        return
    expected = [dimensions.sizes[size] for size in rule.shape]
    if list(info.shape) != expected:
        raise CheckpointError(
            f"tensor {name!r} has the wrong shape",
            expected=f"{expected} from config.json",
            got=list(info.shape),
        )
    if info.dtype not in FLOATING:
        raise UnsupportedError(
            f"tensor {name!r} is quantized",
            expected=" or ".join(FLOATING),
            got=info.dtype,
            fix="start from the unquantized model",
        )


def _refuse_quantized(what: str, got: object) -> UnsupportedError:
    return UnsupportedError(
        f"{what}, and surgery needs plain weights there",
        where="config.json",
        got=got,
        fix="start from the unquantized model, and quantize the result without its attention",
    )


def _count_beyond(inventory: Inventory) -> int:
    """How many blocks may be stored after the last. They are copied as they are."""
    key = inventory.family.beyond
    count = 0 if key is None else inventory.config.get(key, 1)
    return count if type(count) is int else 0


def check_config(config: dict[str, Any], family: Family) -> None:
    """Refuses quantized attention, models with their own code, and settings that cannot be run."""
    for key in ("quantization_config", "compression_config"):
        given = config.get(key)
        if given and not (key == "quantization_config" and spares_attention(config, family)):
            method = given.get("quant_method") if isinstance(given, dict) else None
            raise _refuse_quantized("attention is quantized", method or key)
    compact = config.get("model_type") == family.compact_model_type
    for key in ("auto_map", "custom_pipelines"):
        if config.get(key) and not (compact and key == "auto_map"):
            raise UnsupportedError(
                f"the checkpoint brings its own modeling code ({key}), which is never run",
                where="config.json",
                expected=f"the library's own {family.architecture}",
            )
    refused = dict.fromkeys(_find_attention_code(config), _ATTENTION_CODE)
    refused |= {key: what for key, what in _ELSEWHERE.items() if config.get(key)}
    for key, what in refused.items():
        raise UnsupportedError(f"config.json {what}", where=key, fix="remove the key")
    if config.get("attention_free_blocks") and not compact:
        raise CheckpointError(
            "'attention_free_blocks' is set, and this model type has no such blocks",
            where="config.json",
            fix=f"remove it, or restore model_type {family.compact_model_type}",
        )
    for key, value in family.needs.items():
        if config.get(key, value) not in (value, None):
            raise UnsupportedError(
                f"{family.title} with {key!r} cannot be edited",
                where="config.json",
                expected=value,
                got=config[key],
            )
    epsilon = config.get(family.epsilon, 1e-5) if family.epsilon else 1e-5
    if type(epsilon) is not float or not 0 <= epsilon < 1:
        raise CheckpointError(
            f"the library cannot load this {family.epsilon!r}",
            where="config.json",
            expected="a decimal number from 0.0 up, such as 1e-05",
            got=repr(epsilon)[:50],
        )


_LEFT_OUT = (  # keys of the modules that are not quantized, by method
    "modules_to_not_convert",
    "ignore",
    "ignored_layers",
    "exclude_modules",
    "llm_int8_skip_modules",
)


def spares_attention(config: dict[str, Any], family: Family) -> bool:
    """Whether a quantization leaves the attention of every block as it is.

    MXFP4 (gpt-oss) only takes experts. Other methods name the modules that they leave out: by name,
    by a part of it, by a pattern with `*`, or by "re:" and a regular expression.
    """
    given = config["quantization_config"]
    if not isinstance(given, dict):
        return False
    if given.get("quant_method") == "mxfp4":
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


_ATTENTION_CODE = "chooses attention code, which the library may download and run"
_ELSEWHERE = {
    "transformers_weights": "names another file of weights, which would not be edited",
    "per_layer_config": "gives single blocks their own shape, which surgery does not support",
}


def _find_attention_code(value: dict[str, Any] | list[Any]) -> Iterator[str]:
    """Yields the keys, at any depth, that make the library choose attention code (not flags)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if "attn_implementation" in str(key) and not (inner is None or isinstance(inner, bool)):
                yield key
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, (dict, list)):
            yield from _find_attention_code(inner)


def check_tokenizer(folder: Path) -> None:
    """Refuses a tokenizer that asks for code."""
    settings = folder / "tokenizer_config.json"
    if read_json(settings).get("auto_map"):
        raise UnsupportedError(
            "the tokenizer brings its own code (auto_map), which is never run", where=settings
        )


def _read_compact_blocks(
    config: dict[str, Any], family: Family, dimensions: Dimensions
) -> dict[int, str]:
    """Block → what replaces its attention; {} for a model of the library's own classes."""
    if config.get("model_type") != family.compact_model_type:
        return {}
    recorded = config.get("attention_free_blocks")
    if not isinstance(recorded, dict) or not all(
        re.fullmatch(r"0|[1-9]\d{0,8}", block, re.ASCII)
        and int(block) < dimensions.num_blocks
        and kind in get_args(Kind)
        for block, kind in recorded.items()
    ):
        raise CheckpointError(
            "'attention_free_blocks' does not say what replaces the attention of each block",
            where="config.json",
            expected=f"blocks below {dimensions.num_blocks} → {', '.join(get_args(Kind))}",
            got=recorded,
        )
    return {int(block): kind for block, kind in recorded.items()}
