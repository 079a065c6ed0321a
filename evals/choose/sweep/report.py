"""The result of a sweep as JSON and as CSV, and its best edit."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from evals.choose.grid import (
    GridEdit,
    GridResult,
    describe_edit,
    measure_edit,
    rename,
)
from evals.choose.search.estimates import Estimates
from evals.choose.search.units import kind_of
from evals.choose.sweep.opened import OpenedSweep
from evals.choose.sweep.scoring import TaskRuns, describe_tasks, measure_tasks
from evals.data import Tokens, hash_row
from evals.data.samples import record_samples
from evals.measure.edits.engine import MeasuredEdit
from evals.measure.naming import name_figures
from evals.table.measured import measure_value
from surgery.record.manifest import Word, list_versions
from surgery.record.measured import BASE, Measured
from surgery.record.report import MeasuredModel

LOW_EXTRACTION = 0.01
"""An effective edit leaves at most this share of the passages."""
NOTHING = "the unedited model recites none of the passages: there is nothing to remove"


class SweepResult(GridResult):
    """What `sweep` prints and writes. `n`: the passages that the figures are of.

    `estimates`: units that were estimated, of which some were not measured; `estimated_on`: on how
    many passages and windows.
    """

    n: int
    estimates: list[GridEdit] = Field(default_factory=list)
    estimated_on: dict[Word, int] | None = None

    @property
    def tasks(self) -> dict[str, Mapping[str, Any]]:
        """Task → how it was asked."""
        found = (one.details for one in self.names.values() if "task" in one.details)
        return {str(known["task"]): known for known in found}

    def rise(self, of: str) -> float:
        """The held-out loss of an edit over that of the base, in nats per token."""
        after, before = (self.read("heldout", one) or 0.0 for one in (of, BASE))
        return after - before


def make_sweep_result(
    opened: OpenedSweep,
    measured: Sequence[MeasuredEdit],
    estimates: Estimates | None = None,
    runs: Sequence[TaskRuns] = (),
) -> SweepResult:
    """The JSON of `sweep --json`. `measured`: the base model, then every edit; so are `runs`.

    Figures on samples are over members, where membership is known. With `estimates`, all edits
    have them.
    """
    loaded, samples, heldout = opened.loaded, opened.samples, opened.heldout
    heads = loaded.dimensions.num_heads
    edits = [
        describe_edit(f"edit-{number}", one.selection, heads, kind=opened.edits[one.selection])
        for number, one in enumerate(measured[1:], 1)
    ]
    names = [BASE, *(edit.of for edit in edits)]
    figures = list(_list_figures(opened, measured, names, estimates))
    named, units, estimated_on = {}, [], None
    if opened.benchmarks is not None:
        figures += measure_tasks(opened.benchmarks, runs, names[1:])
        named = describe_tasks(opened.benchmarks, runs[0], opened.sizes)
    if estimates is not None:
        units = [
            describe_edit(f"unit-{at}", (unit,), heads, kind=kind_of(unit, heads))
            for at, unit in enumerate(opened.units, 1)
        ]
        for unit, one in zip(units, opened.units, strict=True):
            figures += _list_estimates(estimates, (one,), unit.of)
        estimated_on = {"windows": len(heldout), "passages": len(estimates.margins)}
    nothing = [] if figures[0].value else [NOTHING]
    return SweepResult(
        command="sweep",
        names=name_figures(figures) | named,
        figures=figures,
        model=MeasuredModel(
            name=loaded.name,
            provenance={**loaded.provenance, "batch_size": opened.engine.batch_size},
        ),
        family=loaded.family.model_type,
        num_blocks=loaded.dimensions.num_blocks,
        num_heads=heads,
        edits=edits,
        samples=record_samples(samples),
        heldout={"all": _describe_windows(heldout)},
        calibration=_record_fits(opened),
        warnings=[*opened.warnings, *nothing],
        provenance={"versions": list_versions()},
        n=int(samples.trained_on.sum()),
        estimates=units,
        estimated_on=estimated_on,
    )


def _describe_windows(heldout: Tokens) -> dict[str, int | str]:
    return {
        "windows": len(heldout),
        "tokens": int(heldout.size),
        "sha256": hash_row(heldout),
    }


def _record_fits(opened: OpenedSweep) -> dict[str, Any] | None:
    if opened.fitter is None:
        return None
    return opened.fitter.calibration.record(opened.fit_alone()).model_dump(mode="json")


def _list_figures(
    opened: OpenedSweep,
    measured: Sequence[MeasuredEdit],
    names: Sequence[str],
    estimates: Estimates | None,
) -> Iterator[Measured]:
    members = opened.samples.trained_on
    for of, one in zip(names, measured, strict=True):
        base = None if of == BASE else measured[0]
        for row in rename(measure_edit(one.select(members), "all", base=base), of):
            yield row
            if row.name == "heldout" and row.value is not None:
                value = float(np.exp(row.value)) if row.value < _MOST else math.inf
                yield measure_value("heldout_perplexity", value, of=of, on="all", n=row.n)
        if estimates is not None:
            yield from _list_estimates(estimates, one.selection, of)


_MOST = 700.0
"""Nats whose exponential a float still holds."""


def _list_estimates(estimates: Estimates, selection: Any, of: str) -> Iterator[Measured]:
    for name, value in estimates.predict_one(selection).items():
        unit: Any = "nats" if name == "kl" else "number"
        yield measure_value(f"estimated_{name}", value, of=of, on="all", unit=unit)


def format_csv(result: SweepResult, edits: Sequence[GridEdit]) -> str:
    """One line for the base, if it has figures of that kind, and for each edit: its figures, with
    their intervals and changes."""
    rows = [_flatten(result, edit) for edit in edits]
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flatten(result: SweepResult, edit: GridEdit) -> dict[str, Any]:
    """One column for each figure, both ends of its interval, and its change from the base."""
    row: dict[str, Any] = {"spec": edit.spec, "kind": edit.kind, "variant": edit.variant}
    if edit.of == BASE:
        row = {"spec": "", "kind": "base", "variant": ""}
    for name in result.names:
        found = result.find(name, edit.of)
        if found is None:
            continue
        row[name] = found.value
        if found.ci95 is not None:
            row |= dict(zip((f"{name}_low", f"{name}_high"), found.ci95, strict=True))
        if found.change is not None:
            row[f"{name}_change"] = found.change.difference
            ends = found.change.ci95 or (None, None)
            row |= dict(zip((f"{name}_change_low", f"{name}_change_high"), ends, strict=True))
    return row


def find_best_edit(result: SweepResult) -> GridEdit:
    """Finds the edit with the least held-out loss that leaves at most 1 % of the passages.

    If there is none, the one among those that leave the fewest.
    """
    left = {edit.of: result.read("recited", edit.of) or 0.0 for edit in result.edits}
    fewest = min(left.values())
    low = [edit for edit in result.edits if left[edit.of] <= max(fewest, LOW_EXTRACTION)]
    return min(low, key=lambda edit: result.read("heldout", edit.of) or math.inf)


def find_front(result: SweepResult) -> list[GridEdit]:
    """Finds the units whose estimates move margins more than any that costs no more, cheapest
    first."""

    def read(one: GridEdit) -> tuple[float, float]:
        kl, margin = (result.read(f"estimated_{name}", one.of) for name in ("kl", "margin"))
        return kl or 0.0, margin or 0.0

    def rank(one: GridEdit) -> tuple[float, float, str, str]:
        kl, margin = read(one)
        return kl, -margin, one.spec, one.variant

    front: list[GridEdit] = []
    for one in sorted(result.estimates, key=rank):
        if not front or read(one)[1] > read(front[-1])[1]:
            front.append(one)
    return front
