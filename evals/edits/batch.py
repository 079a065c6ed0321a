"""Measures one batch of rows under the base model and every edit: the inner loop.

Shape letters: B rows, P prefix tokens, S suffix tokens, T tokens that are read, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from evals.edits.sharing import Branch
from evals.memorization import measures
from evals.running.early_exit import find_divergences, find_divergences_from
from evals.running.forward import head_of
from evals.running.predictions import Sampling, measure_heldout, measure_predictions
from evals.running.runs import Run, run_from_block, run_tokens
from evals.samples import Tokens
from surgery.editing.replacements import Replacements
from surgery.selection import Selection

Columns = dict[str, npt.NDArray[Any]]
"""Measure → its value for each row [B]; of `right`, for each suffix token [B, S]."""
BASE: Selection = ()
"""The selection of no block: the unedited model."""
Edits = Callable[[Branch], Replacements]
"""A branch's edit, not yet in force."""


@dataclass(frozen=True)
class EditedBatch:
    """Rows to read, and what to measure on them.

    - `tokens`: int32 [B, P + S].
    - `prefix_length`: P of memorized rows; None for held-out text.
    - `exact_only`: find only where greedy decoding leaves the suffix.
    """

    tokens: Tokens
    prefix_length: int | None
    exact_only: bool

    def __len__(self) -> int:
        return len(self.tokens)

    def measure(
        self, model: PreTrainedModel, tree: Sequence[Branch], edit: Edits
    ) -> Iterator[tuple[Selection, Columns]]:
        """Yields the measures of the base model, then those of every requested branch.

        A branch continues its parent's pass. With `exact_only`, a branch without children stops at
        each row's first wrong token.
        """
        # The last token predicts nothing to measure, so the model does not read it.
        tokens = torch.from_numpy(self.tokens[:, :-1].astype(np.int64))
        base = run_tokens(model, tokens, keep={branch.start for branch in tree})
        yield BASE, self._columns(model, base, None)

        def walk(branch: Branch, above: Run) -> Iterator[tuple[Selection, Columns]]:
            edited, states = edit(branch), above.inputs[branch.start]
            if self.exact_only and not branch.children:
                with edited.activate():
                    left = find_divergences_from(model, branch.start, states, self._suffix)
                yield branch.selection, self._left(left)
                return
            last = None if branch.measured else max(branch.exits)
            with edited.activate_in_turn():
                run = run_from_block(model, branch.start, states, keep=branch.exits, last=last)
            if branch.measured:
                yield branch.selection, self._columns(model, run, base)
            for child in branch.children:
                yield from walk(child, run)

        for branch in tree:
            yield from walk(branch, base)

    @property
    def _suffix(self) -> torch.Tensor:
        return torch.from_numpy(self.tokens[:, self.prefix_length :].astype(np.int64))

    def _columns(self, model: PreTrainedModel, run: Run, base: Run | None) -> Columns:
        head = head_of(model)
        if self.prefix_length is None:
            targets = torch.from_numpy(self.tokens[:, 1:].astype(np.int64))
            before = None if base is None else base.hidden
            nll, kl = measure_heldout(run.hidden, before, head, targets)
            return {"heldout_nll": nll, "heldout_kl": kl}
        hidden = run.hidden[:, self.prefix_length - 1 :]
        if self.exact_only:
            return self._left(find_divergences(hidden, head, self._suffix))
        found = measure_predictions(
            hidden, head, self._suffix, sampling=Sampling(), distributions=True, spread=False
        )
        assert found.log_drawn is not None
        assert found.entropy is not None
        suffix = self.tokens[:, self.prefix_length :]
        return {
            "right": found.greedy == suffix,
            "log_p_z": measures.log_extraction_probability(found.log_drawn),
            "first_divergence": measures.first_divergence(found.greedy, suffix),
            "next_token_accuracy": measures.token_accuracy(found.greedy, suffix),
            "nll": measures.suffix_nll(found.log_likelihood),
            "entropy": measures.completion_entropy(found.entropy),
        }

    def _left(self, first_divergence: torch.Tensor) -> Columns:
        unknown = np.full(len(self.tokens), np.nan)
        return {
            "right": np.empty((len(unknown), 0), dtype=np.bool_),
            "first_divergence": first_divergence.numpy(),
            **dict.fromkeys(("log_p_z", "next_token_accuracy", "nll", "entropy"), unknown),
        }
