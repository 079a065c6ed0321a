"""Layout `stock`: the unchanged architecture, so the library's own class loads it.

**Heads that attend to themselves alone:** query and key rows become constants that make attention
exactly one-hot on the diagonal (see one_hot.py); the value rows hold M and c. For `identity` these
are the rows that are there already, untouched. Where queries and keys are normalized, the gain of
that norm makes the constants as large as they must be.

**Grouped heads:** a key/value head and its query heads are edited together, and share one M: the
mean of what was fitted to each of them. Their constants, which differ, are summed in one column of
the output projection, and the value that this column reads becomes 1.

**Heads that add nothing** (every family): their value rows become zero, so their context is exactly
zero; or, where other heads share the values, the output projection's columns that read them. A
whole block that adds nothing loses its output bias as well.

**Constants where attention cannot be made one-hot:** the output bias takes W_O c.

**Scrubbing:** rows and columns that nothing reads any more become zero: queries and keys of heads
that add nothing, and the columns of the output projection that meet their zeros. Earlier versions
left them as they were.

**Sinks** (gpt-oss), scores that take weight from all tokens, become zero, far below a token's own.

**Blocks without positions** (SmolLM3, Cohere2) get them, by their entry in config.json, when a
whole block attends to itself alone.

**Added biases:** where a key of config.json gives a model biases, it is switched on, and all blocks
get all of them. Those that hold nothing are -0.0, which changes no sum in any bit.

**Limits:** without query and key biases or relative positions, attention cannot be made one-hot.
Size, cache and speed stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from surgery.families import Family, Role, Switch
from surgery.layouts.block import (
    Array,
    Block,
    BlockEdit,
    Config,
    Edits,
    Names,
    Projection,
    TensorChange,
)
from surgery.layouts.one_hot import OneHot
from surgery.layouts.stock_limits import Storage, check, find_one_hot, one_hot, storage_of
from surgery.variants import Affine, Fit

__all__ = ["NAME", "changes", "check", "compute", "config", "one_hot", "source_config"]

NAME = "stock"


def changes(edits: Sequence[tuple[Block, BlockEdit]]) -> tuple[TensorChange, ...]:
    """Returns what changes in the edited blocks, and the tensors that every block then has.

    Adding a tensor to one block switches it on for all.
    """
    own: list[TensorChange] = []
    switches: set[Switch | None] = set()
    for block, edit in edits:
        for role in _roles(block, edit):
            rule = block.family.rule(role)
            if block.has(role):
                own.append(block.change("rewrite", role))
            elif rule is not None and rule.when:
                own.append(block.change("add", role))
                switches.add(rule.when)
    if not switches:
        return tuple(own)
    named = {change.name for change in own}
    first = edits[0][0]
    added = (
        block.change_of("add", rule)
        for block in (replace(first, index=index) for index in range(first.dimensions.num_blocks))
        for rule in first.family.rules
        if rule.when in switches
        and not (rule.blocks and not rule.blocks(block.config, block.index))
    )
    return (*own, *(c for c in added if c.name not in named and c.name not in first.present))


def _roles(block: Block, edit: BlockEdit) -> list[Role]:
    """The roles of the tensors that hold the edit, in the order of their names in the record."""
    held = storage_of(block, edit)
    parts: list[Projection] = ["query"] if held.alone or held.idle_queries else []
    parts += ["key"] if held.alone or held.idle_keys else []
    variants = (edit.variants[head] for group in held.maps for head in edit.groups[group])
    rewritten = any(variant.kind != "affine" or variant.fitted for variant in variants)
    if block.family.fused or held.silent or held.units or rewritten:
        parts.append("value")
    roles: list[Role] = []
    for part in parts:
        weight, bias = block.stored(part, "weight"), block.stored(part, "bias")
        needed = held.alone or block.has(bias)  # a value of zero needs no bias
        roles += [weight, bias] if needed else [weight]
    idle = len(held.idle_keys) == len(edit.groups)
    if (held.alone or idle) and block.qk_norm is not None:
        roles += ["query_norm", "key_norm"]
    if block.has("sinks") and (held.alone or held.idle_queries):
        roles.append("sinks")
    if held.muted or held.units or held.idle_columns:
        roles.append("output_weight")
    if held.constants or (edit.bare and block.has("output_bias")):
        roles.append("output_bias")
    return list(dict.fromkeys(roles))


def compute(change: TensorChange, block: Block, edit: BlockEdit, fit: Fit | None) -> Array:
    held, role = storage_of(block, edit), change.role
    if role is None:  # only comes with a switch
        return np.full(change.shape, -0.0)
    hot = find_one_hot(block) if held.alone else None
    new = block.read(role) if block.has(role) else np.full(change.shape, -0.0)
    if role in ("query_norm", "key_norm"):
        return _gains(block, edit, hot, new)
    if role == "output_bias":
        if held.constants:
            constant = _constant(block, held.constants, edit.affine(block.sources(fit)))
            return new.astype(np.float64) + constant
        return np.zeros(change.shape) if edit.bare else new
    if role == "output_weight":
        return _output_weight(block, edit, held, edit.affine(block.sources(fit)), new)
    own_queries = [head for group in held.alone for head in edit.groups[group]]
    if role == "sinks":  # a token's own score is above zero by more than the gap
        new[own_queries + held.idle_queries] = 0
        return new
    is_bias = str(role).endswith("_bias")
    for part, heads in block.parts(role, new).items():
        if part == "value":
            _write_values(block, edit, held, heads, is_bias, fit)
            continue
        own, idle = held.alone, held.idle_keys
        if part == "query":
            own, idle = own_queries, held.idle_queries
        heads[own + idle] = 0
        if hot is not None and is_bias:
            heads[own, _pairs(block, hot)] = hot.kappa if block.qk_norm is None else 1
    return new


def _pairs(block: Block, hot: OneHot | None) -> slice:
    """The rotated dimensions of a head that hold the constant."""
    if hot is None:
        return slice(0)
    assert block.family.rotary is not None
    return block.family.rotary.first_of_pairs(hot.num_pairs)


def _gains(block: Block, edit: BlockEdit, hot: OneHot | None, stored: Array) -> Array:
    """Gains that make constants as large as they must be, as the norm stores them."""
    offset = block.family.gain
    nothing = np.full_like(stored, 0.0 - offset)
    if hot is None:
        return nothing
    new = nothing if edit.scrubbed else stored
    gain = hot.kappa * np.sqrt(hot.num_pairs / block.dimensions.head_size)
    block.per_head(new)[:, _pairs(block, hot)] = gain - offset
    return new


def _write_values(
    block: Block, edit: BlockEdit, held: Storage, values: Array, is_bias: bool, fit: Fit | None
) -> None:
    """Writes into `values` [G, h, …] in place: M or c for `held.maps`; zeros for `held.silent` and
    `held.units`; and of a bias, one 1 for each of `held.units`."""
    values[held.silent + held.units] = 0
    if is_bias:
        values[held.units, 0] = 1
    affine = edit.affine(block.sources(fit)) if held.maps else Affine(None, None)
    content = affine.bias if is_bias else affine.weight
    for group in held.maps:
        heads = edit.of_kind("affine", edit.groups[group]) or list(edit.groups[group])
        if edit.variants[heads[0]].kind == "affine" and not edit.variants[heads[0]].fitted:
            continue  # the values that are there
        values[group] = 0 if content is None else content[heads].astype(np.float64).mean(0)


def _output_weight(
    block: Block, edit: BlockEdit, held: Storage, affine: Affine, weight: Array
) -> Array:
    """W_O [d, H h] without muted heads, and with the constants of `units` in one column each."""
    columns = weight.reshape(weight.shape[0], -1, block.dimensions.head_size)
    sums = {unit: _constant(block, edit.groups[unit], affine) for unit in held.units}
    columns[:, held.muted + held.idle_columns] = 0
    for unit, column in sums.items():
        heads = edit.groups[unit]
        columns[:, list(heads), slice(None) if edit.scrubbed else 0] = 0
        columns[:, heads[0], 0] = column
    return weight


def _constant(block: Block, heads: Sequence[int], affine: Affine) -> Array:
    """Σ W_O c over some heads, float64 [d]."""
    assert affine.bias is not None
    contexts = np.zeros(affine.bias.shape)
    contexts[list(heads)] = affine.bias[list(heads)]
    return block.constant(contexts)


def config(config: Config, family: Family, edits: Edits, added: Names) -> Config:
    absent = family.rotary.absent if family.rotary else None
    placed: Config = {}
    if absent is not None:
        size = family.dimensions(config)
        entries = absent.entries(config, size.num_blocks)
        for block, edit in edits.items():
            if edit.whole and edit.kind != "none" and entries[block] == absent.absent:
                entries[block] = absent.present
                placed = {absent.key: entries}
    return {**config, **{rule.key: rule.value for rule in _switched(family, added)}, **placed}


def source_config(config: Config, family: Family, edits: Edits, added: Names) -> Config:
    return {**config, **{rule.key: not rule.value for rule in _switched(family, added)}}


def _switched(family: Family, added: Names) -> set[Switch]:
    """The switches of config.json that some of the tensors need."""
    matches = (family.match(name) for name in added)
    return {match[0].when for match in matches if match is not None and match[0].when is not None}
