"""The units of a search, and sets of them.

A unit is a block, a query head, or a group (a key/value head with all query heads that share it),
with a variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal

from evals.run.console import say
from evals.run.models import LoadedModel
from surgery.errors import UnsupportedError
from surgery.record.report import UnitKind
from surgery.selection import EditedHeads, Selection

Grain = Literal["blocks", "heads", "mixed"]
_PLURALS: dict[UnitKind, str] = {
    "block": "blocks",
    "group": "groups of heads",
    "head": "single heads",
}


def list_units(
    num_blocks: int,
    num_heads: int,
    grain: Grain,
    variants: Sequence[str],
    num_groups: int | None = None,
) -> tuple[EditedHeads, ...]:
    """Every block, every head, or both, in every variant.

    Heads are query heads, and groups where several of them share one of `num_groups` key/value
    heads.
    """
    each = num_heads // (num_groups or num_heads)
    sizes = {"blocks": (num_heads,), "heads": (each, 1), "mixed": (num_heads, each, 1)}[grain]
    pieces = [
        tuple(range(head, head + size)) for size in sizes for head in range(0, num_heads, size)
    ]
    return tuple(
        EditedHeads(block, heads, variant)
        for block in range(num_blocks)
        for heads in dict.fromkeys(pieces)
        for variant in variants
    )


def kind_of(unit: EditedHeads, num_heads: int) -> UnitKind:
    """What a unit of a model with so many heads in a block is."""
    if len(unit.heads) == num_heads:
        return "block"
    return "head" if len(unit.heads) == 1 else "group"


def keep_possible(
    some: Iterable[EditedHeads],
    num_heads: int,
    refusal: Callable[[Selection], UnsupportedError | None],
) -> tuple[tuple[EditedHeads, ...], tuple[str, ...]]:
    """The units that can be edited; a warning with a reason for each other kind and variant.

    Blocks of which nothing can be edited are one warning. Raises `UnsupportedError` where nothing
    can be at all.
    """
    tried = [(unit, refusal((unit,))) for unit in some]
    kept = tuple(unit for unit, error in tried if error is None)
    refused = [(unit, error) for unit, error in tried if error is not None]
    if not kept:
        raise refused[0][1]
    whole = sorted({unit.block for unit, _ in refused} - {unit.block for unit in kept})
    reasons: dict[str, UnsupportedError] = {}
    for unit, error in refused:
        what = f"{_PLURALS[kind_of(unit, num_heads)]} with {unit.variant}"
        if unit.block in whole:
            what = f"blocks {','.join(map(str, whole))}"
        reasons.setdefault(what, error)
    return kept, tuple(f"{what} are left out: {why}" for what, why in reasons.items())


def open_units(
    loaded: LoadedModel, grain: Grain, variants: Sequence[str], layout: str = "auto"
) -> tuple[tuple[EditedHeads, ...], tuple[str, ...]]:
    """The units of a model that the layout can hold, and a warning, which is said, for the others.

    Raises as `keep_possible`.
    """
    size, find_refusal = loaded.dimensions, partial(loaded.editable.find_refusal, layout=layout)
    every = list_units(size.num_blocks, size.num_heads, grain, variants, size.num_groups)
    units, warnings = keep_possible(every, size.num_heads, find_refusal)
    for warning in warnings:
        say(f"warning: {warning}")
    return units, warnings


def units_clash(one: EditedHeads, other: EditedHeads) -> bool:
    """Whether both units edit the same head."""
    return one.block == other.block and not set(one.heads).isdisjoint(other.heads)


def merge_units(chosen: Iterable[EditedHeads]) -> Selection:
    """Merges units that do not clash into one selection."""
    heads: dict[tuple[int, str], list[int]] = {}
    for part in chosen:
        heads.setdefault((part.block, part.variant), []).extend(part.heads)
    return tuple(
        sorted(
            EditedHeads(block, tuple(sorted(some)), name) for (block, name), some in heads.items()
        )
    )


def list_sets(some: Sequence[EditedHeads]) -> Iterator[frozenset[int]]:
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
