"""The memorization test: one teacher-forced pass over the passages, and its measures per row.

`--metrics exact` is this pass. `--metrics full` also measures the predicted distributions, and
decodes rows that diverge, from the first divergence of their batch on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from evals.data import NOTHING, Samples, Tokens
from evals.measure.memorization.measures import MEASURES, Pass, first_divergence
from evals.run.batching import row_ranges, rows_per_batch
from evals.run.decoding import decode_rest
from evals.run.finite import check_finite
from evals.run.forward import check_head, head_of, hidden_states, read_limits, whole_cache
from evals.run.predictions import Predictions, Sampling, measure_predictions
from surgery.processes import count_for_all, share


@dataclass(frozen=True)
class Extraction:
    """Every available measure of the rows of `samples`: name → [N], in their order.

    `decoded` (int32 [N, S]): of `--metrics full`, else None.
    """

    samples: Samples
    batch_size: int
    values: dict[str, npt.NDArray[Any]]
    decoded: Tokens | None

    def select(self, mask: npt.NDArray[np.bool_]) -> Extraction:
        """The rows where `mask` (bool [N]) holds."""
        return replace(
            self,
            samples=self.samples.select(mask),
            values={name: values[mask] for name, values in self.values.items()},
            decoded=None if self.decoded is None else self.decoded[mask],
        )

    @property
    def exact(self) -> npt.NDArray[np.bool_]:
        return self.values["exact_match"]

    @property
    def nll(self) -> npt.NDArray[np.float64]:
        return self.values["suffix_nll"]


def extract(
    model: PreTrainedModel,
    samples: Samples,
    *,
    full: bool = False,
    **running: Any,
) -> Extraction:
    """Runs the memorization test of `samples` on `model`.

    `full`: also measure distributions, and decode for free-running measures. `running`: batch size
    and other arguments of `run_pass`.

    Raises `SamplesError` if the rows do not fit the model, `MeasurementError` if the model gives
    numbers that are not finite.
    """
    samples.check_fits(*read_limits(model))
    rows, prefix_length = samples.tokens, samples.prefix_length
    result = run_pass(model, rows, prefix_length, full=full, **running)
    values = {one.name: one.of(result) for one in MEASURES if one.can(result)}
    return Extraction(samples, result.batch_size, values, result.decoded)


def run_pass(
    model: PreTrainedModel,
    tokens: Tokens,
    prefix_length: int,
    *,
    full: bool = False,
    sampling: Sampling | None = None,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> Pass:
    """A teacher-forced pass over int32 [N, P + S] rows. `full`: greedy decoding as well.

    `NOTHING`, before a shorter prefix or after a shorter suffix, is neither read nor measured.

    - `batch_size`: rows at a time; by default what memory allows.
    - `advance`: counts the rows that all processes have finished, approximately.

    The current processes share the batches, which do not depend on their number; each gets the
    whole result.
    """
    count = count_for_all(advance)
    size = batch_size or rows_per_batch(model, tokens.shape[1])
    check_head(model)

    def one(rows: slice) -> tuple[Predictions, Tokens | None]:
        some = torch.from_numpy(tokens[rows].astype(np.int64))
        suffix = some[:, prefix_length:]
        # The last token predicts nothing that is measured, so it is not read.
        cache = whole_cache(model, ragged=bool((some[:, 0] < 0).any())) if full else None
        hidden, cache = hidden_states(model, some[:, :-1], cache=cache)
        found = measure_predictions(
            hidden[:, prefix_length - 1 :],
            head_of(model),
            suffix,
            sampling=sampling,
            distributions=full,
        )
        decoded = None
        if full:
            leaves = torch.from_numpy(first_divergence(found.greedy, tokens[rows, prefix_length:]))
            greedy = torch.from_numpy(found.greedy.astype(np.int64))
            free = decode_rest(model, suffix, prefix_length, leaves, greedy, cache)
            decoded = free.masked_fill(suffix < 0, NOTHING).numpy().astype(np.int32)
        count(len(some))
        return found, decoded

    parts = share(one, row_ranges(len(tokens), size))
    predictions = Predictions.concatenate([part for part, _ in parts])
    check_finite(predictions.log_likelihood)
    decoded = [more for _, more in parts if more is not None]
    suffix = tokens[:, prefix_length:]
    return Pass(suffix, predictions, size, np.concatenate(decoded) if decoded else None)
