"""Summarizes the rows of an extraction test as plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from evals.data import Tokens, count_longer, hash_row, take_tokens
from evals.data.windows import selectivity
from evals.measure.memorization.extraction import Extraction
from evals.measure.memorization.measures import HEADLINE, MEASURES, Flags, Measure, Scores
from evals.measure.memorization.membership import SCORES, auc
from evals.run.statistics import compare_flags, mean, split_strata
from surgery.reading.corpus import strip_opening


@dataclass(frozen=True)
class ControlLoss:
    """The loss on text that the model was not trained on.

    `nll`: nats per token of each row, [M]; `tokens`: int32 [M, T], the rows.
    """

    kind: Literal["text", "non-members"]
    nll: Scores
    tokens: Tokens

    def select(self, mask: Flags) -> ControlLoss:
        """The windows in `mask` (bool [M]). Passages that were not trained on all stay."""
        if self.kind != "text":
            return self
        return ControlLoss(self.kind, self.nll[mask], self.tokens[mask])


def summarize_extraction(test: Extraction, control: ControlLoss | None = None) -> dict[str, Any]:
    """The figures of one model. If membership is known, headline figures cover members only."""
    samples, members = test.samples, test.samples.trained_on
    summary: dict[str, Any] = {
        "prefix_length": samples.prefix_length,
        "suffix_length": samples.suffix_length,
        "secrets": samples.secrets,
        "longer": count_longer(samples.select(members)),
        **_summarize_rows(test, members, MEASURES),
    }
    if test.sampling is not None:
        summary["probabilistic_extraction"] |= asdict(test.sampling)
    if samples.counts is not None:
        summary["by_count"] = [
            {"count": label, **_summarize_rows(test, mask)}
            for label, mask in split_strata(samples.counts)
        ]
    if not members.all():
        summary["non_members"] = _summarize_rows(test, ~members)
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
    """What an edit changed on the same rows. Differences are edited minus baseline."""
    members = edited.samples.trained_on
    paired = _compare_rows(baseline, edited, members)
    for name in (measure.name for measure in HEADLINE if measure.summarize is mean):
        change = edited.values[name] - baseline.values[name]
        paired[f"{name}_difference"] = mean(change[members])
    if edited.samples.counts is not None:
        paired["by_count"] = [
            {"count": label, "n": int(mask.sum()), **_compare_rows(baseline, edited, mask)}
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
    """One record per row: with `tokenizer` it holds the passage's text, otherwise only a hash."""
    samples = test.samples
    labels = {"count": samples.counts, "member": samples.members}
    columns = {
        **_list_columns(test, MEASURES),
        **{name: values.tolist() for name, values in labels.items() if values is not None},
        **_list_columns(test, SCORES),
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
            prefix = strip_opening(tokenizer, samples.prefixes[index])
            row["prefix"] = tokenizer.decode(prefix.tolist())
            row["suffix"] = tokenizer.decode(take_tokens(samples.suffixes[index]).tolist())
            if test.decoded is not None:
                row["decoded"] = tokenizer.decode(take_tokens(test.decoded[index]).tolist())
        yield row


def _summarize_rows(
    test: Extraction, mask: Flags, measures: Iterable[Measure] = HEADLINE
) -> dict[str, Any]:
    figures = {
        one.name: one.summarize(test.values[one.name][mask])
        for one in measures
        if one.summarize is not None and one.name in test.values
    }
    return {"n": int(mask.sum()), **_nest(figures)}


def _compare_rows(baseline: Extraction, edited: Extraction, mask: Flags) -> dict[str, Any]:
    flips = compare_flags(baseline.exact[mask], edited.exact[mask])
    return {
        "forgotten": flips.lost,
        "newly_extracted": flips.gained,
        "p_value": flips.p_value,
        "exact_match_difference": {"value": flips.difference, "ci95": flips.ci95},
    }


def _list_columns(test: Extraction, measures: Iterable[Measure]) -> dict[str, list[Any]]:
    columns = {
        one.column or one.name: test.values[one.name].tolist()
        for one in measures
        if one.name in test.values
    }
    if "first_divergence" in columns:
        pairs = zip(columns["first_divergence"], columns["exact"], strict=True)
        columns["first_divergence"] = [None if exact else at for at, exact in pairs]
    return columns


def _pick_row(columns: dict[str, list[Any]], index: int) -> dict[str, Any]:
    return _nest({name: _finite(values[index]) for name, values in columns.items()})


def _finite(value: Any) -> Any:
    # JSON has no infinity: an impossible completion has no log-probability.
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nests keys with dots: {"a.b": 1} gives {"a": {"b": 1}}."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        place = found
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = value
    return found
