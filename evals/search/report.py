"""What a search found, as plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evals.memorization.recovery import NAMES, Recovery
from evals.samples import row_hash
from evals.search.front import Point, pareto_front
from evals.search.held_back import Half
from evals.search.looking import DRAWS
from evals.search.resuming import point_as_json
from evals.search.run import Chosen, Task, Twice
from evals.statistics import judged, wilson
from evals.sweep.edits import edit_record
from surgery.errors import MeasurementError
from surgery.fitting.fitter import Fitter
from surgery.record.manifest import Choice, EditedModel, versions
from surgery.record.plan_file import PlanFile
from surgery.selection import Part, Selection


def search_report(
    task: Task, chosen: Chosen, fitter: Fitter | None, warnings: Iterable[str]
) -> dict[str, Any]:
    """The JSON object of `search --json`, but for the path of the plan.

    `held_back_meets_goal` tells whether the choice meets the goal on the half it was not made on,
    `held_back_conclusive` whether that half is large enough to tell. They, `selected`, and
    `held_back` are None where nothing meets the goal, `deep_blocks` where the model cannot be
    edited so. Figures on samples are over members, where membership is known.
    """
    loaded, samples, (here, back) = task.loaded, task.samples, task.halves
    heads = task.dimensions.num_heads
    base, deep, selected = chosen.base, chosen.deep_blocks, chosen.selected

    def told(point: Point, half: Half) -> dict[str, Any]:
        return figures(point, len(half.samples), task.measure)

    def edit(point: Point) -> dict[str, Any]:
        return {**edit_record(point.selection, heads), **told(point, here)}

    def listed(point: Point) -> dict[str, Any]:
        return {**edit(point), "refitted": point.selection in chosen.refitted}

    return {
        "model": loaded.name,
        "family": loaded.family.model_type,
        "num_blocks": task.dimensions.num_blocks,
        "num_heads": heads,
        "grain": task.grain,
        "variants": list(task.variants),
        "layout": task.layout,
        "goal": task.goal.asked,
        "measure": task.measure.name,
        "measure_definition": task.measure.definition,
        "seed": task.seed,
        "n": len(here.samples),
        "n_held_back": len(back.samples),
        "prefix_length": samples.prefix_length,
        "suffix_length": samples.suffix_length,
        "base": {**told(base.chosen_on, here), "held_back": told(base.held_back, back)},
        "deep_blocks": deep
        and {
            **edit(deep.chosen_on),
            "held_back": told(deep.held_back, back),
            "meets_goal": task.goal.met(deep.chosen_on, base.chosen_on),
        },
        "selected": selected and listed(selected.chosen_on),
        "held_back": selected and told(selected.held_back, back),
        "held_back_meets_goal": selected and task.goal.met(selected.held_back, base.held_back),
        "held_back_conclusive": selected and _conclusive(task, selected, base, len(back.samples)),
        "front": [listed(point) for point in pareto_front(chosen.points, task.goal.cost)],
        "max_evaluations": task.max_evaluations,
        "evaluations": len(chosen.points),
        "exhaustive": chosen.found.exhaustive,
        "units": _units(task, chosen),
        "estimates": _estimates(task, chosen),
        "passes": _passes(task, chosen),
        "samples": {
            "source": samples.source,
            "sha256": samples.sha256,
            "ids": list(here.samples.ids),
            "held_back_ids": list(back.samples.ids),
        },
        "heldout": {
            name: {"windows": len(half.windows), "sha256": row_hash(half.windows)}
            for name, half in (("chosen_on", here), ("held_back", back))
        },
        "calibration": _calibration(chosen, fitter),
        "question": question(task, fitter),
        "measured": [point_as_json(point) for point in chosen.found.points],
        "warnings": list(warnings),
        "provenance": {
            "model": {**loaded.provenance, "batch_size": chosen.batch_size},
            "versions": versions(),
        },
    }


def plan_of(task: Task, selection: Selection, result: dict[str, Any]) -> PlanFile:
    """What `export --plan` takes. `result`: the `search_report` that `selection` is of."""
    kept = (
        "model", "goal", "measure", "seed", "base", "selected", "held_back", "calibration",
        "provenance",
    )  # fmt: skip
    layout: Any = task.layout
    loaded = task.loaded
    return PlanFile.of(
        selection,
        task.dimensions.num_heads,
        layout=layout,
        model=EditedModel.of(loaded.found.identified, loaded.found.checkpoint.config),
        chosen=_choice(task),
        provenance={"command": "search", **{key: result[key] for key in kept}},
    )


def _choice(task: Task) -> Choice:
    here, _ = task.halves
    windows = row_hash(here.windows)
    return Choice(seed=task.seed, passages=here.samples.sha256, windows=windows)


def _conclusive(task: Task, selected: Twice, base: Twice, n: int) -> bool:
    """Whether the interval lies on one side of the limit, or of what the unedited model gives."""
    rate = selected.held_back.recovered
    limit = task.goal.asked.get("max_extraction", base.held_back.recovered)
    _, conclusive = judged(rate, wilson(round(rate * n), n).as_list(), limit)
    return conclusive


def missed(result: Mapping[str, Any], folder: Path) -> MeasurementError:
    """What to say where nothing meets the goal. `folder` holds what was found."""
    base, front, measure = result["base"], result["front"], result["measure"]
    before = base["recovered"][measure]
    less = [edit for edit in front if edit["recovered"][measure] < before] or front
    best = less[-1] if "max_extraction" in result["goal"] else less[0]
    rise = best["heldout_loss"] - base["heldout_loss"]
    ((option, limit),) = result["goal"].items()
    return MeasurementError(
        f"none of the {result['evaluations']} edits measured meets it",
        where=f"`{option}={limit:g}`",
        got=f"at best {best['spec']} {best['variant']}: {best['recovered'][measure]:.1%} recovered "
        f"at {rise:+.3f} nats per token",
        fix=f"{folder} holds the front; ask for less, or allow more variants, `grain=mixed`, or "
        "more `max_evaluations`",
    )


def figures(point: Point, n: int, measure: Recovery) -> dict[str, Any]:
    """Means over `n` passages and over held-out windows, losses in nats per token."""
    return {
        "exact_match": point.exact_match,
        "exact_match_ci95": wilson(round(point.exact_match * n), n).as_list(),
        "recovered": dict(zip(NAMES, point.rates, strict=True)) | {measure.name: point.recovered},
        "recovered_ci95": wilson(round(point.recovered * n), n).as_list(),
        "next_token_accuracy": point.next_token_accuracy,
        "heldout_loss": point.heldout_loss,
        "heldout_kl": point.heldout_kl,
    }


def question(task: Task, fitter: Fitter | None) -> dict[str, Any]:
    """What decides every figure that is measured, and what is looked for."""
    return {
        "model": task.loaded.identity,
        "dtype": task.loaded.provenance["dtype"],
        "samples": [task.samples.sha256, task.samples.prefix_length],
        "heldout": row_hash(task.windows),
        "calibration": fitter and fitter.calibration.record({}).sha256,
        "goal": task.goal.asked,
        "measure": task.measure.name,
        "grain": task.grain,
        "variants": list(task.variants),
        "layout": task.layout,
        "seed": task.seed,
        "batch_size": task.batch_size,
        "exhaustive": task.exhaustive,
    }


def _units(task: Task, chosen: Chosen) -> dict[str, int]:
    """How many were offered, how many of them were estimated, and how many stood in an edit that
    was measured."""
    estimates = chosen.found.estimates
    measured = frozenset[Part]().union(*(units for units, _ in chosen.found.measured))
    return {
        "offered": len(task.offered[0]),
        "estimated": 0 if estimates is None else len(estimates.units),
        "measured": len(measured),
    }


def _estimates(task: Task, chosen: Chosen) -> dict[str, Any] | None:
    """How near the estimates came, as corrected; None where none were needed."""
    estimates = chosen.found.estimates
    if estimates is None:
        return None
    return {
        "passages": len(estimates.margins),
        "windows": len(task.halves[0].windows),
        "edits": [
            {
                **edit_record(point.selection, task.dimensions.num_heads),
                "heldout_kl": point.heldout_kl,
                "recovered": point.recovered,
                "estimated_kl": float(expected.heldout_kl[0]),
                "estimated_recovered": float(expected.recovered[0]),
            }
            for units, point in chosen.found.measured
            for expected in [estimates.expected(units)]
        ],
    }


def _passes(task: Task, chosen: Chosen) -> dict[str, int]:
    """Rows that went through the model: for estimates, forward and back, and for edits."""
    passages = windows = 0
    if chosen.found.estimates is not None:
        passages, windows = len(chosen.found.estimates.margins), len(task.halves[0].windows)
    return {
        "estimates_forward": 2 * passages + windows,
        "estimates_back": passages * task.samples.suffix_length + windows * DRAWS,
        "edits": len(chosen.points) * task.rows,
    }


def _calibration(chosen: Chosen, fitter: Fitter | None) -> dict[str, Any] | None:
    """The text that the chosen edit was fitted on, and how well; None where it needs none."""
    if fitter is None or chosen.selected is None:
        return None
    fits = fitter.fits(chosen.selected.chosen_on.selection)
    return fitter.calibration.record(fits).model_dump(mode="json") if fits else None
