"""What a search chooses from: units, each a block or a head with a variant, and what they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Literal

from surgery.errors import UnsupportedError
from surgery.selection import Part, Selection, parse_selection

Units = frozenset[Part]

Grain = Literal["blocks", "heads", "mixed"]


def units(
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


def possible(
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


def number_of_sets(some: Iterable[Part]) -> int:
    """How many edits units can make in which none clash, the empty one left out.

    A whole block and all its heads with its variant are one edit.
    """
    return prod(map(_number_within, _blocks(some))) - 1


def every_set(some: Iterable[Part]) -> Iterator[Units]:
    """A set of units for each of those edits."""
    for choice in product(*(_within(block) for block in _blocks(some))):
        if any(choice):
            yield frozenset().union(*choice)


_Block = dict[tuple[int, ...], list[Part]]
"""The heads that a unit edits -> the units, one for each variant."""


def _blocks(some: Iterable[Part]) -> list[_Block]:
    found: dict[int, _Block] = {}
    for unit in some:
        found.setdefault(unit.block, {}).setdefault(unit.heads, []).append(unit)
    return list(found.values())


def _split(block: _Block) -> tuple[list[list[Part]], list[Part]]:
    """The units of each single head; and those of more that single heads do not make together."""
    single = [units for heads, units in block.items() if len(heads) == 1]
    variants = [{unit.variant for unit in units} for units in single]
    several = (unit for heads, units in block.items() if len(heads) > 1 for unit in units)
    return single, [u for u in several if sum(u.variant in v for v in variants) < len(u.heads)]


def _number_within(block: _Block) -> int:
    single, several = _split(block)
    return prod(len(units) + 1 for units in single) + len(several)


def _within(block: _Block) -> Iterator[Units]:
    """Every edit of one block, none first."""
    single, several = _split(block)
    for choice in product(*([None, *units] for units in single)):
        yield frozenset(unit for unit in choice if unit is not None)
    for unit in several:
        yield frozenset([unit])


def last_blocks(number: int, num_blocks: int, num_heads: int) -> Selection:
    """`identity` on so many of the deepest blocks (Menta, Agrawal and Agarwal 2025, section 4)."""
    return parse_selection(f"last:{number}", "identity", num_blocks, num_heads)
