"""Layout `stock`: the unchanged architecture, so the library's own class loads it.

**Heads that attend to themselves alone:** query and key rows become constants that make attention
exactly one-hot on the diagonal (onehot.py); the value rows hold M and c. For `identity` these are
the rows that are there already, untouched. Where queries and keys are normalized, the gain of that
norm makes the constants as large as they must be.

**Shared keys and values:** such a block takes one map for all heads of a group, the mean of what
was fitted to each. Their constants, which differ, are summed in one column of the output
projection, and the value that this column reads becomes 1.

**Heads that add nothing** (every family): their value rows become zero, so their context is exactly
zero; or, where other heads share the values, the output projection's columns that read them. A
whole block that adds nothing loses its output bias as well.

**Constants where attention cannot be made one-hot:** the output bias takes W_O c.

**What nothing reads any more becomes zero**, too: queries and keys of heads that add nothing, and
the columns of the output projection that meet their zeros.

**Sinks** (gpt-oss), scores that take weight from all tokens, become zero, far below a token's own.
**Blocks without positions** (SmolLM3) get them, by their entry in config.json.

**Added biases:** where a key of config.json gives a model biases, it is switched on, and all blocks
get all of them. Those that hold nothing are -0.0, which changes no sum in any bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from surgery.cut import Cut, Edit, Read, get_fit, get_map
from surgery.errors import UnsupportedError
from surgery.families import Projection, What
from surgery.onehot import OneHot, find_one_hot, placed, read_clip
from surgery.tensors import Bits, Tensor, encode
from surgery.variants import Fit

_FIX = "use `layout=compact`, or `variant=zero`"
_WHATS: tuple[What, ...] = ("weight", "bias")


@dataclass
class Storage:
    """Key/value heads ("groups") and query heads of one block, by what is done to them.

    - `hot`: the constants of queries and keys; `alone`: groups that get them.
    - `maps`: groups whose values become M and c; `units`: those whose value becomes a single 1.
    - `silent`: groups whose values become zero; `muted`: query heads that the output projection no
      longer reads; `constants`: query heads whose constant goes into the output bias.
    - `idle_keys`, `idle_queries`, `idle_columns`: groups, query heads, and query heads' columns of
      the output projection, that become zero because nothing reads them.
    """

    hot: OneHot | None = None
    alone: list[int] = field(default_factory=list)
    maps: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    muted: list[int] = field(default_factory=list)
    constants: list[int] = field(default_factory=list)
    idle_keys: list[int] = field(default_factory=list)
    idle_queries: list[int] = field(default_factory=list)
    idle_columns: list[int] = field(default_factory=list)


def store(cut: Cut) -> Storage:
    """Where the block's maps and constants go, with one-hot attention where that is possible.

    **Raises:** `UnsupportedError`, with what to do, if the architecture cannot hold the edit.
    """
    _check_shared(cut)
    held = Storage(hot=_find_hot(cut))
    for group, heads in enumerate(cut.groups):
        named = [head for head in heads if head in cut.variants]
        kind = cut.kinds[named[0]] if named else None
        if kind == "none" and len(named) < len(heads):
            held.muted += named
        elif kind == "affine" or (kind == "constant" and held.hot and len(heads) == 1):
            held.maps.append(group)
        elif kind == "constant" and held.hot:
            held.units.append(group)
        elif kind is not None:
            held.silent.append(group)
            held.constants += named if kind == "constant" else []
    if held.constants and not cut.can_have("output"):
        raise UnsupportedError(
            f"{cut.family.model_type} has no output bias, which the constant of head "
            f"{cut.block}.{held.constants[0]} needs",
            fix=_FIX,
        )
    hot = sorted(held.maps + held.units)
    held.alone = list(range(len(cut.groups))) if cut.family.norms and hot else hot
    held.idle_columns = [head for group in held.silent for head in cut.groups[group]]
    if cut.whole or cut.family.norms != "all":  # such a norm reads queries and keys of all heads
        own = {head for group in held.alone for head in cut.groups[group]}
        held.idle_keys = [group for group in held.silent if group not in held.alone]
        held.idle_queries = sorted({*held.muted, *held.idle_columns} - own)
    return held


def _check_shared(cut: Cut) -> None:
    """Heads that share keys and values are `zero`, or all heads of the block get one variant."""
    if cut.size.heads_per_group == 1 or set(cut.kinds.values()) == {"none"}:
        return
    what = f"heads of block {cut.block} share their keys and values"
    fix = f"name the whole block, {cut.block}, with one variant, or take `variant=zero`"
    if not cut.whole:
        raise UnsupportedError(f"{what}, and some still attend", fix=fix)
    if len(names := {*cut.variants.values()}) > 1:
        raise UnsupportedError(f"{what}, and cannot be {' and '.join(sorted(names))}", fix=fix)


def _find_hot(cut: Cut) -> OneHot | None:
    """The constants of queries and keys. Without them `mean` is held in the output bias."""
    if cut.kind == "none":
        return None
    try:
        _check_alone(cut)
        return find_one_hot(cut.config, cut.family, cut.block)
    except UnsupportedError:
        if cut.kind == "constant":
            return None
        raise


def _check_alone(cut: Cut) -> None:
    """Raises `UnsupportedError` unless queries and keys of the heads can be constants."""
    family = cut.family
    if family.rotary and not (cut.can_have("query") and cut.can_have("key")):
        raise UnsupportedError(
            f"{family.model_type} has no query and key biases, so its own architecture cannot make "
            "a token attend to itself alone",
            fix="take `variant=zero`" + (" or mean" if cut.can_have("output") else ""),
        )
    shared = "the norm of queries and keys" if family.norms else None
    if (entries := placed(cut.config, family)) and not entries[cut.block]:
        shared = "the lack of positions"
    if shared is not None and not cut.whole:
        raise UnsupportedError(
            f"all heads of block {cut.block} share {shared}, and some still attend",
            fix=f"name the whole block, {cut.block}, or take `variant=zero` or mean",
        )
    clip = read_clip(cut.config, family)
    if clip is not None and "linear" in cut.variants.values():
        raise UnsupportedError(
            f"the model clips values to {clip:g}, and would clip what was fitted",
            fix="take another variant",
        )


def list_edits(cut: Cut, held: Storage) -> Iterator[Edit]:
    """The edits of a block's tensors: q, k, v, their norms and sinks, and the output."""
    maps = (cut.variants[head] for group in held.maps for head in cut.groups[group])
    changed: dict[Projection, bool] = {
        "query": bool(held.alone or held.idle_queries),
        "key": bool(held.alone or held.idle_keys),
        "value": bool(held.silent or held.units or any(name != "identity" for name in maps)),
    }
    done = set[str]()
    for part in (part for part, is_so in changed.items() if is_so):
        for what in _WHATS:
            name = cut.family.name(cut.block, part, what)
            is_there = cut.has(part) or (held.constants and cut.can_have(part))
            if name not in done and (what == "weight" or held.alone or is_there):
                done.add(name)
                yield cut.edit(part, what, _Heads(cut, held, part, what == "bias"))
    if cut.family.norms and (held.alone or len(held.idle_keys) == len(cut.groups)):
        yield from _edit_gains(cut, held)
    if cut.family.sinks and (held.alone or held.idle_queries):
        yield _edit_sinks(cut, held)
    if held.muted or held.units or held.idle_columns:
        yield cut.edit("output", "weight", _Columns(cut, held))
    if held.constants or (cut.bare and cut.has("output")):
        yield cut.edit("output", "bias", _OutputBias(cut, held))


@dataclass(frozen=True)
class _Heads:
    """Writes constants, maps, and zeros into the heads of a tensor."""

    cut: Cut
    held: Storage
    part: Projection
    is_bias: bool

    def __call__(self, bits: Bits, read: Read, fit: Fit | None) -> Bits:
        cut, held = self.cut, self.held
        own = [head for group in held.alone for head in cut.groups[group]]
        rows = {"query": (own, held.idle_queries), "key": (held.alone, held.idle_keys)}
        for part, heads in cut.views(self.part, bits).items():
            if part == "value":
                self._write_values(heads, fit)
                continue
            alone, idle = rows[part]
            heads[alone + idle] = 0
            if held.hot is not None and self.is_bias:
                kappa = 1 if cut.family.norms else held.hot.kappa
                heads[alone, _pairs(cut, held.hot)] = encode(kappa, cut.dtype)
        return bits

    def _write_values(self, values: Bits, fit: Fit | None) -> None:
        """Into [G, h, …]: M or c of `maps`; zeros; and of a bias, one 1 for each of `units`."""
        cut, held = self.cut, self.held
        values[held.silent + held.units] = 0
        if self.is_bias:
            values[held.units, 0] = encode(1, cut.dtype)
        for group in held.maps:
            heads = list(cut.groups[group])
            name, content = cut.variants[heads[0]], None
            if name == "identity":
                continue  # the values that are there
            if name == "linear":
                content = get_map(fit)[1 if self.is_bias else 0]
            elif self.is_bias:
                content = get_fit(fit).mean
            new = 0 if content is None else content[heads].astype(np.float64).mean(0)
            values[group] = encode(new, cut.dtype)


@dataclass(frozen=True)
class _Columns:
    """W_O [d, H h] without the columns of heads that nothing reads, and with the constants of
    `units` in one column each."""

    cut: Cut
    held: Storage

    def __call__(self, bits: Bits, read: Read, fit: Fit | None) -> Bits:
        cut, held = self.cut, self.held
        sums = {unit: cut.add_constants(cut.groups[unit], fit, read) for unit in held.units}
        columns = bits.reshape(len(bits), -1, cut.size.head_size)
        columns[:, held.muted + held.idle_columns] = 0
        for unit, column in sums.items():
            columns[:, list(cut.groups[unit])] = 0
            columns[:, cut.groups[unit][0], 0] = encode(column, cut.dtype)
        return bits


@dataclass(frozen=True)
class _OutputBias:
    """Takes constants in, or becomes zero where the block adds nothing."""

    cut: Cut
    held: Storage

    def __call__(self, bits: Bits, read: Read, fit: Fit | None) -> Bits:
        cut = self.cut
        if not self.held.constants:
            return np.zeros_like(bits)
        stored = cut.read("output", "bias", lambda _: bits).astype(np.float64)
        return encode(stored + cut.add_constants(self.held.constants, fit, read), cut.dtype)


def _edit_gains(cut: Cut, held: Storage) -> Iterator[Edit]:
    """Gains that make constants as large as they must be, or zero, as the norm stores them."""
    size, offset = cut.size, cut.family.gain
    for part, groups in (("q", size.num_heads), ("k", size.num_groups)):
        number = size.head_size * (1 if cut.family.norms == "head" else groups)
        gains = np.full((number // size.head_size, size.head_size), 0.0 - offset)
        if held.hot is not None:
            full = held.hot.kappa * np.sqrt(held.hot.num_pairs / size.head_size)
            gains[:, _pairs(cut, held.hot)] = full - offset
        name = f"{cut.family.attention.format(block=cut.block)}.{part}_norm.weight"
        make = partial(_give, encode(gains.reshape(-1), cut.dtype))
        yield Edit(Tensor(name, cut.dtype, (number,)), cut.block, make)


def _give(bits: Bits, read: Read, fit: Fit | None) -> Bits:
    return bits


def _edit_sinks(cut: Cut, held: Storage) -> Edit:
    """A token's own score is above zero by more than the gap."""
    name = f"{cut.family.attention.format(block=cut.block)}.sinks"
    own = [head for group in held.alone for head in cut.groups[group]]

    def make(read: Read, fit: Fit | None) -> Bits:
        bits = read(name)
        bits[own + held.idle_queries] = 0
        return bits

    return Edit(Tensor(name, cut.dtype, (cut.size.num_heads,)), cut.block, make)


def _pairs(cut: Cut, hot: OneHot) -> slice:
    """The first dimensions of the pairs of a head that hold the constant."""
    return slice(0, 2 * hot.num_pairs, 2) if cut.family.adjacent else slice(0, hot.num_pairs)


def list_switches(cut: Cut, edits: list[Edit]) -> set[str]:
    """The keys of config.json that biases need which the edits add."""
    added = {edit.tensor.name for edit in edits} - cut.stored.keys()
    family = cut.family
    return {k for p, k in family.switch_of.items() if family.name(cut.block, p, "bias") in added}


def list_added(cut: Cut, switches: set[str]) -> Iterator[Edit]:
    """The biases of a block, edited or not, that the switches bring."""
    for part, key in cut.family.switch_of.items():
        if key in switches and not cut.has(part):
            yield cut.edit(part, "bias", lambda bits, read, fit: bits)


def make_config(cuts: dict[int, Cut], switches: set[str]) -> dict[str, Any]:
    """The keys of config.json that change."""
    first = next(iter(cuts.values()))
    new: dict[str, Any] = dict.fromkeys(sorted(switches), True)
    entries = placed(first.config, first.family)
    lacking = [b for b, c in cuts.items() if c.whole and c.kind != "none"]
    if entries is not None and not all(entries[block] for block in lacking):
        new["no_rope_layers"] = [1 if b in lacking else entry for b, entry in enumerate(entries)]
    return new
