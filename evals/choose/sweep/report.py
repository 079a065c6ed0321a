"""The result of a sweep as JSON and as CSV, and its best edit."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from evals.choose.estimates import Estimates
from evals.choose.grid import (
    EditPoint,
    GridEdit,
    GridResult,
    describe_edit,
    describe_grid,
    describe_windows,
    rename,
)
from evals.choose.sweep.opened import OpenedSweep
from evals.choose.sweep.scoring import TaskRuns, describe_tasks, measure_tasks
from evals.choose.units import kind_of
from evals.table.measured import measure_value
from surgery.record.manifest import Word
from surgery.record.measured import BASE, Measured

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


def make_sweep_result(
    opened: OpenedSweep,
    points: Sequence[EditPoint],
    estimates: Estimates | None = None,
    runs: Sequence[TaskRuns] = (),
) -> SweepResult:
    """The JSON of `sweep --json`. `points`: the base model, then every edit; so are `runs`.

    Figures on samples are over members, where membership is known. With `estimates`, all edits
    have them.
    """
    loaded, samples, heldout = opened.loaded, opened.samples, opened.heldout
    heads = loaded.dimensions.num_heads
    edits = [
        describe_edit(f"edit-{number}", point.selection, heads, kind=opened.edits[point.selection])
        for number, point in enumerate(points[1:], 1)
    ]
    names = [BASE, *(edit.of for edit in edits)]
    figures = list(_list_figures(points, names, estimates))
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
    known = describe_grid(loaded, samples, figures, opened.engine.batch_size)
    known["names"] |= named
    return SweepResult(
        **known,
        command="sweep",
        edits=edits,
        heldout={"all": describe_windows(heldout)},
        calibration=_record_fits(opened),
        warnings=[*opened.warnings, *nothing],
        n=int(samples.trained_on.sum()),
        estimates=units,
        estimated_on=estimated_on,
    )


def _record_fits(opened: OpenedSweep) -> dict[str, Any] | None:
    if opened.fitter is None:
        return None
    return opened.fitter.calibration.record(opened.fit_alone()).model_dump(mode="json")


def _list_figures(
    points: Sequence[EditPoint], names: Sequence[str], estimates: Estimates | None
) -> Iterator[Measured]:
    for of, point in zip(names, points, strict=True):
        yield from rename(point.figures, of)
        if estimates is not None:
            yield from _list_estimates(estimates, point.selection, of)


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
