"""What a family is: names, shapes and config keys as data. No tensor library is needed here."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from surgery.errors import CheckpointError

Role = Literal[
    "query_key_value_weight",  # fused: [3 d, d], rows interleaved per head as [heads, 3, head_size]
    "query_key_value_bias",  # fused: [3 d]
    "query_weight",  # separate: [d, d]
    "key_weight",
    "value_weight",
    "value_bias",  # separate: [d]
    "output_weight",  # [d, d]
    "output_bias",  # [d]
    "attention_buffer",  # masks and frequencies stored by older libraries; never a parameter
    "affine_weight",  # compact layout only: [d, d]
    "affine_bias",  # compact layout only: [d]
]


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a checkpoint, or one per block when the name holds `{block}`.

    `shape` names its dimensions by the keys of `Dimensions.sizes`; None leaves it unchecked
    (buffers, whose shape has changed between library versions).
    """

    name: str
    shape: tuple[str, ...] | None
    role: Role | None = None
    optional: bool = False

    @property
    def per_block(self) -> bool:
        return "{block}" in self.name


@dataclass(frozen=True)
class Dimensions:
    """The sizes of one model. `d`: model width, `head_size`: d / num_heads."""

    num_blocks: int
    num_heads: int
    d: int
    intermediate: int
    vocabulary: int
    max_positions: int

    @property
    def head_size(self) -> int:
        return self.d // self.num_heads

    @property
    def sizes(self) -> dict[str, int]:
        """Symbol of a `TensorRule.shape` → size."""
        return {
            "d": self.d,
            "3d": 3 * self.d,
            "ff": self.intermediate,
            "vocab": self.vocabulary,
            "positions": self.max_positions,
        }


@dataclass(frozen=True)
class Family:
    """One architecture: where its tensors are and which config keys give its sizes.

    `attention` is the template of the attention module's name; `epsilon` the config key of the
    layer norms' constant; `rotary` tells whether positions are rotary; `fused` whether query, key
    and value are one tensor; `tied_head` whether the head is the embedding unless config.json says
    otherwise.
    """

    model_type: str
    architecture: str
    title: str
    attention: str
    epsilon: str
    rules: tuple[TensorRule, ...]
    config_keys: dict[str, str]  # field of Dimensions → key of config.json
    rotary: bool
    fused: bool
    tied_head: bool

    @property
    def compact_model_type(self) -> str:
        """The model type of its compact checkpoints, so that no other class can load them."""
        return f"attention_free_{self.model_type}"

    def dimensions(self, config: dict[str, Any]) -> Dimensions:
        """Sizes from a parsed config.json. Raises `CheckpointError` for a senseless key."""
        values: dict[str, int] = {}
        for field, key in self.config_keys.items():
            value = config.get(key)
            if field == "intermediate" and value is None and "d" in values:
                value = 4 * values["d"]  # the library's own default for GPT-Neo
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise CheckpointError(
                    f"{key!r} is not a positive whole number", where="config.json", got=value
                )
            values[field] = value
        dimensions = Dimensions(**values)
        if dimensions.d % dimensions.num_heads:
            raise CheckpointError(
                "hidden_size is not a multiple of the number of heads",
                where="config.json",
                got=f"{dimensions.d} and {dimensions.num_heads}",
            )
        return dimensions

    def match(self, name: str) -> tuple[TensorRule, int | None] | None:
        """The one rule that `name` matches, with its block index; None for an unknown name."""
        index = _INDEX.search(name)
        template = name if index is None else _INDEX.sub(".{block}.", name, count=1)
        rule = self._by_name.get(template)
        if rule is None or rule.per_block != (index is not None):
            return None
        return rule, None if index is None else int(index[1])

    def name(self, role: Role, block: int) -> str:
        """The stored name of a block's tensor of that role."""
        (template,) = (rule.name for rule in self.rules if rule.role == role)
        return template.format(block=block)

    def reading(self, block: int) -> tuple[str, str]:
        """The modules of a block that read x, what attention is given, and z, what it makes."""
        first: Role = "query_key_value_weight" if self.fused else "value_weight"
        x, z = (self.name(role, block).removesuffix(".weight") for role in (first, "output_weight"))
        return x, z

    def attending(self, modules: Container[str], num_blocks: int) -> tuple[int, ...]:
        """The blocks that have an attention module; edited ones of a compact model have others."""
        return tuple(b for b in range(num_blocks) if self.reading(b)[1] in modules)

    def has(self, role: Role) -> bool:
        return any(rule.role == role for rule in self.rules)

    @cached_property
    def _by_name(self) -> dict[str, TensorRule]:
        return {rule.name: rule for rule in self.rules}


_INDEX = re.compile(r"\.(0|[1-9][0-9]{0,8})\.")
