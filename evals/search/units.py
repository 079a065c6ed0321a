"""The units of a search, each a block or a head with a variant, and sets of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from surgery.errors import UnsupportedError
from surgery.selection import Part, Selection, parse_selection

Grain = Literal["blocks", "heads", "mixed"]


def list_units(
    num_blocks: int, num_heads: int, grain: Grain, variants: Sequence[str]
) -> tuple[Part, ...]:
    """Every block, every head, or both, with every variant."""
    every = tuple(range(num_heads))
    pieces = [] if grain == "heads" else [every]
    if grain != "blocks":
        pieces += [(head,) for head in every if (head,) not in pieces]
    return tuple(
        Part(block, heads, variant)
        for block in range(num_blocks)
        for heads in pieces
        for variant in variants
    )


def keep_possible(
    some: Iterable[Part], refusal: Callable[[Selection], UnsupportedError | None]
) -> tuple[tuple[Part, ...], dict[tuple[str, str], UnsupportedError]]:
    """The units that can be edited; ("blocks" or "single heads", variant) of others: a reason.

    Raises `UnsupportedError` where none can.
    """
    kept: list[Part] = []
    refused: dict[tuple[str, str], UnsupportedError] = {}
    for unit in some:
        error = refusal((unit,))
        if error is None:
            kept.append(unit)
        else:
            what = "single heads" if len(unit.heads) == 1 else "blocks"
            refused.setdefault((what, unit.variant), error)
    if not kept:
        raise next(iter(refused.values()))
    return tuple(kept), refused


def units_clash(one: Part, other: Part) -> bool:
    """Whether both units edit the same head."""
    return one.block == other.block and not set(one.heads).isdisjoint(other.heads)


def merge_units(chosen: Iterable[Part]) -> Selection:
    """Merges units that do not clash into one selection."""
    heads: dict[tuple[int, str], list[int]] = {}
    for part in chosen:
        heads.setdefault((part.block, part.variant), []).extend(part.heads)
    return tuple(
        sorted(Part(block, tuple(sorted(some)), name) for (block, name), some in heads.items())
    )


def list_sets(some: Sequence[Part]) -> Iterator[frozenset[int]]:
    """The units of every edit that they can make, by index; the empty one left out.

    A whole block and all its heads with its variant are one edit.
    """
    seen: set[Selection] = set()
    begun: list[tuple[int, ...]] = [()]
    while begun:
        chosen = begun.pop()
        for index in range(chosen[-1] + 1 if chosen else 0, len(some)):
            if not any(units_clash(some[index], some[other]) for other in chosen):
                begun.append((*chosen, index))
                selection = merge_units(some[one] for one in begun[-1])
                if selection not in seen:
                    seen.add(selection)
                    yield frozenset(begun[-1])


def select_last_blocks(number: int, num_blocks: int, num_heads: int) -> Selection:
    """`identity` on so many of the deepest blocks (Menta, Agrawal and Agarwal 2025, section 4)."""
    return parse_selection(f"last:{number}", "identity", num_blocks, num_heads)
