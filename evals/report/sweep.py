"""The result of a sweep as plain JSON values and as CSV, and its best edit."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.choose.search.estimates import Estimates
from evals.choose.search.units import kind_of
from evals.choose.sweep.opened import OpenedSweep
from evals.data import hash_row
from evals.measure.edits.engine import BASE, MeasuredEdit, edit_record
from evals.measure.memorization.recovery import rate_recoveries
from evals.run.statistics import mean, wilson
from surgery.own_code import hash_code, is_path
from surgery.record.manifest import list_versions
from surgery.selection import Part, Selection, format_selection

LOW_EXTRACTION = 0.01
"""An effective edit leaves at most this share of the passages."""


def make_sweep_report(
    opened: OpenedSweep,
    measured: Sequence[MeasuredEdit],
    estimates: Estimates | None = None,
) -> dict[str, Any]:
    """Makes the JSON object of `sweep --json`. `measured`: the base model, then every edit.

    Figures on samples are over members, where membership is known. With `estimates`, all records
    hold them.
    """
    loaded, samples, heldout = opened.loaded, opened.samples, opened.heldout
    heads, calibration = loaded.dimensions.num_heads, opened.fitter and opened.fitter.calibration
    records = []
    for one in measured:
        figures = _figures(one, measured[0], samples.trained_on)
        record = {**_name(one.selection, opened), **figures}
        if estimates is not None:
            told = estimates.predict_one(one.selection)
            record |= {f"estimated_{name}": value for name, value in told.items()}
        records.append(record)
    nothing = "the unedited model recites none of the passages: there is nothing to remove"
    result = {
        "model": loaded.name,
        "family": loaded.family.model_type,
        "num_blocks": loaded.dimensions.num_blocks,
        "num_heads": heads,
        "n": int(samples.trained_on.sum()),
        "prefix_length": samples.prefix_length,
        "suffix_length": samples.suffix_length,
        "secrets": samples.secrets,
        "exact_only": opened.request.exact_only,
        "base": records[0],
        "edits": records[1:],
        "samples": {
            "source": samples.source,
            "sha256": samples.sha256,
            "rows": len(samples),
            "left_out": sum(not note.kept for note in samples.notes),
        },
        "heldout": heldout
        if heldout is None
        else {"windows": len(heldout), "tokens": int(heldout.size), "sha256": hash_row(heldout)},
        "calibration": calibration
        and calibration.record(opened.fit_alone()).model_dump(mode="json"),
        "warnings": [*opened.warnings, *([] if records[0]["exact_count"] else [nothing])],
        "provenance": {
            "model": {**loaded.provenance, "batch_size": opened.engine.batch_size},
            "versions": list_versions(),
        },
    }
    if estimates is not None and heldout is not None:
        passages = len(estimates.margins)
        result["estimates"] = [_record_estimate(unit, estimates, heads) for unit in opened.units]
        result["estimated_on"] = {"windows": len(heldout), "passages": passages}
    return result


def _record_estimate(unit: Part, estimates: Estimates, num_heads: int) -> dict[str, Any]:
    return {
        "spec": format_selection((unit,), num_heads),
        "kind": kind_of(unit, num_heads),
        "block": unit.block,
        "variant": unit.variant,
        **estimates.predict_one((unit,)),
    }


def describe_sweep(
    opened: OpenedSweep, questions: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What decides the figures of a sweep, or of its benchmarks: `questions`, what each asks."""
    loaded, samples = opened.loaded, opened.samples
    variants = {part.variant for edit in opened.edits for part in edit}
    return {
        "model": loaded.identity,
        "dtype": loaded.dtype,
        "device": loaded.device,
        "versions": list_versions(),
        "samples": [samples.sha256, samples.prefix_length],
        "heldout": None if opened.heldout is None else hash_row(opened.heldout),
        "exact_only": opened.request.exact_only,
        "batch_size": opened.engine.batch_size,  # a step of the journal is a batch
        "calibration": opened.fitter and opened.fitter.calibration.record({}).sha256,
        "tasks": questions,
        "sizes": questions and opened.sizes,
        "own": {name: hash_code(name) for name in sorted(filter(is_path, variants))},
        "edits": hashlib.sha256(repr(list(opened.edits)).encode()).hexdigest(),
    }


def format_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats records of a report, one line each, under every name that one of them has."""
    rows = [_flatten(row) for row in rows]
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(
        text,
        fieldnames=[name for name in names if name not in ("blocks", "heads")],
        extrasaction="ignore",  # spec says in one cell what blocks and heads say
        lineterminator="\n",
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """One column for each measure of recovery, and for each task's value and difference."""
    nested = ("recovered", "tasks", "exact_ci95", "heldout_rise")
    plain = {key: value for key, value in row.items() if key not in nested}
    if interval := row.get("exact_ci95"):
        plain |= dict(zip(("exact_low", "exact_high"), interval, strict=True))
    if rise := row.get("heldout_rise"):
        ends = zip(("heldout_rise_low", "heldout_rise_high"), rise["ci95"], strict=True)
        plain |= {"heldout_rise": rise["mean"], **dict(ends)}
    tasks: dict[str, Any] = {}
    for name, opened in row.get("tasks", {}).items():
        low, high = opened.get("ci95") or (None, None)
        change = {"difference": opened.get("difference"), "low": low, "high": high}
        tasks |= {name: opened["value"]} | {f"{name}_{key}": v for key, v in change.items()}
    return {**plain, **(row.get("recovered") or {}), **tasks}


def find_best_edits(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Finds the edit with the least held-out loss that leaves at most 1 % of the passages.

    If there is none, the one among those that leave the fewest. Without held-out text, all that
    leave the fewest: nothing sets them apart.
    """
    edits: list[dict[str, Any]] = result["edits"]
    fewest = min(edit["exact_match"] for edit in edits)
    if result["exact_only"]:
        return [edit for edit in edits if edit["exact_match"] == fewest]
    low = [edit for edit in edits if edit["exact_match"] <= max(fewest, LOW_EXTRACTION)]
    return [min(low, key=lambda edit: float(edit["heldout_loss"]))]


def find_front(estimates: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Finds those that move margins more than any that costs no more, cheapest first."""
    front: list[dict[str, Any]] = []
    for one in sorted(estimates, key=lambda e: (e["kl"], -e["margin"], e["spec"], e["variant"])):
        if not front or one["margin"] > front[-1]["margin"]:
            front.append(one)
    return front


def _name(selection: Selection, opened: OpenedSweep) -> dict[str, Any]:
    if selection == BASE:
        return {"spec": "", "kind": "base", "blocks": [], "variant": None}
    named = edit_record(selection, opened.loaded.dimensions.num_heads)
    return {"spec": named["spec"], "kind": opened.edits[selection], **named}


def _figures(
    one: MeasuredEdit, base: MeasuredEdit, members: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    exact = one.exact[members]
    loss = _mean(one.heldout_nll)
    rises = one.heldout_nll - base.heldout_nll
    recovered = None  # where only matches were asked for
    if one.right.shape[1]:
        recovered = rate_recoveries(one.evidence.select(members))
    return {
        "exact_match": int(exact.sum()) / len(exact),
        "exact_count": int(exact.sum()),
        "exact_ci95": wilson(int(exact.sum()), len(exact)).as_list(),
        "next_token_accuracy": _mean(one.next_token_accuracy[members]),
        "suffix_nll": _mean(one.nll[members]),
        "completion_entropy": _mean(one.entropy[members]),
        "recovered": recovered,
        "heldout_loss": loss,
        "heldout_rise": mean(rises) if len(rises) else None,
        "heldout_perplexity": None if loss is None else _null_if_infinite(float(np.exp(loss))),
        "heldout_kl": _mean(one.heldout_kl),
    }


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return _null_if_infinite(float(values.mean())) if len(values) else None


def _null_if_infinite(value: float) -> float | None:
    # JSON has neither NaN, for what was not measured, nor infinity, for a perplexity beyond reach.
    return value if np.isfinite(value) else None
