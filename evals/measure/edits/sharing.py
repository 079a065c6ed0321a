"""Shares work among edits of one model: passes up to where they differ, and new tensors.

An edit that adds blocks to another continues its pass, so edits form a tree; the base model is the
root.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from surgery.in_memory import Editable, Replacements
from surgery.plan import Plan, check_fitted
from surgery.processes import share_free_memory
from surgery.selection import Selection
from surgery.variants import Fit

_SHARE = 0.25
"""Share of the free memory for new tensors that are kept while edits are measured. Passes take at
most half."""

FitEdit = Callable[[Selection], Mapping[int, Fit]]
"""An edit → block → fit, at least for the blocks that a fitted variant is in: `Fitter.fit`."""
_Key = tuple[str, Selection, Selection]
"""What a block's new tensors depend on: layout, its parts, and those below where it is fitted."""


@dataclass(frozen=True)
class Branch:
    """An edit, and where its pass leaves that of its parent: at the input of block `start`."""

    selection: Selection
    start: int
    children: tuple[Branch, ...]

    @property
    def exits(self) -> tuple[int, ...]:
        """The blocks at whose inputs the children start, ascending."""
        return tuple(sorted({child.start for child in self.children}))


def grow_tree(selections: Collection[Selection]) -> tuple[Branch, ...]:
    """The branches that leave the base model, deep ones first. None of the edits is empty."""
    known, children = set(selections), dict[Selection, list[Selection]]()
    for selection in sorted(known, reverse=True):
        blocks = [part.block for part in selection]
        stems = (selection[: blocks.index(block)] for block in dict.fromkeys(reversed(blocks)))
        parent = next(stem for stem in stems if not stem or stem in known)
        children.setdefault(parent, []).append(selection)

    def grow(parent: Selection) -> tuple[Branch, ...]:
        return tuple(
            Branch(selection, selection[len(parent)].block, grow(selection))
            for selection in children.get(parent, ())
        )

    return grow(())


class SharedEdits:
    """How edits share their passes (`tree`), and the new tensors of each (by calling it).

    A block's new tensors are the same in every edit. They are kept as far as memory has room, those
    of deep blocks first, which most edits need; others are computed for every batch. None of the
    edits is empty. Other arguments as for `Engine`.

    Raises `UnsupportedError` for an edit that no layout holds, or that needs `fit`.
    """

    def __init__(
        self,
        selections: Sequence[Selection],
        editable: Editable,
        *,
        layout: str,
        fit: FitEdit | None,
    ) -> None:
        self._editable, self._layout, self._fit = editable, layout, fit
        self._kept: dict[_Key, Mapping[str, torch.Tensor]] = {}
        self._room = int(_SHARE * share_free_memory(editable.model.device))
        by_layout: dict[str, list[Selection]] = {}
        for selection in selections:
            plan = editable.plan(selection, layout=layout)
            if fit is None:
                check_fitted(plan, {})
            by_layout.setdefault(plan.layout, []).append(selection)
        # Edits share work only within a layout, so that it is the same to the last bit.
        self.tree = [branch for name in sorted(by_layout) for branch in grow_tree(by_layout[name])]

    def __call__(self, branch: Branch) -> Replacements:
        """The edit of a branch of a tree, from where its pass begins."""
        plan = self._editable.plan(branch.selection, layout=self._layout)
        own = tuple(block for block in plan.blocks if block >= branch.start)  # not its parents'
        fits: Mapping[int, Fit] = {}
        missing = {block for block in own if _make_key(plan, block) not in self._kept}
        if self._fit is not None and missing.intersection(plan.fitted):
            fits = self._fit(branch.selection)

        def tensors(block: int) -> Mapping[str, torch.Tensor]:
            key = _make_key(plan, block)
            if key in self._kept:
                return self._kept[key]
            found = self._editable.compute_tensors(plan, block, fits)
            size = sum(tensor.nbytes for tensor in found.values())
            if size <= self._room:
                self._kept[key] = found
                self._room -= size
            return found

        return Replacements(self._editable.model, plan, own, tensors)


def _make_key(plan: Plan, block: int) -> _Key:
    parts = tuple(part for part in plan.selection if part.block == block)
    below = tuple(part for part in plan.selection if part.block < block)
    return plan.layout, parts, below if block in plan.fitted else ()
