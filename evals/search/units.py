"""What a search chooses from: units, each a block or a head with a variant, and what they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Literal

from surgery.errors import UnsupportedError
from surgery.hub.resolved import ResolvedModel
from surgery.plan import make_plan
from surgery.selection import Part, Selection

Units = frozenset[Part]

Grain = Literal["blocks", "heads"]
GRAINS: tuple[Grain, ...] = ("blocks", "heads")


def units(
    num_blocks: int, num_heads: int, grain: Grain, variants: Sequence[str]
) -> tuple[Part, ...]:
    """Every block, or every head, with every variant."""
    every = tuple(range(num_heads))
    pieces = [every] if grain == "blocks" else [(head,) for head in every]
    return tuple(
        Part(block, heads, variant)
        for block in range(num_blocks)
        for heads in pieces
        for variant in variants
    )


def possible(
    some: Iterable[Part], refusal: Callable[[Selection], UnsupportedError | None]
) -> tuple[tuple[Part, ...], dict[str, UnsupportedError]]:
    """The units that can be edited, and for every variant of which some cannot: a reason.

    Raises `UnsupportedError` where none can.
    """
    kept: list[Part] = []
    refused: dict[str, UnsupportedError] = {}
    for unit in some:
        error = refusal((unit,))
        if error is None:
            kept.append(unit)
        else:
            refused.setdefault(unit.variant, error)
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
    """How many sets of units there are in which none clash, the empty one left out.

    The units are all whole blocks, or all single heads.
    """
    return prod(len(variants) + 1 for variants in _places(some).values()) - 1


def every_set(some: Iterable[Part]) -> Iterator[Units]:
    """All of them."""
    for choice in product(*([None, *variants] for variants in _places(some).values())):
        if any(choice):
            yield frozenset(unit for unit in choice if unit is not None)


def _places(some: Iterable[Part]) -> dict[tuple[int, tuple[int, ...]], list[Part]]:
    found: dict[tuple[int, tuple[int, ...]], list[Part]] = {}
    for unit in some:
        found.setdefault((unit.block, unit.heads), []).append(unit)
    return found


def refuser(model: ResolvedModel, layout: str) -> Callable[[Selection], UnsupportedError | None]:
    """A function that tells why a checkpoint cannot be exported with a selection; None if it can.

    What an earlier edit of it has changed is not changed again.
    """
    inventory, manifest = model.inventory, model.manifest
    earlier = None if manifest is None else manifest.edited_heads

    def refusal(selection: Selection) -> UnsupportedError | None:
        try:
            make_plan(inventory, selection, layout=layout, earlier=earlier)
        except UnsupportedError as error:
            return error
        return None

    return refusal


def last_quarter(num_blocks: int, num_heads: int) -> Selection:
    """The recipe of Menta, Agrawal and Agarwal (2025): `identity` on the last quarter of blocks.

    A quarter that is no whole number is rounded up.
    """
    first = num_blocks - -(-num_blocks // 4)
    every = tuple(range(num_heads))
    return tuple(Part(block, every, "identity") for block in range(first, num_blocks))
