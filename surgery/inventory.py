"""Checks a source against its family: every tensor matches exactly one rule, none is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.checkpoint.tensors import FLOATING, TensorInfo
from surgery.errors import CheckpointError, UnsupportedError
from surgery.families import Dimensions, Family, family_of


@dataclass(frozen=True)
class Inventory:
    """A source that has been checked.

    `dtype` is the safetensors tag of its parameters; `compact_blocks` maps blocks without an
    attention module to what stands there (affine, constant, none).
    """

    family: Family
    dimensions: Dimensions
    config: dict[str, Any]
    infos: Mapping[str, TensorInfo]
    dtype: str
    compact_blocks: dict[int, str]

    @property
    def is_compact(self) -> bool:
        return bool(self.config.get("model_type") == self.family.compact_model_type)

    @property
    def num_parameters(self) -> int:
        """Numbers in the stored parameters, buffers left out; a tied head counts once."""
        tied = self.config.get("tie_word_embeddings", self.family.tied_head)
        return sum(
            math.prod(info.shape)
            for name, info in self.infos.items()
            if not _is_buffer(self.family, name) and not (tied and name in HEADS)
        )


HEADS = ("embed_out.weight", "lm_head.weight")  # names of the head, by library version


def take_inventory(config: dict[str, Any], infos: Mapping[str, TensorInfo]) -> Inventory:
    """Matches a parsed config.json and the stored tensors' names, dtypes and shapes to a family.

    **Raises:** `UnsupportedError` for an architecture that cannot be edited (checked first),
    quantized weights or the source's own code; `CheckpointError` for an unknown, missing or
    misshapen tensor, or parameters of more than one dtype.
    """
    family = family_of(config)
    check_config(config, family)
    dimensions = family.dimensions(config)
    compact_blocks = {
        int(block): str(kind) for block, kind in (config.get("attention_free_blocks") or {}).items()
    }
    for name, info in infos.items():
        _check_tensor(family, dimensions, name, info)
    _check_complete(family, dimensions, infos, compact_blocks, config)
    return Inventory(
        family, dimensions, config, infos, _single_dtype(family, infos), compact_blocks
    )


def check_config(config: dict[str, Any], family: Family) -> None:
    """Refuses what the weights cannot tell: quantized models and code that the source brings."""
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise UnsupportedError(
            "the checkpoint is quantized, and surgery needs the weights themselves",
            where="config.json",
            got=method or "quantization_config",
            fix="start from the unquantized model and quantize the result",
        )
    if config.get("auto_map") and config.get("model_type") != family.compact_model_type:
        raise UnsupportedError(
            "the checkpoint brings its own modeling code (auto_map), which is never run",
            where="config.json",
            expected=f"the library's own {family.architecture}",
        )


def _check_tensor(family: Family, dimensions: Dimensions, name: str, info: TensorInfo) -> None:
    match = family.match(name)
    if match is None or (match[1] is not None and match[1] >= dimensions.num_blocks):
        raise CheckpointError(
            f"unknown tensor {name!r}",
            expected=f"the tensors of a {family.title} model of {dimensions.num_blocks} blocks",
            fix="nothing is guessed: remove the tensor, or report the architecture it belongs to",
        )
    rule = match[0]
    if rule.shape is None:
        return
    expected = tuple(dimensions.sizes[size] for size in rule.shape)
    if info.shape != expected:
        raise CheckpointError(
            f"tensor {name!r} has the wrong shape",
            expected=f"{list(expected)} from config.json",
            got=list(info.shape),
        )
    if info.dtype not in FLOATING:
        raise UnsupportedError(
            f"tensor {name!r} is quantized",
            expected=" or ".join(FLOATING),
            got=info.dtype,
            fix="start from the unquantized model",
        )


def _check_complete(
    family: Family,
    dimensions: Dimensions,
    infos: Mapping[str, TensorInfo],
    compact_blocks: dict[int, str],
    config: dict[str, Any],
) -> None:
    needed: list[str] = []
    for rule in family.rules:
        biased = rule.role in ("query_key_value_bias", "output_bias") and family.fused
        if rule.optional and not (biased and config.get("attention_bias", True)):
            continue
        if not rule.per_block:
            needed.append(rule.name)
            continue
        needed += [
            rule.name.format(block=block)
            for block in range(dimensions.num_blocks)
            if rule.role is None or block not in compact_blocks
        ]
    for block, kind in compact_blocks.items():
        if kind == "affine":
            needed.append(family.name("affine_weight", block))
        if kind != "none":
            needed.append(family.name("affine_bias", block))
    missing = [name for name in needed if name not in infos]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"tensor {missing[0]!r}{more} missing from the checkpoint",
            fix="the download is incomplete, or config.json belongs to another model",
        )


def _single_dtype(family: Family, infos: Mapping[str, TensorInfo]) -> str:
    first: dict[str, str] = {}
    for name, info in infos.items():
        if not _is_buffer(family, name):
            first.setdefault(info.dtype, name)
    if len(first) > 1:
        found = ", ".join(f"{dtype} ({name})" for dtype, name in first.items())
        raise CheckpointError(
            "the parameters have more than one dtype",
            expected="one",
            got=found,
            fix="load and save the model in one dtype first",
        )
    return next(iter(first))


def _is_buffer(family: Family, name: str) -> bool:
    match = family.match(name)
    return match is not None and match[0].shape is None
