"""Measures many edits of one model: what it recites, and what each costs on held-out text.

The base model runs once over every batch and keeps what each block was given. Every edit is a pass
from its lowest block on; nothing is decoded. Memory holds the states of one batch.

N: memorized rows, M: held-out windows, B: rows of a batch, S: suffix tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from evals.data import Samples, Tokens, measure_lengths
from evals.data.windows import repeat_random, repeat_windows
from evals.measure.edits.costs import Skills, find_copied, measure_costs
from evals.measure.edits.sharing import FitEdit, SharedEdits
from evals.measure.memorization import measures
from evals.measure.memorization.recovery import Evidence
from evals.run.batching import row_ranges, rows_per_batch
from evals.run.finite import check_finite
from evals.run.forward import check_head, head_of, read_limits
from evals.run.keep import KEEP_NOTHING, Store
from evals.run.predictions import Sampling, TextScores, measure_heldout, measure_predictions
from evals.run.resuming import Run, run_from_block, run_tokens
from surgery.in_memory import Editable
from surgery.loading import close_up, take_places
from surgery.processes import count_for_all, share
from surgery.selection import Selection, blocks_of

Columns = dict[str, npt.NDArray[Any]]
"""Measure → its value for each row [B]; of `right`, for each suffix token [B, S]; of `token_kl`,
`token_right`, `repeated_kl`, and `random_nll`, for each token of a window but the first
[B, T - 1]."""
_Kind = Literal["passages", "heldout", "repeated", "random"]
BASE: Selection = ()
"""The selection of no block: the unedited model."""


@dataclass(frozen=True)
class MeasuredEdit:
    """The scores of one edit.

    - `right`: bool [N, S], whether the most likely token is the true one, after the true tokens.
      `log_p_z`: of drawing the suffix (`Sampling`).
    - `first_divergence`: int64 [N], where greedy decoding leaves each suffix; S where it does not.
    - `nll`, `entropy`: float64 [N], means over the suffix, in nats.
    - `heldout_nll`, `heldout_kl`: float64 [M], means over every token of a window but the first, in
      nats. KL(base || edited).
    - `lengths`: int64 [N], the tokens of each suffix.
    - `costs`: all measures of `evals.measure.edits.costs`, where they were asked for; `skills`:
      what some of them compare.
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
    lengths: npt.NDArray[np.int64]
    costs: Mapping[str, float] = field(default_factory=dict)
    skills: Skills | None = None

    def select(self, rows: npt.NDArray[np.bool_]) -> MeasuredEdit:
        """The same of some of the passages, bool [N]."""
        of_passages = (
            *("right", "log_p_z", "first_divergence", "exact", "next_token_accuracy", "nll"),
            *("entropy", "lengths"),
        )
        return replace(self, **{name: getattr(self, name)[rows] for name in of_passages})

    @property
    def evidence(self) -> Evidence:
        """What an attacker knows of the passages."""
        return Evidence(self.right, self.log_p_z, self.lengths)


class Engine:
    """Measures edits of one model on the same text; each edit once.

    **Arguments:**

    - `model`: in eval mode, with its output embedding. `editable`: the same, where there is one.
    - `samples`: the passages that it may recite. `heldout`: int32 [M, T] windows of other text;
      `documents`: int64 [M], the one that each is from.
      `costs`: measure all costs on it. `against`: the engine of the model that costs are relative
      to, on the same text; by default, the unedited model.
    - `batch_size`: rows at a time; by default what memory allows. Batches, and so the figures to
      the last bit in float32, are those of `evals.measure.memorization.extraction.extract`.
    - `fit`: fits the variants that need it. `layout`: as for `surgery.in_memory.apply`.
    - `store`: keeps every batch. It is of work on this model, with these fits.

    The current processes share the batches, and each gets the whole result. Raises `SamplesError`
    when the rows do not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        samples: Samples,
        heldout: Tokens | None = None,
        *,
        costs: bool = False,
        against: Engine | None = None,
        batch_size: int | None = None,
        fit: FitEdit | None = None,
        layout: str = "auto",
        editable: Editable | None = None,
        store: Store = KEEP_NOTHING,
        documents: npt.NDArray[np.int64] | None = None,
    ) -> None:
        samples.check_fits(*read_limits(model))
        check_head(model)
        self._model, self._samples = model, samples
        self._heldout = np.empty((0, 2), dtype=np.int32) if heldout is None else heldout
        self._costs, self._against, self.documents = costs, against, documents
        self.groups = samples.groups
        self.batch_size = batch_size or rows_per_batch(model, samples.tokens.shape[1])
        self._editable, self._layout, self._fit = editable or Editable(model), layout, fit
        self._measured: dict[Selection, MeasuredEdit] = {}
        self._store = store.narrow("edits", layout, costs, samples.prefix_length)

    def compare(self, model: Any) -> Engine:
        """The engine of another model, on the same text. Its costs are relative to this one's."""
        rows = self._samples, self._heldout
        return Engine(model, *rows, costs=self._costs, batch_size=self.batch_size, against=self)

    @property
    def base(self) -> MeasuredEdit:
        """The unedited model."""
        return self.measure([BASE])[0]

    def work(self, selections: Iterable[Selection]) -> int:
        """About how many rows `measure` will report to `advance`."""
        return len(self._missing(selections)) * self.rows

    @property
    def rows(self) -> int:
        """How many rows it reads of every edit."""
        return sum(len(rows) for _, rows in self._texts)

    def measure(
        self,
        selections: Sequence[Selection],
        *,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[MeasuredEdit]:
        """Measures edits, in the order given.

        `advance` is told of rows done, once for every edit. Raises `UnsupportedError` for an edit
        that cannot be made, or not without `fit`, before anything is measured; `MeasurementError`
        for numbers that are not finite.
        """
        missing = self._missing(selections)
        if missing:
            edited = [edit for edit in missing if edit != BASE]
            edits = SharedEdits(edited, self._editable, layout=self._layout, fit=self._fit)
            parts = self._measure_batches(edits, missing, advance)
            for selection, column in zip(missing, zip(*parts, strict=True), strict=True):
                self._measured[selection] = self._whole(selection, column)
        return [self._measured[selection] for selection in selections]

    @property
    def _texts(self) -> list[tuple[_Kind, Tokens]]:
        """What to read, in order."""
        texts: list[tuple[_Kind, Tokens]] = [
            ("passages", self._samples.tokens),
            ("heldout", self._heldout),
        ]
        if self._costs:
            made = repeat_windows(self._heldout), repeat_random(self._heldout)
            texts += [("repeated", made[0]), ("random", made[1])]
        return texts

    def _missing(self, selections: Iterable[Selection]) -> list[Selection]:
        return [edit for edit in dict.fromkeys((BASE, *selections)) if edit not in self._measured]

    def _measure_batches(
        self,
        edits: SharedEdits,
        selections: Sequence[Selection],
        advance: Callable[[int], None],
    ) -> list[list[Columns]]:
        """The columns of each selection in every batch. Each process has a batch at a time, and
        keeps it before the next."""
        advance, store = count_for_all(advance), self._store.narrow(selections)
        batches = [
            (kind, tokens[rows])
            for kind, tokens in self._texts
            for rows in row_ranges(len(tokens), self.batch_size)
        ]

        def measure(batch: tuple[_Kind, Tokens]) -> list[Columns]:
            left, rows = len(selections), len(batch[1])

            def count() -> None:
                nonlocal left
                left -= 1
                advance(rows)

            def compute() -> list[Columns]:
                found = self._measure_batch(edits, *batch, count)
                return [found[selection] for selection in selections]

            columns = store.get(batch, compute)
            advance(left * rows)  # of what was kept
            return columns

        return share(measure, batches)

    def _measure_batch(
        self,
        edits: SharedEdits,
        kind: _Kind,
        rows: Tokens,
        advance: Callable[[], None],
    ) -> dict[Selection, Columns]:
        """Measures the base model and every branch, which continues its parent's pass.

        `rows`: int32 [B, T].
        """
        model, found = self._model, dict[Selection, Columns]()
        prefix_length = self._samples.prefix_length
        tokens = torch.from_numpy(rows.astype(np.int64))
        closed, places = close_up(tokens)
        # The last token predicts nothing to measure, so the model does not read it.
        base = run_tokens(model, closed[:, :-1], keep={branch.start for branch in edits.tree})
        known, intact = base, model
        if self._against is not None and kind != "passages":
            intact = self._against._model
            known = run_tokens(intact, tokens[:, :-1])

        def add(selection: Selection, run: Run) -> None:
            if kind == "passages":
                hidden = run.hidden if places is None else take_places(run.hidden, places[:, :-1])
                hidden = hidden[:, prefix_length - 1 :]
                found[selection] = self._measure_suffixes(hidden, tokens[:, prefix_length:])
            else:
                before = None if run is known else (known.hidden, head_of(intact))
                scores = measure_heldout(run.hidden, before, head_of(model), tokens[:, 1:])
                found[selection] = self._summarize(kind, scores)
            advance()

        add(BASE, base)
        pending = [(branch, base) for branch in reversed(edits.tree)]
        while pending:
            branch, above = pending.pop()
            edited, states = edits(branch), above.inputs[branch.start]
            with edited.activate_in_turn():
                run = run_from_block(model, branch.start, states, keep=branch.exits)
            add(branch.selection, run)
            pending += [(child, run) for child in branch.children]
        return found

    def _summarize(self, kind: _Kind, scores: TextScores) -> Columns:
        """What is kept of text."""
        if kind == "repeated":
            return {"repeated_kl": scores.kl}
        if kind == "random":
            return {"random_nll": scores.nll}
        means = {"heldout_nll": scores.nll, "heldout_kl": scores.kl}
        columns: Columns = {n: v.mean(axis=1, dtype=np.float64) for n, v in means.items()}
        if self._costs:
            columns |= {"token_kl": scores.kl, "token_right": scores.right}
        return columns

    def _measure_suffixes(self, hidden: torch.Tensor, suffix: torch.Tensor) -> Columns:
        """From final hidden states of the token before each suffix token [B, S, d]."""
        found = measure_predictions(
            hidden,
            head_of(self._model),
            suffix,
            sampling=Sampling(),
            distributions=True,
        )
        assert found.log_drawn is not None
        assert found.entropy is not None
        true = suffix.numpy()
        return {
            "right": found.greedy == true,
            "log_p_z": measures.log_extraction_probability(found.log_drawn),
            "first_divergence": measures.first_divergence(found.greedy, true),
            "next_token_accuracy": measures.token_accuracy(found.greedy, true),
            "nll": measures.suffix_nll(found.log_likelihood, true),
            "entropy": measures.completion_entropy(found.entropy, true),
        }

    def _whole(self, selection: Selection, parts: Sequence[Columns]) -> MeasuredEdit:
        """One edit's rows of all batches, in order."""
        columns: Columns = {"heldout_nll": np.empty(0), "heldout_kl": np.empty(0)}
        columns |= {
            name: np.concatenate([part[name] for part in parts if name in part])
            for name in {name: None for part in parts for name in part}
        }
        exact = columns["first_divergence"] == self._samples.suffix_length
        lengths = measure_lengths(self._samples.suffixes)
        told = {"lengths": lengths, **self._take_costs(selection, columns)}
        told |= columns  # the rest
        measured = MeasuredEdit(selection=selection, exact=exact, **told)
        where = f"edit of blocks {blocks_of(selection)}" if selection else "base model"
        for values in (measured.nll, measured.heldout_nll):
            check_finite(values, where)
        return measured

    def _take_costs(self, selection: Selection, columns: Columns) -> dict[str, Any]:
        """Takes the scores of single tokens out of `columns`, and makes the costs of them."""
        if "token_kl" not in columns:
            return {}
        kl, repeated = columns.pop("token_kl"), columns.pop("repeated_kl")
        skills = Skills.of(columns.pop("token_right"), columns.pop("random_nll"))
        known = skills if selection == BASE else self._measured[BASE].skills
        known = self._against.base.skills if self._against else known
        assert known is not None
        costs = measure_costs(kl, find_copied(self._heldout), repeated, skills, known)
        return {"costs": costs, "skills": skills}
