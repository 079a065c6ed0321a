"""Rows of an extraction test -> the figures that are printed, as plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from evals.memorization.extraction import Extraction
from evals.memorization.measures import HEADLINE, MEASURES, Flags, Measure, Scores
from evals.memorization.membership import SCORES, auc
from evals.samples import Tokens, hash_row
from evals.samples.windows import selectivity
from evals.statistics import mcnemar, mean, paired_difference, split_strata


@dataclass(frozen=True)
class ControlLoss:
    """NLL of text the model was not trained on: its kind, and nats per token of each row [M].

    `tokens`: int32 [M, T], the rows.
    """

    kind: Literal["text", "non-members"]
    nll: Scores
    tokens: Tokens

    def select(self, mask: Flags) -> ControlLoss:
        """The rows where `mask` (bool [M]) holds."""
        return ControlLoss(self.kind, self.nll[mask], self.tokens[mask])


def summarize(test: Extraction, control: ControlLoss | None = None) -> dict[str, Any]:
    """The figures of one model. Headline figures are over members where membership is known."""
    samples, members = test.samples, test.samples.trained_on
    summary: dict[str, Any] = {
        "prefix_length": samples.prefix_length,
        "suffix_length": samples.suffix_length,
        **_figures(test, members, MEASURES),
    }
    if test.sampling is not None:
        summary["probabilistic_extraction"] |= asdict(test.sampling)
    if samples.counts is not None:
        summary["by_count"] = [
            {"count": label, **_figures(test, mask)} for label, mask in split_strata(samples.counts)
        ]
    if not members.all():
        summary["non_members"] = _figures(test, ~members)
        areas = {
            score.name: auc(test.values[score.name], members)
            for score in SCORES
            if score.name in test.values
        }
        summary |= _nest(areas)
    if control is not None:
        summary["control"] = {
            "kind": control.kind,
            "n": len(control.nll),
            "nll": mean(control.nll),
            "sha256": hash_row(control.tokens),
        }
    return summary


def compare_extractions(
    baseline: Extraction,
    edited: Extraction,
    controls: tuple[ControlLoss, ControlLoss] | None = None,
) -> dict[str, Any]:
    """What an edit changed, on the same rows: differences are edited minus baseline."""
    members = edited.samples.trained_on
    paired = _paired(baseline, edited, members)
    for name in (measure.name for measure in HEADLINE if measure.said is mean):
        change = edited.values[name] - baseline.values[name]
        paired[f"{name}_difference"] = mean(change[members])
    if edited.samples.counts is not None:
        paired["by_count"] = [
            {"count": label, "n": int(mask.sum()), **_paired(baseline, edited, mask)}
            for label, mask in split_strata(edited.samples.counts)
        ]
    if controls is not None:
        before, after = controls
        rise = after.nll - before.nll
        paired["control_nll_difference"] = mean(rise)
        paired["selectivity"] = selectivity((edited.nll - baseline.nll)[members], rise)
    return paired


def list_rows(
    test: Extraction, *, baseline: Extraction | None = None, tokenizer: Any = None
) -> Iterator[dict[str, Any]]:
    """One record a row. With `tokenizer` it holds the passage's text, otherwise only its hash."""
    samples = test.samples
    labels = {"count": samples.counts, "member": samples.members}
    columns = {
        **_columns(test, MEASURES),
        **{name: values.tolist() for name, values in labels.items() if values is not None},
        **_columns(test, SCORES),
    }
    before = None if baseline is None else _columns(baseline, HEADLINE)
    for index, name in enumerate(samples.ids):
        row: dict[str, Any] = {"id": name, "hash": samples.hashes[index], **_row(columns, index)}
        if before is not None:
            row["baseline"] = _row(before, index)
        if tokenizer is not None:
            row["prefix"] = tokenizer.decode(samples.prefixes[index].tolist())
            row["suffix"] = tokenizer.decode(samples.suffixes[index].tolist())
            if test.decoded is not None:
                row["decoded"] = tokenizer.decode(test.decoded[index].tolist())
        yield row


def _figures(
    test: Extraction, mask: Flags, measures: Iterable[Measure] = HEADLINE
) -> dict[str, Any]:
    said = {
        one.name: one.said(test.values[one.name][mask])
        for one in measures
        if one.said is not None and one.name in test.values
    }
    return {"n": int(mask.sum()), **_nest(said)}


def _paired(baseline: Extraction, edited: Extraction, mask: Flags) -> dict[str, Any]:
    before, after = baseline.exact[mask], edited.exact[mask]
    forgotten, new = int((before & ~after).sum()), int((after & ~before).sum())
    n = int(mask.sum())
    return {
        "forgotten": forgotten,
        "newly_extracted": new,
        "p_value": mcnemar(forgotten, new),
        "exact_match_difference": {
            "value": (new - forgotten) / n,
            "ci95": paired_difference(forgotten, new, n).as_list(),
        },
    }


def _columns(test: Extraction, measures: Iterable[Measure]) -> dict[str, list[Any]]:
    columns = {
        one.column or one.name: test.values[one.name].tolist()
        for one in measures
        if one.name in test.values
    }
    if "first_divergence" in columns:
        pairs = zip(columns["first_divergence"], columns["exact"], strict=True)
        columns["first_divergence"] = [None if exact else at for at, exact in pairs]
    return columns


def _row(columns: dict[str, list[Any]], index: int) -> dict[str, Any]:
    return _nest({name: _finite(values[index]) for name, values in columns.items()})


def _finite(value: Any) -> Any:
    # JSON has no infinity: an impossible completion has no log-probability.
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A dot in a key becomes an object in an object: {"a.b": 1} gives {"a": {"b": 1}}."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        place = found
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = value
    return found
