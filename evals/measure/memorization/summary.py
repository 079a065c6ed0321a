"""The figures of an extraction test, and its rows as plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from evals.data import Tokens, take_tokens
from evals.measure.differences import compare_losses
from evals.measure.memorization.extraction import Extraction
from evals.measure.memorization.measures import HEADLINE, MEASURES, Flags, Measure, Scores
from evals.measure.memorization.membership import SCORE, measure_area
from evals.run.statistics import split_strata
from surgery.reading.corpus import strip_opening
from surgery.record.measured import EDITED, Measured, On


@dataclass(frozen=True)
class ControlLoss:
    """The loss on text that the model was not trained on.

    `nll`: nats per token of each row, [M]; `tokens`: int32 [M, T], the rows; `documents`: int64
    [M], the text that each window is from.
    """

    kind: Literal["text", "non-members"]
    nll: Scores
    tokens: Tokens
    documents: npt.NDArray[np.int64] | None = None

    def select(self, mask: Flags) -> ControlLoss:
        """The windows in `mask` (bool [M]). Passages that were not trained on all stay."""
        if self.kind != "text":
            return self
        documents = None if self.documents is None else self.documents[mask]
        return ControlLoss(self.kind, self.nll[mask], self.tokens[mask], documents)


def measure_recital(
    test: Extraction,
    base: Extraction | None = None,
    of: str = EDITED,
    on: On = "all",
    measures: Iterable[Measure] = MEASURES,
    twin: Extraction | None = None,
) -> Iterator[Measured]:
    """The figures of the passages that a model was trained on, if that is known, and of those of
    each count, and the change from the base and the twin; of the others, if any, the main ones."""
    members, counts = test.samples.trained_on, test.samples.counts
    yield from _measure_rows(test, base, of, on, members, measures, twin=twin)
    for label, mask in split_strata(counts) if counts is not None else ():
        yield from _measure_rows(test, base, of, on, mask, HEADLINE, f".{label}", twin)
    if not members.all():
        yield from _measure_rows(test, base, of, "never trained on", ~members, HEADLINE)


def measure_membership(test: Extraction, of: str) -> Iterator[Measured]:
    """How well the loss tells members from others, if there are both."""
    members = test.samples.trained_on
    if members.any() and not members.all():
        yield measure_area(SCORE, -test.nll, members, of)


def measure_control(
    before: ControlLoss | None, after: ControlLoss | None, on: On, of: str
) -> list[Measured]:
    """The loss on text that no model was trained on, with the change; nothing if there is none."""
    if after is None:
        return []
    base = None if before is None else before.nll
    known = {"kind": after.kind, "documents": after.documents}
    return compare_losses("heldout", base, after.nll, on, of, **known)


def measure_form(before: Extraction | None, after: Extraction, of: str) -> list[Measured]:
    """The loss on passages that no model was trained on, with the change: what an edit costs new
    text of the passages' form. Nothing if there are none."""
    outside = ~after.samples.trained_on
    if not outside.any():
        return []
    base = None if before is None else before.nll[outside]
    return compare_losses("form", base, after.nll[outside], "never trained on", of)


def _measure_rows(
    test: Extraction,
    base: Extraction | None,
    of: str,
    on: On,
    mask: Flags,
    measures: Iterable[Measure],
    part: str = "",
    twin: Extraction | None = None,
) -> Iterator[Measured]:
    for measure in measures:
        if measure.name in test.values:
            before, after, never = (
                None if one is None else one.values[measure.name][mask]
                for one in (base, test, twin)
            )
            groups = test.samples.groups
            rows = None if groups is None else groups[mask]
            yield from measure.measure(of, on, after, before, part, never, rows)


def list_rows(
    test: Extraction, *, baseline: Extraction | None = None, tokenizer: Any = None
) -> Iterator[dict[str, Any]]:
    """One record per row: with `tokenizer` it holds the passage's text, otherwise only a hash."""
    samples = test.samples
    labels = {"count": samples.counts, "member": samples.members}
    columns = {
        **_list_columns(test, MEASURES),
        **{name: values.tolist() for name, values in labels.items() if values is not None},
    }
    before = None if baseline is None else _list_columns(baseline, HEADLINE)
    for index, name in enumerate(samples.ids):
        row: dict[str, Any] = {
            "id": name,
            "hash": samples.hashes[index],
            **_pick_row(columns, index),
        }
        if before is not None:
            row["baseline"] = _pick_row(before, index)
        if tokenizer is not None:
            prefix = strip_opening(tokenizer, take_tokens(samples.prefixes[index]))
            row["prefix"] = tokenizer.decode(prefix.tolist())
            row["suffix"] = tokenizer.decode(take_tokens(samples.suffixes[index]).tolist())
            if test.decoded is not None:
                row["decoded"] = tokenizer.decode(take_tokens(test.decoded[index]).tolist())
        yield row


def _list_columns(test: Extraction, measures: Iterable[Measure]) -> dict[str, list[Any]]:
    columns = {
        measure.column or measure.name: test.values[measure.name].tolist()
        for measure in measures
        if measure.name in test.values
    }
    if "first_divergence" in columns:
        pairs = zip(columns["first_divergence"], columns["exact"], strict=True)
        columns["first_divergence"] = [None if exact else at for at, exact in pairs]
    return columns


def _pick_row(columns: dict[str, list[Any]], index: int) -> dict[str, Any]:
    return {name: _finite(values[index]) for name, values in columns.items()}


def _finite(value: Any) -> Any:
    # JSON has no infinity: an impossible completion has no log-probability.
    return None if isinstance(value, float) and not np.isfinite(value) else value
