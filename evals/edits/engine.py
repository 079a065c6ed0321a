"""Measures many edits of one model: what it recites, and what each costs on held-out text.

The base model runs once over every batch and keeps what each block was given. Every edit is a pass
from its lowest block on; nothing is decoded. Memory holds the states of one batch.

N: memorized rows, M: held-out windows, S: suffix tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from evals.edits.batch import BASE, Columns, EditedBatch
from evals.edits.sharing import FitsBlocks, SharedEdits
from evals.files import Journal, arrays_as_json, arrays_from_json
from evals.memorization.recovery import Evidence
from evals.running.batching import row_ranges, rows_per_batch
from evals.running.forward import check_head
from evals.samples import Samples, Tokens
from surgery.editing.in_memory import Editable
from surgery.errors import MeasurementError
from surgery.processes import current_processes
from surgery.selection import Selection, blocks_of


@dataclass(frozen=True)
class MeasuredEdit:
    """The scores of one edit. Those that were not requested are NaN.

    - `right`: bool [N, S], whether the most likely token is the true one, after the true tokens;
      [N, 0] where only exact matches were asked for. `log_p_z`: of drawing the suffix (`Sampling`).
    - `first_divergence`: int64 [N], where greedy decoding leaves each suffix; S where it does not.
    - `nll`, `entropy`: float64 [N], means over the suffix, in nats.
    - `heldout_nll`, `heldout_kl`: float64 [M], means over every token of a window but the first, in
      nats. KL(base || edited).
    """

    selection: Selection
    right: npt.NDArray[np.bool_]
    log_p_z: npt.NDArray[np.float64]
    first_divergence: npt.NDArray[np.int64]
    exact: npt.NDArray[np.bool_]
    next_token_accuracy: npt.NDArray[np.float64]
    nll: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]
    heldout_nll: npt.NDArray[np.float64]
    heldout_kl: npt.NDArray[np.float64]

    @property
    def evidence(self) -> Evidence:
        """What an attacker knows of the passages."""
        return Evidence(self.right, self.log_p_z)


class Engine:
    """Measures edits of one model on the same text; each edit once.

    **Arguments:**

    - `model`: in eval mode, with its output embedding. `editable`: the same, where there is one.
    - `samples`: the passages that it may recite. `heldout`: int32 [M, T] windows of other text.
    - `exact_only`: find exact matches and first divergences alone, which is faster.
    - `batch_size`: rows at a time; by default what memory allows. Batches, and so the figures to
      the last bit in float32, are those of `evals.memorization.extraction.extract`.
    - `fitter`: fits the variants that need it. `layout`: as for `surgery.editing.in_memory.apply`.

    The current processes share the batches, and each gets the whole result. Raises `SamplesError`
    when the rows do not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        samples: Samples,
        heldout: Tokens | None = None,
        *,
        exact_only: bool = False,
        batch_size: int | None = None,
        fitter: FitsBlocks | None = None,
        layout: str = "auto",
        editable: Editable | None = None,
    ) -> None:
        samples.check_fits(model.config)
        check_head(model)
        self._model, self._samples, self._exact_only = model, samples, exact_only
        self._heldout = np.empty((0, 2), dtype=np.int32) if heldout is None else heldout
        self.batch_size = batch_size or rows_per_batch(model, samples.tokens.shape[1])
        self._edits = SharedEdits(editable or Editable(model), layout=layout, fitter=fitter)
        self._measured: dict[Selection, MeasuredEdit] = {}

    @property
    def base(self) -> MeasuredEdit:
        """The unedited model."""
        return self.measure([BASE])[0]

    def work(self, selections: Iterable[Selection]) -> int:
        """About how many rows `measure` will report to `advance`."""
        return len(self._missing(selections)) * (len(self._samples) + len(self._heldout))

    def measure(
        self,
        selections: Sequence[Selection],
        *,
        advance: Callable[[int], None] = lambda done: None,
        journal: Journal | None = None,
    ) -> list[MeasuredEdit]:
        """Measures edits, in the order given.

        `advance` is told of rows done, once for every edit; `journal` keeps every batch, and gives
        back those of an earlier run. Raises `UnsupportedError` for an edit that cannot be made, or
        not without a fitter, before anything is measured; `MeasurementError` for numbers that are
        not finite.
        """
        missing = self._missing(selections)
        if missing:
            edited = [selection for selection in missing if selection != BASE]
            with self._edits.tree(edited) as tree:
                count = current_processes().count

                def one(batch: EditedBatch) -> list[Columns]:
                    done = {}
                    for selection, columns in batch.measure(self._model, tree, self._edits):
                        done[selection] = columns
                        advance(count * len(batch))
                    return [done[selection] for selection in missing]

                parts = self._in_rounds(one, len(missing), journal, advance)
            for selection, column in zip(missing, zip(*parts, strict=True), strict=True):
                self._measured[selection] = self._whole(selection, column)
        return [self._measured[selection] for selection in selections]

    def _missing(self, selections: Iterable[Selection]) -> list[Selection]:
        return [edit for edit in dict.fromkeys((BASE, *selections)) if edit not in self._measured]

    def _in_rounds(
        self,
        one: Callable[[EditedBatch], list[Columns]],
        edits: int,
        journal: Journal | None,
        advance: Callable[[int], None],
    ) -> list[list[Columns]]:
        """A batch for every process at a time, recorded before the next; all at once without a
        journal, so that processes need not wait for one another."""
        processes, prefix_length = current_processes(), self._samples.prefix_length
        batches = [
            EditedBatch(tokens[rows], prefix, self._exact_only)
            for tokens, prefix in ((self._samples.tokens, prefix_length), (self._heldout, None))
            for rows in row_ranges(len(tokens), self.batch_size)
        ]
        parts = processes.once(lambda: [] if journal is None else journal.read(_stored_columns))
        at_once = processes.count if processes.agree(journal is not None) else len(batches)
        advance(edits * sum(map(len, batches[: len(parts)])))
        record = journal if processes.is_main else None
        with nullcontext() if record is None else record.open_to_append():
            for begin in range(len(parts), len(batches), at_once):
                some = batches[begin : begin + at_once]
                done = processes.map_in_order(one, some)
                parts += done
                if record is not None:
                    for part in done:
                        record.append({"edits": [arrays_as_json(columns) for columns in part]})
        return parts

    def _whole(self, selection: Selection, parts: Sequence[Columns]) -> MeasuredEdit:
        """One edit's rows of all batches, in order."""
        none = {"heldout_nll": np.empty(0), "heldout_kl": np.empty(0)}
        columns = none | {
            name: np.concatenate([part[name] for part in parts if name in part])
            for name in {name: None for part in parts for name in part}
        }
        measured = MeasuredEdit(
            selection=selection,
            exact=columns["first_divergence"] == self._samples.suffix_length,
            **columns,
        )
        of_passages = [] if self._exact_only else [measured.nll]
        for values in (*of_passages, measured.heldout_nll):
            if not np.isfinite(values).all():
                raise MeasurementError(
                    "the model gives likelihoods that are not finite",
                    where=f"edit of blocks {blocks_of(selection)}" if selection else "base model",
                    got=f"NaN or infinity in {int((~np.isfinite(values)).sum())} rows",
                    fix="use `dtype=float32` or bfloat16; if it stays, the model is broken",
                )
        return measured


def _stored_columns(step: Any) -> list[Columns]:
    """A step of a sweep's journal: the columns of each edit."""
    return [arrays_from_json(columns) for columns in step["edits"]]
