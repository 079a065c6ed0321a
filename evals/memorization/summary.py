"""Rows of an extraction test -> the figures that are printed, as plain JSON values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.memorization.extraction import Extraction, FullMeasures
from evals.memorization.measures import attempts_needed
from evals.memorization.membership import AUC, auc
from evals.samples import Tokens, row_hash
from evals.samples.windows import SELECTIVITY, selectivity
from evals.statistics import (
    SEED,
    bootstrap_mean,
    mcnemar,
    paired_difference,
    strata,
    wilson,
)

Flags = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]
NEAR_MATCH = 0.75
FULL_COLUMNS = ("free_running_score", "similarity", "bleu", "entropy", "log_p_z")
ATTEMPTS = (1, 10, 100, 1_000, 10_000, 100_000)
CONFIDENCES = (0.1, 0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Control:
    """NLL of text the model was not trained on: its kind, and nats per token of each row [M]."""

    kind: str
    nll: Scores
    sha256: str

    @staticmethod
    def of(kind: str, nll: Scores, tokens: Tokens) -> Control:
        """`tokens`: int32 [M, T], the controls themselves; their hash names them."""
        return Control(kind, nll, row_hash(tokens))


def summarize(test: Extraction, control: Control | None = None) -> dict[str, Any]:
    """The figures of one model. Headline figures are over members where membership is known."""
    members = _members(test)
    summary: dict[str, Any] = {
        "n": int(members.sum()),
        "prefix_length": test.samples.prefix_length,
        "suffix_length": test.samples.suffix_length,
        **_headline(test, members),
        "extraction_strength": _mean(test.extraction_strength[members]),
    }
    if test.full is not None:
        summary |= _full(test.full, members)
    if test.samples.counts is not None:
        summary["by_count"] = [
            {"count": label, "n": int(mask.sum()), **_headline(test, mask)}
            for label, mask in strata(test.samples.counts)
        ]
    if not members.all():
        summary["non_members"] = {"n": int((~members).sum()), **_headline(test, ~members)}
        summary["membership"] = {
            name: _area(auc(scores, members, seed=SEED)) for name, scores in test.membership.items()
        }
    if control is not None:
        summary["control"] = {
            "kind": control.kind,
            "n": len(control.nll),
            "nll": _mean(control.nll),
            "sha256": control.sha256,
        }
    return summary


def compare(
    baseline: Extraction,
    edited: Extraction,
    controls: tuple[Control, Control] | None = None,
) -> dict[str, Any]:
    """What an edit changed, on the same rows: differences are edited minus baseline."""
    members = _members(edited)
    paired = _paired(baseline, edited, members)
    paired["suffix_nll_difference"] = _mean((edited.nll - baseline.nll)[members])
    paired["memorization_score_difference"] = _mean((edited.score - baseline.score)[members])
    if edited.samples.counts is not None:
        paired["by_count"] = [
            {"count": label, "n": int(mask.sum()), **_paired(baseline, edited, mask)}
            for label, mask in strata(edited.samples.counts)
        ]
    if controls is not None:
        before, after = controls
        rise = after.nll - before.nll
        value, interval = selectivity((edited.nll - baseline.nll)[members], rise)
        paired["control_nll_difference"] = _mean(rise)
        paired["selectivity"] = {
            "value": value,
            "ci95": interval.as_list(),
            "definition": SELECTIVITY,
        }
    return paired


def rows(
    test: Extraction, *, baseline: Extraction | None = None, tokenizer: Any = None
) -> Iterator[dict[str, Any]]:
    """One record a row. With `tokenizer` it holds the passage's text, otherwise only its hash."""
    samples = test.samples
    columns: dict[str, Any] = {"extraction_strength": test.extraction_strength}
    if test.full is not None:
        columns |= {name: getattr(test.full, name) for name in FULL_COLUMNS}
    labels = {"count": samples.counts, "member": samples.members}
    columns |= {name: values for name, values in labels.items() if values is not None}
    present = {name: values.tolist() for name, values in columns.items()}
    membership = {name: scores.tolist() for name, scores in test.membership.items()}
    for index, name in enumerate(samples.ids):
        row: dict[str, Any] = {"id": name, "hash": samples.hashes[index], **_row(test, index)}
        row |= {key: _finite(values[index]) for key, values in present.items()}
        row["membership"] = {key: values[index] for key, values in membership.items()}
        if baseline is not None:
            row["baseline"] = _row(baseline, index)
        if tokenizer is not None:
            row["prefix"] = tokenizer.decode(samples.prefixes[index].tolist())
            row["suffix"] = tokenizer.decode(samples.suffixes[index].tolist())
            if test.decoded is not None:
                row["decoded"] = tokenizer.decode(test.decoded[index].tolist())
        yield row


def _members(test: Extraction) -> Flags:
    members = test.samples.members
    return np.ones(len(test.samples), dtype=bool) if members is None else members


def _headline(test: Extraction, mask: Flags) -> dict[str, Any]:
    return {
        "exact_match": _rate(test.exact[mask]),
        "memorization_score": _mean(test.score[mask]),
        "suffix_nll": _mean(test.nll[mask]),
    }


def _full(full: FullMeasures, mask: Flags) -> dict[str, Any]:
    needed = {p: attempts_needed(full.log_p_z[mask], p) for p in CONFIDENCES}
    return {
        "free_running_score": _mean(full.free_running_score[mask]),
        "near_match": {
            "levenshtein": _rate(full.similarity[mask] >= NEAR_MATCH),
            "bleu": _rate(full.bleu[mask] > NEAR_MATCH),
        },
        "completion_entropy": _mean(full.entropy[mask]),
        "probabilistic_extraction": {
            "top_k": full.sampling.top_k,
            "temperature": full.sampling.temperature,
            "curve": [
                {"n": n, "p": p, **_rate(needed[p] <= n)} for p in CONFIDENCES for n in ATTEMPTS
            ],
        },
    }


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


def _row(test: Extraction, index: int) -> dict[str, Any]:
    exact = bool(test.exact[index])
    return {
        "exact": exact,
        "first_divergence": None if exact else int(test.first_divergence[index]),
        "score": float(test.score[index]),
        "nll": float(test.nll[index]),
    }


def _area(area: AUC) -> dict[str, Any]:
    interval = area.ci95.as_list()
    return {"auc": area.value, "ci95": interval, "overcorrected": area.overcorrected}


def _rate(flags: Flags) -> dict[str, Any]:
    count, n = int(flags.sum()), len(flags)
    return {"count": count, "rate": count / n, "ci95": wilson(count, n).as_list()}


def _mean(values: Scores) -> dict[str, Any]:
    return {"mean": float(values.mean()), "ci95": bootstrap_mean(values).as_list()}


def _finite(value: Any) -> Any:
    # JSON has no infinity: an impossible completion has no log-probability.
    return None if isinstance(value, float) and not np.isfinite(value) else value
