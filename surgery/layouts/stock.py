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
from surgery.layouts.block import Array, Block, BlockEdit, Change, Config, Edits, Names, Part
from surgery.layouts.stock_limits import Storage, check, find_one_hot, one_hot, storage_of
from surgery.variants import Affine, Fit

__all__ = ["NAME", "changes", "check", "compute", "config", "one_hot", "source_config"]

NAME = "stock"


def changes(edits: Sequence[tuple[Block, BlockEdit]]) -> tuple[Change, ...]:
    """Returns what changes in the edited blocks, and the tensors that every block then has.

    Adding a tensor to one block switches it on for all.
    """
    own: list[Change] = []
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
        block.change("add", rule.role)
        for block in (replace(first, index=index) for index in range(first.dimensions.num_blocks))
        for rule in first.family.rules
        if rule.when in switches and rule.role is not None and not block.has(rule.role)
    )
    return (*own, *(change for change in added if change.name not in named))


def _roles(block: Block, edit: BlockEdit) -> list[Role]:
    """The roles of the tensors that hold the edit, in the order of their names in the record."""
    held = storage_of(block, edit)
    parts: list[Part] = ["query", "key"] if held.alone else []
    variants = (edit.variants[head] for group in held.maps for head in edit.groups[group])
    rewritten = any(variant.kind != "affine" or variant.fitted for variant in variants)
    if block.family.fused or held.silent or held.units or rewritten:
        parts.append("value")
    roles: list[Role] = []
    for part in parts:
        weight, bias = block.stored(part, "weight"), block.stored(part, "bias")
        needed = held.alone or block.has(bias)  # a value of zero needs no bias
        roles += [weight, bias] if needed else [weight]
    if held.alone and block.family.qk_norm is not None:
        roles += ["query_norm", "key_norm"]
    if held.muted or held.units:
        roles.append("output_weight")
    if held.constants or (edit.bare and block.has("output_bias")):
        roles.append("output_bias")
    return list(dict.fromkeys(roles))


def compute(change: Change, block: Block, edit: BlockEdit, fit: Fit | None) -> Array:
    held, role = storage_of(block, edit), change.role
    hot = find_one_hot(block) if held.alone else None
    new = block.read(role) if block.has(role) else np.full(change.shape, -0.0)
    if role in ("query_norm", "key_norm"):
        assert hot is not None
        gain = hot.kappa * np.sqrt(hot.num_pairs / block.dimensions.head_size)
        block.per_head(new)[:, : hot.num_pairs] = gain
        return new
    if role == "output_bias":
        if held.constants:
            constant = _constant(block, held.constants, edit.affine(block.sources(fit)))
            return new.astype(np.float64) + constant
        return np.zeros(change.shape) if edit.bare else new
    if role == "output_weight":
        return _output_weight(block, edit, held, edit.affine(block.sources(fit)), new)
    for part, heads in block.parts(role, new).items():
        if part == "value":
            _write_values(block, edit, held, heads, change, fit)
        elif hot is not None:
            own = held.alone
            if part == "query":
                own = [head for group in own for head in edit.groups[group]]
            heads[own] = 0
            if role.endswith("_bias"):
                heads[own, : hot.num_pairs] = hot.kappa if block.family.qk_norm is None else 1
    return new


def _write_values(
    block: Block, edit: BlockEdit, held: Storage, values: Array, change: Change, fit: Fit | None
) -> None:
    """Puts M or c into `values` [G, h, …] in place, zeros and ones where they stand instead."""
    is_bias = change.role.endswith("_bias")
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
    columns[:, held.muted] = 0
    for unit, column in sums.items():
        heads = edit.groups[unit]
        columns[:, list(heads), 0] = 0
        columns[:, heads[0], 0] = column
    return weight


def _constant(block: Block, heads: Sequence[int], affine: Affine) -> Array:
    """Σ W_O c over some heads, float64 [d]."""
    assert affine.bias is not None
    contexts = np.zeros(affine.bias.shape)
    contexts[list(heads)] = affine.bias[list(heads)]
    return block.constant(contexts)


def config(config: Config, family: Family, edits: Edits, added: Names) -> Config:
    return {**config, **{rule.key: rule.value for rule in _switched(family, added)}}


def source_config(config: Config, family: Family, edits: Edits, added: Names) -> Config:
    return {**config, **{rule.key: not rule.value for rule in _switched(family, added)}}


def _switched(family: Family, added: Names) -> set[Switch]:
    """The switches of config.json that some of the tensors need."""
    matches = (family.match(name) for name in added)
    return {match[0].when for match in matches if match is not None and match[0].when is not None}
