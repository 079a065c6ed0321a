"""What is edited, and how: whole blocks or single heads, each with its variant.

"20-23,6.0,7.1-3" with `identity` → blocks 20 to 23, head 0 of block 6, heads 1 to 3 of block 7.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from surgery.blocks import format_blocks, parse_blocks
from surgery.errors import BlockSpecError

_HEADS = re.compile(r"(\d{1,9})\.(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, order=True)
class Part:
    """Heads of one block, ascending, that get the same variant; all of them: the whole block."""

    block: int
    heads: tuple[int, ...]
    variant: str


Selection = tuple[Part, ...]
"""Ascending; a head is in one part at most."""


def parse_selection(spec: str, variant: str, num_blocks: int, num_heads: int) -> Selection:
    """Reads a specification of blocks and heads against a model's numbers of them.

    Items are separated by commas: those of `surgery.blocks.parse_blocks`, a head (`6.0`: block 6,
    head 0) or an inclusive range of heads of one block (`7.1-3`).

    **Raises:** `BlockSpecError` when the specification is empty, malformed, out of range, or names
    a head twice.
    """
    items = [item.strip() for item in spec.split(",")]
    whole = [item for item in items if _HEADS.fullmatch(item) is None]
    chosen: dict[int, list[int]] = {}
    if whole:
        for block in parse_blocks(",".join(whole), num_blocks):
            chosen[block] = list(range(num_heads))
    for item in items:
        match = _HEADS.fullmatch(item)
        if match is None:
            continue
        block, first, last = int(match[1]), int(match[2]), int(match[3] or match[2])
        where, heads = f"block specification {spec!r}", chosen.setdefault(block, [])
        model = _model(num_blocks, num_heads)
        if block >= num_blocks or last >= num_heads:
            raise BlockSpecError(f"{item!r} is out of range", where=where, fix=model)
        if first > last:
            raise BlockSpecError(f"{item!r} names no head", where=where, fix=model)
        twice = sorted(set(heads) & set(range(first, last + 1)))
        if twice:
            raise BlockSpecError(
                f"names head {twice[0]} of block {block} more than once", where=where, fix=model
            )
        heads += range(first, last + 1)
    return tuple(Part(block, tuple(sorted(chosen[block])), variant) for block in sorted(chosen))


def checked(selection: Iterable[Part], num_blocks: int, num_heads: int) -> Selection:
    """The parts, they and their heads ascending, when they fit a model of that size.

    **Raises:** `BlockSpecError` when there is none, one is empty or out of range, or a head is in
    two.
    """
    parts = tuple(
        sorted(Part(part.block, tuple(sorted(part.heads)), part.variant) for part in selection)
    )
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


def _model(num_blocks: int, num_heads: int) -> str:
    return (
        f"the model has {num_blocks} blocks, 0 to {num_blocks - 1}, "
        f"of {num_heads} heads, 0 to {num_heads - 1}"
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


def whole_blocks(selection: Iterable[Part], num_heads: int) -> tuple[int, ...]:
    """The blocks of which every head is edited, ascending."""
    return tuple(block for block, some in heads_of(selection).items() if len(some) == num_heads)


def variant_name(selection: Iterable[Part]) -> str:
    """The variant of every part, or "mixed"."""
    names = {part.variant for part in selection}
    return names.pop() if len(names) == 1 else "mixed"


def by_variant(selection: Iterable[Part]) -> Mapping[str, Selection]:
    """Variant → its parts, in order of first appearance."""
    found: dict[str, list[Part]] = {}
    for part in sorted(selection):
        found.setdefault(part.variant, []).append(part)
    return {variant: tuple(parts) for variant, parts in found.items()}
