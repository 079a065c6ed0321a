"""What a lab model recites, how well it predicts, and what counting alone would achieve."""

# transformers and torch annotate few methods:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from benchmarks.lab.records import LENGTH, Record
from evals.memorization.extraction import run_pass
from evals.memorization.measures import exact_match

Rows = npt.NDArray[np.int64]


def extracted(model: PreTrainedModel, records: Sequence[Record]) -> list[bool]:
    """Per record: does greedy decoding from its first half give its second half, exactly?"""
    rows = np.asarray([record.tokens for record in records], dtype=np.int32)
    greedy = run_pass(model.eval(), rows, LENGTH // 2).predictions.greedy
    flags: list[bool] = exact_match(greedy, rows[:, LENGTH // 2 :]).tolist()
    return flags


def rates_by_count(records: Sequence[Record], flags: Sequence[bool]) -> dict[int, float]:
    """Extraction rate for each count, 0 being the non-members."""
    total = Counter(record.count for record in records)
    hits = Counter(record.count for record, flag in zip(records, flags, strict=True) if flag)
    return {count: hits[count] / total[count] for count in sorted(total)}


def mean_loss(model: PreTrainedModel, rows: Rows) -> float:
    """Mean negative log likelihood, in nats, of each row's tokens after its first."""
    total = 0.0
    for tokens, logits in _batches(model, rows):
        scores = logits[:, :-1].float().flatten(0, 1)
        targets = tokens[:, 1:].flatten()
        total += float(torch.nn.functional.cross_entropy(scores, targets, reduction="sum"))
    return total / float(rows[:, 1:].size)


@dataclass(frozen=True)
class Baselines:
    """Losses of counting models, in nats per token."""

    unigram: float
    bigram: float


def ngram_baselines(training: Sequence[int], rows: Rows, vocabulary: int) -> Baselines:
    """Losses on `rows` (targets as in `mean_loss`) of n-gram models counted on `training`.

    Unigram: add-one. Bigram: interpolated with that unigram by Witten and Bell's method (Chen and
    Goodman 1998, section 2.6): the more different tokens follow a token, the more is left over.
    """
    ones = Counter(training)
    pairs = Counter(pairwise(training))
    kinds = Counter(first for first, _ in pairs)
    starts = Counter(training[:-1])
    unigram = bigram = 0.0
    for row in rows.tolist():
        for first, second in pairwise(row):
            alone = (ones[second] + 1) / (len(training) + vocabulary)
            rest = kinds[first] * alone
            seen = pairs[first, second]
            after = (seen + rest) / (starts[first] + kinds[first]) if starts[first] else alone
            unigram -= log(alone)
            bigram -= log(after)
    targets = rows[:, 1:].size
    return Baselines(unigram / targets, bigram / targets)


def _batches(
    model: PreTrainedModel, rows: Rows, size: int = 64
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), size):
            tokens = torch.from_numpy(rows[start : start + size])
            yield tokens, model(input_ids=tokens, use_cache=False).logits
