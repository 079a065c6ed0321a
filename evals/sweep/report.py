"""What a sweep found, as plain JSON values, as a table in CSV, and the edit that stands out."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.edits.batch import BASE
from evals.edits.engine import Measured
from evals.edits.record import edit_record
from evals.files import Journal
from evals.memorization.recovery import Evidence, rates
from evals.models import LoadedModel
from evals.samples import Samples, Tokens, row_hash
from evals.sweep.edits import Kind
from surgery.fitting.fitter import Fitter
from surgery.record.manifest import CalibrationRecord, versions
from surgery.selection import Selection

LOW_EXTRACTION = 0.01
"""The share of passages that an edit may leave and still count as effective."""


@dataclass(frozen=True)
class Setting:
    """What was swept, on what: everything but the results.

    `heldout`: int32 [M, T] windows, None where none were measured. `calibration`: the text that
    variants were fitted on, with the fit of each block alone.
    """

    loaded: LoadedModel
    samples: Samples
    heldout: Tokens | None
    exact_only: bool
    batch_size: int
    calibration: CalibrationRecord | None = None
    warnings: Sequence[str] = ()


def sweep_report(
    setting: Setting, measured: Sequence[Measured], kinds: Mapping[Selection, Kind]
) -> dict[str, Any]:
    """The JSON object of `sweep --json`. `measured`: the base model first, then every edit.

    Figures on samples are over members, where membership is known. An edit's `heads` are there
    only where it is not of whole blocks.
    """
    loaded, samples = setting.loaded, setting.samples
    dimensions = loaded.dimensions
    records = [
        {**_named(one.selection, kinds, dimensions.num_heads), **_figures(one, samples.trained_on)}
        for one in measured
    ]
    heldout = setting.heldout
    nothing = "the unedited model recites none of the passages: there is nothing to remove"
    return {
        "model": loaded.name,
        "family": loaded.family.model_type,
        "num_blocks": dimensions.num_blocks,
        "num_heads": dimensions.num_heads,
        "n": int(samples.trained_on.sum()),
        "prefix_length": samples.prefix_length,
        "suffix_length": samples.suffix_length,
        "exact_only": setting.exact_only,
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
        else {
            "windows": len(heldout),
            "tokens": int(heldout.size),
            "sha256": row_hash(heldout),
        },
        "calibration": setting.calibration and setting.calibration.model_dump(mode="json"),
        "warnings": [*setting.warnings, *([] if records[0]["exact_count"] else [nothing])],
        "provenance": {
            "model": {**loaded.provenance, "batch_size": setting.batch_size},
            "versions": versions(),
        },
    }


def fitted_alone(
    fitter: Fitter | None, edits: Mapping[Selection, Kind]
) -> CalibrationRecord | None:
    """The text that variants were fitted on, and how well each block fits when edited alone."""
    if fitter is None:
        return None
    parts = [part for selection, kind in edits.items() if kind == "block" for part in selection]
    fits = fitter.fits_alone({part.block for part in parts}, {part.variant for part in parts})
    return fitter.calibration.record(fits)


def journal_of(
    output: Path,
    setting: Setting,
    edits: Mapping[Selection, Kind],
    tasks: Mapping[str, Any] | None = None,
) -> Journal:
    """Where the progress of a sweep is kept: in a hidden file beside its output folder.

    With `tasks`, what each benchmark asks, the file is that of the benchmarks.
    """
    loaded, calibration = setting.loaded, setting.calibration
    settings = {
        "model": loaded.identity,
        "dtype": loaded.dtype,
        "samples": [setting.samples.sha256, setting.samples.prefix_length],
        "heldout": None if setting.heldout is None else row_hash(setting.heldout),
        "exact_only": setting.exact_only,
        "batch_size": setting.batch_size,
        "calibration": calibration and calibration.sha256,
        "tasks": tasks,
        "edits": hashlib.sha256(repr(list(edits)).encode()).hexdigest(),
    }
    part = "" if tasks is None else ".tasks"
    path = output.parent / f".{output.name}{part}.progress"
    return Journal(path, settings, loaded.check_unchanged)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records of a report, one line each, under a line of names: those of the first."""
    rows = [_flat(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        fieldnames=[name for name in rows[0] if name != "blocks"],
        extrasaction="ignore",  # spec says in one cell what blocks and heads say
        lineterminator="\n",
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A column for each measure of what is recovered; of each task for its value and difference."""
    plain = {key: value for key, value in row.items() if key not in ("recovered", "tasks")}
    tasks: dict[str, Any] = {}
    for name, task in row.get("tasks", {}).items():
        low, high = task.get("ci95") or (None, None)
        change = {"difference": task.get("difference"), "low": low, "high": high}
        tasks |= {name: task["value"]} | {f"{name}_{key}": v for key, v in change.items()}
    return {**plain, **(row.get("recovered") or {}), **tasks}


def best_edits(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The edit with the least held-out loss among those that leave at most 1 % of the passages.

    Where none does, among those that leave the fewest. Where no held-out text was measured, all
    that leave the fewest: nothing tells them apart.
    """
    edits: list[dict[str, Any]] = result["edits"]
    fewest = min(edit["exact_match"] for edit in edits)
    if result["exact_only"]:
        return [edit for edit in edits if edit["exact_match"] == fewest]
    low = [edit for edit in edits if edit["exact_match"] <= max(fewest, LOW_EXTRACTION)]
    return [min(low, key=lambda edit: float(edit["heldout_loss"]))]


def _named(selection: Selection, kinds: Mapping[Selection, Kind], num_heads: int) -> dict[str, Any]:
    if selection == BASE:
        return {"spec": "", "kind": "base", "blocks": [], "variant": None}
    named = edit_record(selection, num_heads)
    return {"spec": named["spec"], "kind": kinds[selection], **named}


def _figures(one: Measured, members: npt.NDArray[np.bool_]) -> dict[str, Any]:
    exact = one.exact[members]
    loss = _mean(one.heldout_nll)
    recovered = None  # where only matches were asked for
    if one.right.shape[1]:
        recovered = rates(Evidence(one.right[members], one.log_p_z[members]))
    return {
        "exact_match": int(exact.sum()) / len(exact),
        "exact_count": int(exact.sum()),
        "next_token_accuracy": _mean(one.next_token_accuracy[members]),
        "suffix_nll": _mean(one.nll[members]),
        "completion_entropy": _mean(one.entropy[members]),
        "recovered": recovered,
        "heldout_loss": loss,
        "heldout_perplexity": None if loss is None else _finite(float(np.exp(loss))),
        "heldout_kl": _mean(one.heldout_kl),
    }


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return _finite(float(values.mean())) if len(values) else None


def _finite(value: float) -> float | None:
    # JSON has neither NaN, for what was not measured, nor infinity, for a perplexity beyond reach.
    return value if np.isfinite(value) else None


def with_divergence(result: dict[str, Any], divergence: dict[str, Any]) -> dict[str, Any]:
    """A sweep's result with the bounds of `evals.bounds.divergence`, also in the blocks' records.

    `mixing_measured`, `mixing_bound`: means over tokens, relative to the residual's norm.
    """
    mixing = {
        bounded["block"]: {
            "mixing_measured": bounded["measured_mean"],
            "mixing_bound": bounded["bound_mean"],
        }
        for bounded in divergence["blocks"]
    }
    edits = [
        edit | mixing[edit["blocks"][0]] if edit["kind"] == "block" else edit
        for edit in result["edits"]
    ]
    return {**result, "edits": edits, "bounds": divergence}
