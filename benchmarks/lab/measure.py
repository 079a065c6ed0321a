"""What a lab model recites, and how well it predicts."""

# transformers and torch annotate few methods:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from benchmarks.lab.records import LENGTH, Record
from evals.measure.memorization.extraction import run_pass
from evals.measure.memorization.measures import exact_match

Rows = npt.NDArray[np.int64]


def find_extracted(model: PreTrainedModel, records: Sequence[Record]) -> list[bool]:
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


def mean_loss(model: PreTrainedModel, rows: Rows, size: int = 64) -> float:
    """Mean negative log likelihood, in nats, of each row's tokens after its first."""
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), size):
            tokens = torch.from_numpy(rows[start : start + size].astype(np.int64))
            scores = model(input_ids=tokens, use_cache=False).logits[:, :-1].float().flatten(0, 1)
            targets = tokens[:, 1:].flatten()
            total += float(torch.nn.functional.cross_entropy(scores, targets, reduction="sum"))
    return total / float(rows[:, 1:].size)
