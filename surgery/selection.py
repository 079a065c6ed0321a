"""What is edited, and how: whole blocks or single heads, each with its variant.

"20-23,6.0,7.1-3" with `identity` → blocks 20 to 23, head 0 of block 6, heads 1 to 3 of block 7.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from surgery.errors import BlockSpecError

_ITEM = re.compile(
    r"(?P<first>\d{1,9})-(?P<last>\d{1,9}) | (?P<index>-?\d{1,9}) | last:(?P<count>\d{1,9})",
    re.VERBOSE | re.ASCII,
)
_GRAMMAR = (
    "write for example 20-23, 20,22, last:4 or -1, or single heads of a block: 6.0, 7.1-3, "
    "or key/value heads with all that share them: 6.g0"
)
_HEADS = re.compile(r"(\d{1,9})\.(g?)(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, order=True)
class Part:
    """Heads of one block, ascending, that get the same variant; all of them: the whole block."""

    block: int
    heads: tuple[int, ...]
    variant: str


Selection = tuple[Part, ...]
"""Ascending; a head is in one part at most."""


def parse_selection(
    spec: str, variant: str, num_blocks: int, num_heads: int, num_groups: int | None = None
) -> Selection:
    """Reads a specification of blocks and heads against a model's numbers of them.

    Items are separated by commas: those of `parse_blocks`, a query head (`6.0`: block 6, head 0),
    an inclusive range of heads of one block (`7.1-3`), or a group, which is a key/value head with
    the query heads that share it (`6.g0`, `7.g1-2`). `num_groups`: how many of these a block has
    (default: each query head has its own).

    **Raises:** `BlockSpecError` when the specification is empty, malformed, out of range, or names
    a head twice.
    """
    items = [item.strip() for item in spec.split(",")]
    whole = [item for item in items if _HEADS.fullmatch(item) is None]
    chosen: dict[int, list[int]] = {}
    if whole:
        for block in parse_blocks(",".join(whole), num_blocks):
            chosen[block] = list(range(num_heads))
    each = num_heads // (num_groups or num_heads)
    for item in items:
        match = _HEADS.fullmatch(item)
        if match is None:
            continue
        block, first, last = int(match[1]), int(match[3]), int(match[4] or match[3])
        where, heads = f"block specification {spec!r}", chosen.setdefault(block, [])
        model = _model(num_blocks, num_heads, num_heads // each)
        size = each if match[2] else 1
        if block >= num_blocks or (last + 1) * size > num_heads:
            raise BlockSpecError(f"{item!r} is out of range", where=where, fix=model)
        if first > last:
            raise BlockSpecError(f"{item!r} names no head", where=where, fix=model)
        named = range(first * size, (last + 1) * size)
        twice = sorted(set(heads) & set(named))
        if twice:
            raise BlockSpecError(
                f"names head {twice[0]} of block {block} more than once", where=where, fix=model
            )
        heads += named
    return tuple(Part(block, tuple(sorted(chosen[block])), variant) for block in sorted(chosen))


def checked(selection: Iterable[Part], num_blocks: int, num_heads: int) -> Selection:
    """The parts, they and their heads ascending, when they fit a model of that size.

    **Raises:** `BlockSpecError` when there is none, one is empty or out of range, or a head is in
    two.
    """
    parts = tuple(sorted(Part(p.block, tuple(sorted(p.heads)), p.variant) for p in selection))
    if not parts or not all(part.heads for part in parts):
        raise BlockSpecError("the selection names no block")
    for part in parts:
        for head in part.heads:
            if not (0 <= part.block < num_blocks and 0 <= head < num_heads):
                raise BlockSpecError(
                    f"head {head} of block {part.block} is out of range",
                    fix=_model(num_blocks, num_heads),
                )
    heads_of(parts)
    return parts


def _model(num_blocks: int, num_heads: int, num_groups: int | None = None) -> str:
    groups = ""
    if num_groups is not None and num_groups != num_heads:
        groups = f" in {num_groups} groups, g0 to g{num_groups - 1}"
    return (
        f"the model has {num_blocks} blocks, 0 to {num_blocks - 1}, "
        f"of {num_heads} heads, 0 to {num_heads - 1}{groups}"
    )


def format_selection(selection: Iterable[Part], num_heads: int) -> str:
    """The shortest specification of the blocks and heads, variants left out.

    Whole blocks come first: ((5, all), (7, (1, 2, 3))) → "5,7.1-3".
    """
    heads = heads_of(selection)
    whole = tuple(block for block in heads if len(heads[block]) == num_heads)
    items = [format_blocks(whole)] if whole else []
    for block, some in heads.items():
        if len(some) < num_heads:
            items += [f"{block}.{run}" for run in format_blocks(some).split(",")]
    return ",".join(items)


def heads_of(selection: Iterable[Part]) -> dict[int, tuple[int, ...]]:
    """Block → its selected heads, both ascending.

    **Raises:** `BlockSpecError` when a head is in two parts.
    """
    heads: dict[int, list[int]] = {}
    for part in sorted(selection):
        heads.setdefault(part.block, []).extend(part.heads)
    for block, some in heads.items():
        for head, count in Counter(some).items():
            if count > 1:
                raise BlockSpecError(f"names head {head} of block {block} more than once")
    return {block: tuple(sorted(heads[block])) for block in sorted(heads)}


def blocks_of(selection: Iterable[Part]) -> tuple[int, ...]:
    """The blocks that are edited, whole or in part, ascending."""
    return tuple(sorted({part.block for part in selection}))


def variant_name(selection: Iterable[Part]) -> str:
    """The variant of every part, or "mixed"."""
    return one_name(part.variant for part in selection)


def one_name(variants: Iterable[str]) -> str:
    """The name that all of them have, or "mixed"."""
    names = set(variants)
    return names.pop() if len(names) == 1 else "mixed"


def variants_by_head(selection: Iterable[Part]) -> dict[int, dict[int, str]]:
    """Block → head → its variant, ascending; of a head in two parts, that of the later one."""
    heads: dict[int, dict[int, str]] = {}
    for part in selection:
        heads.setdefault(part.block, {}).update(dict.fromkeys(part.heads, part.variant))
    return {block: dict(sorted(heads[block].items())) for block in sorted(heads)}


def by_variant(selection: Iterable[Part]) -> Mapping[str, Selection]:
    """Variant → its parts, in order of first appearance."""
    found: dict[str, list[Part]] = {}
    for part in sorted(selection):
        found.setdefault(part.variant, []).append(part)
    return {variant: tuple(parts) for variant, parts in found.items()}


def parse_blocks(spec: str, num_blocks: int) -> tuple[int, ...]:
    """Reads a block specification against a model of `num_blocks` blocks.

    Items are separated by commas: an index (`5`, counted from the end when negative: `-1`),
    an inclusive range (`20-23`), or `last:4` for the deepest four.

    **Returns:** the indices, ascending, each in [0, num_blocks).

    **Raises:** `BlockSpecError` when the specification is empty, malformed, out of range, or names
    a block twice.
    """
    model = f"the model has {num_blocks} blocks, 0 to {num_blocks - 1}"
    where = f"block specification {spec!r}"
    blocks: list[int] = []
    for item in spec.split(","):
        text = item.strip()
        match = _ITEM.fullmatch(text)
        if match is None:
            what = "names no block" if not text else f"cannot read {text!r}"
            raise BlockSpecError(what, where=where, fix=f"{_GRAMMAR}; {model}")
        if match["count"] is not None:
            first, last = num_blocks - int(match["count"]), num_blocks - 1
        elif match["first"] is not None:
            first, last = int(match["first"]), int(match["last"])
        else:
            index = int(match["index"])
            first = last = index + num_blocks if index < 0 else index
        if not 0 <= first < num_blocks or last >= num_blocks:
            raise BlockSpecError(f"{text!r} is out of range", where=where, fix=model)
        if first > last:
            raise BlockSpecError(
                f"{text!r} names no block", where=where, fix=f"{_GRAMMAR}; {model}"
            )
        blocks += range(first, last + 1)
    repeated = sorted({block for block in blocks if blocks.count(block) > 1})
    if repeated:
        names = ", ".join(map(str, repeated))
        raise BlockSpecError(f"names block {names} more than once", where=where, fix=model)
    return tuple(sorted(blocks))


def format_blocks(blocks: tuple[int, ...]) -> str:
    """The shortest specification of the given ascending indices: (5, 20, 21, 22) → "5,20-22"."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
