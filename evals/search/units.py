"""What a search chooses from: units, each a block or a head with a variant, and what they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from surgery.errors import UnsupportedError
from surgery.selection import Part, Selection, parse_selection

Grain = Literal["blocks", "heads", "mixed"]


def units(
    num_blocks: int,
    num_heads: int,
    grain: Grain,
    variants: Sequence[str],
    num_groups: int | None = None,
) -> tuple[Part, ...]:
    """Every block, every head, or both, with every variant.

    Of `num_groups` key/value heads that are shared, each with all of its query heads counts as a
    head, too.
    """
    every = tuple(range(num_heads))
    pieces = [] if grain == "heads" else [every]
    if grain != "blocks":
        each = num_heads // (num_groups or num_heads)
        groups = [every[first : first + each] for first in range(0, num_heads, each)]
        singles = [(head,) for head in every]
        pieces += [heads for heads in dict.fromkeys([*groups, *singles]) if heads not in pieces]
    return tuple(
        Part(block, heads, variant)
        for block in range(num_blocks)
        for heads in pieces
        for variant in variants
    )


def possible(
    some: Iterable[Part], refusal: Callable[[Selection], UnsupportedError | None]
) -> tuple[tuple[Part, ...], dict[tuple[str, str], UnsupportedError]]:
    """The units that can be edited; ("blocks" or "single heads", variant) of others: a reason.

    Raises `UnsupportedError` where none can.
    """
    some = tuple(some)
    whole = max((len(unit.heads) for unit in some), default=0)
    kept: list[Part] = []
    refused: dict[tuple[str, str], UnsupportedError] = {}
    for unit in some:
        error = refusal((unit,))
        if error is None:
            kept.append(unit)
        else:
            some_heads = len(unit.heads) == 1 or len(unit.heads) < whole
            what = "single heads" if some_heads else "blocks"
            refused.setdefault((what, unit.variant), error)
    if not kept:
        raise next(iter(refused.values()))
    return tuple(kept), refused


def clash(one: Part, other: Part) -> bool:
    """Whether both edit the same head."""
    return one.block == other.block and not set(one.heads).isdisjoint(other.heads)


def merged(chosen: Iterable[Part]) -> Selection:
    """Units that do not clash → the selection of them all."""
    heads: dict[tuple[int, str], list[int]] = {}
    for part in chosen:
        heads.setdefault((part.block, part.variant), []).extend(part.heads)
    return tuple(
        sorted(Part(block, tuple(sorted(some)), name) for (block, name), some in heads.items())
    )


def every_set(some: Sequence[Part]) -> Iterator[frozenset[int]]:
    """The units of every edit that they can make, by index; the empty one left out.

    A whole block and all its heads with its variant are one edit.
    """
    seen: set[Selection] = set()
    begun: list[tuple[int, ...]] = [()]
    while begun:
        chosen = begun.pop()
        for index in range(chosen[-1] + 1 if chosen else 0, len(some)):
            if not any(clash(some[index], some[other]) for other in chosen):
                begun.append((*chosen, index))
                selection = merged(some[one] for one in begun[-1])
                if selection not in seen:
                    seen.add(selection)
                    yield frozenset(begun[-1])


def last_blocks(number: int, num_blocks: int, num_heads: int) -> Selection:
    """`identity` on so many of the deepest blocks (Menta, Agrawal and Agarwal 2025, section 4)."""
    return parse_selection(f"last:{number}", "identity", num_blocks, num_heads)
