"""What is edited, and how: whole blocks or single heads, each with its variant.

"20-23,6.0,7.1-3" with `identity` → blocks 20 to 23, head 0 of block 6, heads 1 to 3 of block 7.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from surgery.errors import BlockSpecError

_NUMBER = r"\d{1,9}"
_ITEM = re.compile(
    f"(?P<end>last:|-)(?P<count>{_NUMBER}) | ((?P<block>{_NUMBER})[.])?"
    f"(?P<first>{_NUMBER})(-(?P<last>{_NUMBER}))?",
    re.VERBOSE | re.ASCII,
)
_GRAMMAR = "write for example 20-23, 20,22, last:4 or -1, or single heads of a block: 6.0, 7.1-3"


@dataclass(frozen=True, order=True)
class EditedHeads:
    """Heads of one block, ascending, that get the same variant; all of them: the whole block."""

    block: int
    heads: tuple[int, ...]
    variant: str


Selection = tuple[EditedHeads, ...]
"""Ascending; a head is in one part at most."""


def parse_selection(spec: str, variant: str, num_blocks: int, num_heads: int) -> Selection:
    """Reads a specification of blocks and heads against a model's numbers of them.

    Items are separated by commas: a block (`5`, or `-1`, counted from the end), an inclusive range
    of blocks (`20-23`), the deepest blocks (`last:4`), a query head (`6.0`: block 6, head 0), or a
    range of heads of one block (`7.1-3`).
    """
    where, model = f"block specification {spec!r}", _describe(num_blocks, num_heads)
    parts: list[EditedHeads] = []
    for item in map(str.strip, spec.split(",")):
        match = _ITEM.fullmatch(item)
        if match is None:
            what = f"cannot read {item!r}" if item else "names no block"
            raise BlockSpecError(what, where=where, fix=f"{_GRAMMAR}; {model}")
        if match["count"]:
            first = num_blocks - int(match["count"])
            last = first if match["end"] == "-" else num_blocks - 1
        else:
            first, last = int(match["first"]), int(match["last"] or match["first"])
        block = None if match["block"] is None else int(match["block"])
        limit = num_blocks if block is None else num_heads
        if not 0 <= first < limit or last >= limit or (block or 0) >= num_blocks:
            raise BlockSpecError(f"{item!r} is out of range", where=where, fix=model)
        if first > last:
            what = f"{item!r} names no {'block' if block is None else 'head'}"
            raise BlockSpecError(what, where=where, fix=model)
        if block is None:
            parts += [
                EditedHeads(b, tuple(range(num_heads)), variant) for b in range(first, last + 1)
            ]
        else:
            parts.append(EditedHeads(block, tuple(range(first, last + 1)), variant))
    _check_once(parts, num_heads, where=where, fix=model)
    return tuple(EditedHeads(block, heads, variant) for block, heads in heads_of(parts).items())


def checked(selection: Iterable[EditedHeads], num_blocks: int, num_heads: int) -> Selection:
    """Sorts the parts and their heads.

    **Raises:** `BlockSpecError` if there is none, one is empty or does not fit a model of that
    size, or a head is in two.
    """
    parts = tuple(
        sorted(EditedHeads(p.block, tuple(sorted(p.heads)), p.variant) for p in selection)
    )
    if not parts or not all(part.heads for part in parts):
        raise BlockSpecError("the selection names no block", fix=_describe(num_blocks, num_heads))
    for part in parts:
        for head in part.heads:
            if not (0 <= part.block < num_blocks and 0 <= head < num_heads):
                what = f"head {head} of block {part.block} is out of range"
                raise BlockSpecError(what, fix=_describe(num_blocks, num_heads))
    _check_once(parts, fix=_describe(num_blocks, num_heads))
    return parts


def _check_once(parts: Iterable[EditedHeads], num_heads: int = 0, **details: str) -> None:
    """Raises `BlockSpecError` if a head is in two parts. Names whole blocks of `num_heads`."""
    counts = Counter((part.block, head) for part in parts for head in part.heads)
    twice = sorted(pair for pair, count in counts.items() if count > 1)
    blocks = sorted({block for block, _ in twice})
    if twice:
        name = f"head {twice[0][1]} of block {twice[0][0]}"
        if len(twice) == len(blocks) * num_heads:
            name = f"block {', '.join(map(str, blocks))}"
        raise BlockSpecError(f"names {name} more than once", **details)


def _describe(num_blocks: int, num_heads: int) -> str:
    return (
        f"the model has {num_blocks} blocks, 0 to {num_blocks - 1}, "
        f"of {num_heads} heads, 0 to {num_heads - 1}"
    )


def format_selection(selection: Iterable[EditedHeads], num_heads: int) -> str:
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


def name_blocks(selection: Iterable[EditedHeads], num_heads: int) -> str:
    """`format_selection` after its noun: "block 2", "block 7.1-3", "blocks 20-23"."""
    noun = "block" if len(heads_of(selection)) == 1 else "blocks"
    return f"{noun} {format_selection(selection, num_heads)}"


def heads_of(selection: Iterable[EditedHeads]) -> dict[int, tuple[int, ...]]:
    """Block → its selected heads, both ascending."""
    return {block: tuple(heads) for block, heads in variants_by_head(selection).items()}


def blocks_of(selection: Iterable[EditedHeads]) -> tuple[int, ...]:
    """The blocks that are edited, whole or in part, ascending."""
    return tuple(sorted({part.block for part in selection}))


def variant_name(selection: Iterable[EditedHeads]) -> str:
    """The variant of every part, or "mixed"; "none" without parts."""
    return one_name(part.variant for part in selection)


def one_name(variants: Iterable[str]) -> str:
    """The name that all of them have, or "mixed"; "none" without any."""
    names = set(variants) or {"none"}
    return names.pop() if len(names) == 1 else "mixed"


def variants_by_head(selection: Iterable[EditedHeads]) -> dict[int, dict[int, str]]:
    """Block → head → its variant, ascending; of a head in two parts, that of the later one."""
    heads: dict[int, dict[int, str]] = {}
    for part in selection:
        heads.setdefault(part.block, {}).update(dict.fromkeys(part.heads, part.variant))
    return {block: dict(sorted(heads[block].items())) for block in sorted(heads)}


def by_variant(selection: Iterable[EditedHeads]) -> Mapping[str, Selection]:
    """Variant → its parts, in order of first appearance."""
    found: dict[str, list[EditedHeads]] = {}
    for part in sorted(selection):
        found.setdefault(part.variant, []).append(part)
    return {variant: tuple(parts) for variant, parts in found.items()}


def format_blocks(blocks: tuple[int, ...]) -> str:
    """The shortest specification of the given ascending indices: (5, 20, 21, 22) → "5,20-22"."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
