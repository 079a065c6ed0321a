"""Shares work among edits of one model: passes up to where they differ, and new tensors.

Edits that agree up to some block give the same states up to there, so they form a tree. An edit
that adds blocks to another continues its pass; the base model is the root.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import torch

from surgery.editing.in_memory import Editable
from surgery.editing.replacements import Replacements
from surgery.editing.rewriting import check_fitted
from surgery.plan import Plan
from surgery.selection import Part, Selection
from surgery.variants import Fit

_ROOM = 1 << 28
"""Bytes of new tensors that are kept while edits are measured."""

_Key = tuple[str, Selection, Selection]
"""What a block's new tensors depend on: layout, its parts, and those below where it is fitted."""


@dataclass(frozen=True)
class Branch:
    """An edit, and where its pass leaves that of its parent: at the input of block `start`.

    `measured` is false if only others that begin with the edit are requested.
    """

    selection: Selection
    start: int
    measured: bool
    children: tuple[Branch, ...]

    @property
    def exits(self) -> tuple[int, ...]:
        """The blocks at whose inputs the children start, ascending."""
        return tuple(sorted({child.start for child in self.children}))

    @property
    def wanted(self) -> Selection:
        """A requested edit that begins with this one: itself, if it is requested."""
        return self.selection if self.measured else self.children[0].wanted


def grow_tree(selections: Collection[Selection]) -> tuple[Branch, ...]:
    """Builds the branches that leave the base model. None of the edits is empty."""
    by_block = {
        tuple(tuple(parts) for _, parts in groupby(selection, key=lambda part: part.block))
        for selection in selections
    }
    return _grow((), sorted(by_block))


def walk_branches(tree: Iterable[Branch]) -> Iterator[Branch]:
    """Yields all branches, each before its children."""
    for branch in tree:
        yield branch
        yield from walk_branches(branch.children)


def _grow(
    stem: tuple[Selection, ...], paths: Sequence[tuple[Selection, ...]]
) -> tuple[Branch, ...]:
    """Builds branches for paths that extend `stem`. A path: the parts of each block."""
    depth, found = len(stem), []
    for step, group in groupby(paths, key=lambda path: path[depth]):
        path, members = (*stem, step), list(group)
        children = _grow(path, [member for member in members if len(member) > depth + 1])
        measured = path in members
        start = step[0].block
        if not measured and len(children) == 1:  # nothing to share
            found.append(replace(children[0], start=start))
        else:
            selection = tuple(part for parts in path for part in parts)
            found.append(Branch(selection, start, measured, children))
    return tuple(found)


class FitsBlocks(Protocol):
    """A `surgery.fitting.fitter.Fitter`, or an object that already has its fits."""

    def fit(self, selection: Sequence[Part]) -> dict[int, Fit]:
        """Block -> fit, for the blocks that a fitted variant is in."""


class SharedEdits:
    """How edits share their passes (`tree`), and the new tensors of each (by calling it).

    A block's new tensors are the same in every edit. Those that most edits need are kept, as far as
    memory has room; others are computed for every batch. Arguments as for `Engine`.
    """

    def __init__(self, editable: Editable, *, layout: str, fitter: FitsBlocks | None) -> None:
        self._editable, self._layout, self._fitter = editable, layout, fitter
        self._kept: dict[_Key, Mapping[str, torch.Tensor] | None] = {}  # None: not needed yet

    @contextmanager
    def tree(self, selections: Sequence[Selection]) -> Iterator[tuple[Branch, ...]]:
        """Yields the branches of edits, none of them empty, and keeps nothing afterward.

        Raises `UnsupportedError` for an edit that no layout holds, or that needs a fitter.
        """
        by_layout: dict[str, list[Selection]] = {}
        for selection in selections:
            plan = self._editable.plan(selection, layout=self._layout)
            if self._fitter is None:
                check_fitted(plan, {})
            by_layout.setdefault(plan.layout.NAME, []).append(selection)
        # Edits share work only within a layout, so that it is the same to the last bit.
        tree = tuple(branch for name in sorted(by_layout) for branch in grow_tree(by_layout[name]))
        planned = [(branch, self._plan(branch)) for branch in walk_branches(tree)]
        wanted = Counter(
            (_make_key(plan, block), self._bytes(plan, block))
            for branch, plan in planned
            for block in _list_own_blocks(branch, plan)
        )
        room = _ROOM
        for (key, size), _ in wanted.most_common():
            if size <= room:
                self._kept[key] = None
                room -= size
        try:
            yield tree
        finally:
            self._kept.clear()

    def __call__(self, branch: Branch) -> Replacements:
        """The edit of a branch of a tree, from where its pass begins."""
        plan, fits = self._plan(branch), dict[int, Fit]()
        own = _list_own_blocks(branch, plan)
        missing = [block for block in own if self._kept.get(_make_key(plan, block)) is None]
        if self._fitter is not None and set(missing).intersection(plan.fitted):
            fits = self._fitter.fit(branch.wanted)

        def tensors(block: int) -> Mapping[str, torch.Tensor]:
            key = _make_key(plan, block)
            found = self._kept.get(key)
            if found is None:
                found = self._editable.compute_tensors(plan, block, fits)
                if key in self._kept:
                    self._kept[key] = found
            return found

        return Replacements(self._editable.model, plan, own, tensors)

    def _bytes(self, plan: Plan, block: int) -> int:
        """Of a block's new tensors."""
        new = [c for c in plan.changes if c.block == block and c.action != "drop"]
        itemsize: int = self._editable.model.dtype.itemsize
        return itemsize * sum(math.prod(change.shape) for change in new)

    def _plan(self, branch: Branch) -> Plan:
        wanted = self._editable.plan(branch.wanted, layout=self._layout)
        return self._editable.plan(branch.selection, layout=wanted.layout.NAME)


def _list_own_blocks(branch: Branch, plan: Plan) -> tuple[int, ...]:
    """Lists the edited blocks of its own pass; earlier ones belong to its parents."""
    return tuple(block for block in plan.blocks if block >= branch.start)


def _make_key(plan: Plan, block: int) -> _Key:
    parts = tuple(part for part in plan.selection if part.block == block)
    below = tuple(part for part in plan.selection if part.block < block)
    return plan.layout.NAME, parts, below if block in plan.fitted else ()
