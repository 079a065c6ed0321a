"""Checks a source against its family: each tensor matches one rule, and none is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, get_args

from surgery.checkpoint.configuration import check_config, refuse_quantized
from surgery.checkpoint.source import HEADS
from surgery.checkpoint.tensors import FLOATING, TensorInfo
from surgery.errors import CheckpointError, UnsupportedError
from surgery.families import Dimensions, Family, TensorRule, family_of
from surgery.families.record import expert_of
from surgery.families.rotary import rotary_positions
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

    @cached_property
    def packed(self) -> frozenset[str]:
        """The modules of which a quantization may store other tensors than their own."""
        modules = {name.rpartition(".")[0] for name in self.infos if self.is_quantized}
        within = (accumulate(module.split("."), "{}.{}".format) for module in modules)
        return frozenset(one for some in within for one in some)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(info.nbytes for info in self.infos.values())

    @property
    def num_parameters(self) -> int:
        """Numbers in the stored parameters, without buffers; a tied head counts once.

        Those of four bits (MXFP4) count as they are once loaded; others that are packed do not.
        """
        packed = (info.nbytes for name, info in self.infos.items() if name.endswith("_blocks"))
        return 2 * sum(packed) + sum(
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
        """The stored tensors without buffers (no rule gives the shape of a buffer).

        And without blocks after the last one, which some checkpoints hold for other uses.
        """
        found = {name: (info, self.family.match(name)) for name, info in self.infos.items()}
        return {
            name: info
            for name, (info, match) in found.items()
            if match and match[0].shape and (match[1] or 0) < self.dimensions.num_blocks
        }

    def is_mask(self, name: str) -> bool:
        """Whether a tensor is one of the masks that older libraries stored: they may be infinite,
        and no model reads them."""
        match = self.family.match(name)
        return match is not None and match[0].role == "attention_buffer"

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
        size = family.dimensions(config).rotated
        rotary_positions(config, family.rotary, size, family.rotary.layer_type(config, block=0))
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
    experts = inventory.dimensions.sizes.get("experts", 1) if "{expert}" in rule.name else 1
    for expert in range(experts):
        name = rule.name.format(block=block, expert=expert)
        if not (rule.role is None and name.rpartition(".")[0] in inventory.packed):
            yield name


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
    if dimensions.num_blocks <= block < dimensions.num_blocks + _count_beyond(inventory):
        return
    if inventory.is_quantized and block < dimensions.num_blocks:
        if family.is_outside_attention(name):
            return
        if rule is None:
            raise refuse_quantized(f"tensor {name!r} is of quantized attention", None)
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


def _count_beyond(inventory: Inventory) -> int:
    """How many blocks may be stored after the last. They are copied as they are."""
    key = inventory.family.beyond
    count = 0 if key is None else inventory.config.get(key, 1)
    return count if type(count) is int else 0


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
