"""The edits of one sweep: planned and checked together, computed when they are first needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedModel

from evals.sweep.shared_prefixes import Branch, branches
from surgery.editing.in_memory import Replacements, plan_for, replacements
from surgery.editing.rewriting import check_fitted
from surgery.selection import Part, Selection, blocks_of
from surgery.variants import Fit

_KEPT = 4
"""So many times the model's blocks may be held edited: about the size of the model again."""


class FitsBlocks(Protocol):
    """A `surgery.fitting.fitter.Fitter`, or what has its fits already."""

    def fits(self, selection: Sequence[Part]) -> dict[int, Fit]:
        """Block -> fit, for the blocks that a fitted variant is in."""


class PlannedEdits:
    """How edits share their passes (`tree`), and the new tensors of each (by calling it).

    **Arguments:** `selections`: none of them empty; `layout`, `fitter`, `stored_dtype`: as for
    `evals.sweep.engine.Engine`.

    Raises `UnsupportedError` for an edit that no layout holds, or that needs a fitter.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        selections: Sequence[Selection],
        *,
        layout: str,
        fitter: FitsBlocks | None,
        stored_dtype: str | None,
    ) -> None:
        self._model, self._fitter, self._stored_dtype = model, fitter, stored_dtype
        self._layout: dict[Selection, str] = {}
        for selection in selections:
            plan = plan_for(model, selection, layout=layout)
            if fitter is None:
                check_fitted(plan, {})
            self._layout[selection] = plan.layout.NAME
        # What is shared is computed in one layout, so that it is the same to the last bit.
        self.tree: tuple[Branch, ...] = tuple(
            branch
            for chosen in sorted(set(self._layout.values()))
            for branch in branches([e for e, name in self._layout.items() if name == chosen])
        )
        self._room = _KEPT * int(model.config.num_hidden_layers)
        self._kept: dict[tuple[Selection, str], Replacements] = {}

    def __call__(self, branch: Branch) -> Replacements:
        """The edit of a branch of `tree`."""
        layout = self._layout[branch.wanted]
        key = (branch.selection, layout)
        if key in self._kept:
            return self._kept[key]
        edited = replacements(
            self._model,
            branch.selection,
            None if self._fitter is None else self._fitter.fits(branch.wanted),
            layout=layout,
            stored_dtype=self._stored_dtype,
        )
        size = len(blocks_of(branch.selection))
        if size <= self._room:  # the others are computed anew for every batch
            self._room -= size
            self._kept[key] = edited
        return edited
