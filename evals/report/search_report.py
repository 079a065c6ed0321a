"""The result of a search, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.choose.search.points import EditPoint, pareto_front, point_as_json
from evals.choose.search.run import SearchOutcome
from evals.choose.search.task import Half, SearchTask
from evals.data import hash_row
from evals.measure.edits.engine import BASE, edit_record
from evals.measure.verdicts import OK, Limit, State, judge, settle
from evals.report.model_map import ModelMap, make_map
from evals.run.statistics import FEWEST, mean, wilson
from surgery.errors import MeasurementError
from surgery.record.manifest import Choice, EditedModel, list_versions
from surgery.record.plan_file import PlanFile, list_edits
from surgery.selection import Selection


def make_search_report(task: SearchTask, outcome: SearchOutcome) -> dict[str, Any]:
    """The JSON object of `search --json`, without the path of the plan. Figures are of members."""
    loaded = task.loaded
    return {
        "model": loaded.name,
        "family": loaded.family.model_type,
        "num_blocks": task.loaded.dimensions.num_blocks,
        "num_heads": task.loaded.dimensions.num_heads,
        **_describe_aim(task),
        "max_evaluations": task.request.max_evaluations,
        **_describe_choice(task, outcome),
        "evaluations": outcome.found.evaluations,
        "exhaustive": task.exhaustive,
        "units": {
            "offered": len(task.offered),
            "estimated": len(task.offered) if outcome.found.estimates else 0,
            "measured": len(frozenset[int]().union(*outcome.found.measured)),
        },
        **_describe_text(task),
        "calibration": _record_fits(task, outcome),
        "question": describe_question(task),
        "map": (found := make_search_map(task, outcome)) and found.model_dump(mode="json"),
        "measured": [point_as_json(point) for point in outcome.found.measured.values()],
        "warnings": list(task.warnings),
        "provenance": {
            "model": {**loaded.provenance, "batch_size": outcome.engines[0].batch_size},
            "versions": list_versions(),
        },
    }


def make_search_map(task: SearchTask, outcome: SearchOutcome) -> ModelMap | None:
    """What each unit offered is worth and costs: as estimated, or as measured without estimates."""
    estimates, base, size = outcome.found.estimates, outcome.base[0], task.loaded.dimensions
    if estimates is not None:
        found = {unit: estimates.predict_one((unit,)) for unit in estimates.units}
        units = {unit: (one["margin"], one["kl"]) for unit, one in found.items()}
    else:
        units = {
            point.selection[0]: (100 * (base.recovered - point.recovered), point.heldout_kl)
            for point in outcome.found.measured.values()
            if len(point.selection) == 1 and point.selection[0] in task.offered
        }
    return make_map(units, size.num_blocks, size.num_heads, measured=estimates is None)


def _describe_choice(task: SearchTask, outcome: SearchOutcome) -> dict[str, Any]:
    """The choice, the unedited model, and the deepest blocks, on both halves.

    `held_back_state`: whether the choice keeps every limit on the half it was not made on, as
    `held_back_meets_goal` says, too: true, false, or None if that half cannot decide it. They,
    `selected`, and `held_back` are None if nothing meets the goal; `deep_blocks`, if the model
    cannot hold it.
    """
    here, back = task.halves
    (base, base_back), deep, selected = outcome.base, outcome.deep_blocks, outcome.selected

    def record(point: EditPoint) -> dict[str, Any]:
        named = edit_record(point.selection, task.loaded.dimensions.num_heads)
        return {**named, **_figures(task, point, here)}

    state = _judge_held_back(task, outcome, selected[1]) if selected else None
    front = pareto_front(outcome.points.values(), task.request.goal.cost)
    return {
        "base": {**_figures(task, base, here), "held_back": _figures(task, base_back, back)},
        "deep_blocks": deep
        and {
            **record(deep[0]),
            "held_back": _figures(task, deep[1], back),
            "meets_goal": task.keeps(deep[0], base),
            "offered": task.find_units(deep[0].selection) is not None,
        },
        "selected": selected and record(selected[0]),
        "held_back": selected and _figures(task, selected[1], back),
        "held_back_meets_goal": OK.get(state),
        "held_back_state": state,
        "passed_over": selected and _count_better(task, outcome),
        "front": [record(point) for point in front],
        "nearest": None if selected else record(outcome.points[outcome.best]),
    }


def _count_better(task: SearchTask, outcome: SearchOutcome) -> dict[str, int]:
    """How many measured edits beat the choice and exceed no limit that was measured, and why they
    are not the choice: `doubtful`, as they may miss the goal on other passages; `untried`, as an
    attack would bring back too much, by the edits that were attacked."""
    assert outcome.selected is not None
    found, goal, chosen = outcome.found, task.request.goal, outcome.selected[0]
    why = {"doubtful": 0, "untried": 0}
    for units in found.measured:
        point = outcome.points[found.measured[units].selection]
        if goal.order(point) < goal.order(chosen) and task.keeps(point, found.base):
            doubtful, untried = found.is_doubtful(units), bool(set(task.slow) - point.tried)
            why["doubtful"] += doubtful
            why["untried"] += untried and not doubtful
    return why


def _figures(task: SearchTask, point: EditPoint, half: Half) -> dict[str, Any]:
    n = len(half.samples)
    return {
        "exact_match": point.exact_match,
        "exact_match_ci95": wilson(round(point.exact_match * n), n).as_list(),
        "recovered": dict(point.rates) if task.healing else point.known,
        "recovered_ci95": wilson(round(point.recovered * n), n).as_list(),
        "next_token_accuracy": point.next_token_accuracy,
        "heldout_loss": point.heldout_loss,
        "heldout_kl": point.heldout_kl,
        "healed_rise": point.healed_rise,
        "limits": [limit.model_dump(mode="json") for limit in _check_limits(task, point, n)],
    }


def _check_limits(task: SearchTask, point: EditPoint, n: int) -> list[Limit]:
    """Each limit whose attack was tried, on the passages that it counts. `n`: of the half."""
    limits, found = task.request.limits, []
    rates = {name: (rate, n) for name, rate in point.rates}
    for name, (value, counted) in (rates | {a: (rate, k) for a, rate, k in point.attacked}).items():
        if name in limits:
            ends = wilson(round(value * counted), counted).as_list() if counted else (0.0, 1.0)
            what = f"share of passages recovered by {name}"
            found.append(Limit.of_share(name, what, limits[name], value, ends, counted))
    return found


def _judge_held_back(task: SearchTask, outcome: SearchOutcome, point: EditPoint) -> State | None:
    """Whether a point of the held-back half keeps every limit there, and what it may cost."""
    base, n = outcome.base[1], len(task.halves[1].samples)
    if not task.keeps(point, base):
        return "missed"
    if limits := _check_limits(task, point, n):
        return settle(limit.state for limit in limits)
    interval = wilson(round(point.recovered * n), n).as_list()
    fewer = judge(point.recovered, interval, base.recovered, n)
    before, after = outcome.engines[1].measure([BASE, point.selection])  # both are known
    rise, windows = mean(after.heldout_nll - before.heldout_nll), len(before.heldout_nll)
    limit, enough = task.request.goal.limit, windows >= FEWEST
    return settle((fewer, judge(rise["mean"], rise["ci95"], limit, windows, enough=enough)))


def _describe_text(task: SearchTask) -> dict[str, Any]:
    """The passages and the held-out text of both halves."""
    samples, (here, back) = task.samples, task.halves
    return {
        "n": len(here.samples),
        "n_held_back": len(back.samples),
        "prefix_length": samples.prefix_length,
        "suffix_length": samples.suffix_length,
        "samples": {
            "source": samples.source,
            "sha256": samples.sha256,
            "ids": list(here.samples.ids),
            "held_back_ids": list(back.samples.ids),
        },
        "heldout": {
            name: {"windows": len(half.windows), "sha256": hash_row(half.windows)}
            for name, half in (("chosen_on", here), ("held_back", back))
        },
    }


def _record_fits(task: SearchTask, outcome: SearchOutcome) -> dict[str, Any] | None:
    """The text that the chosen edit was fitted on, and how well; None if it needs none."""
    if task.fitter is None or outcome.selected is None:
        return None
    fits = task.fitter.fit(outcome.selected[0].selection)
    return task.fitter.calibration.record(fits).model_dump(mode="json") if fits else None


def describe_question(task: SearchTask) -> dict[str, Any]:
    """Everything that the measured figures and the answer depend on."""
    fitter, text = task.fitter, task.healing
    guarded = text and [text.record_text().sha256, task.request.heal_steps, "guarded"]
    healing = {"healing": guarded} if guarded else {}
    sibling = {"sibling": task.sibling.identified.content} if task.sibling else {}
    return {
        **healing,
        **sibling,
        "model": task.loaded.identity,
        "dtype": task.loaded.provenance["dtype"],
        "samples": [task.samples.sha256, task.samples.prefix_length],
        "halves": [half.samples.sha256 for half in task.halves],  # counts and members deal them
        "heldout": hash_row(task.windows),
        "calibration": fitter and fitter.calibration.record({}).sha256,
        "batch_size": task.request.batch_size,
        **_describe_aim(task),
    }


def _describe_aim(task: SearchTask) -> dict[str, Any]:
    asked = task.request.model_dump(mode="json", include={"grain", "layout", "seed"})
    goal = "max_extraction" if task.request.max_loss_increase is None else "max_loss_increase"
    chosen = {
        "goal": {goal: task.request.goal.limit},
        "measure": task.measure.name,
        "max": task.others,
    }
    return {**asked, **chosen, "variants": list(task.variants)}


def make_plan(task: SearchTask, selection: Selection, result: Mapping[str, Any]) -> PlanFile:
    """Makes the file for `export --plan`. `result`: the search report that has `selection`."""
    kept = (
        "model", "goal", "measure", "seed", "base", "selected", "held_back", "calibration",
        "provenance",
    )  # fmt: skip
    found, (here, _) = task.loaded.found, task.halves
    return PlanFile(
        edits=list_edits(selection, task.loaded.dimensions.num_heads),
        layout=task.request.layout,
        model=EditedModel.of(found.identified, found.checkpoint.config),
        chosen=Choice(
            seed=task.request.seed,
            passages=here.samples.sha256,
            windows=hash_row(here.windows),
            met=result["selected"] is not None,
        ),
        provenance={"command": "search", **{key: result[key] for key in kept}},
    )


def explain_miss(result: Mapping[str, Any], folder: Path) -> MeasurementError:
    """The error if nothing meets the goal. `folder` holds the results."""
    base, front, measure = result["base"], result["front"], result["measure"]
    before = base["recovered"][measure]
    less = [edit for edit in front if edit["recovered"][measure] < before] or front
    best = less[-1] if "max_extraction" in result["goal"] else less[0]
    limits, left = dict(result["goal"]), f"{best['recovered'][measure]:.1%} recovered"
    if result["max"]:
        best = result["nearest"]
        limits |= {f"max {name}": most for name, most in result["max"].items()}
        left = ", ".join(f"{one['name']} {one['value']:.1%}" for one in best["limits"])
    rise = best["heldout_loss"] - base["heldout_loss"]
    return MeasurementError(
        f"none of the {result['evaluations']} edits measured meets it",
        where=", ".join(f"`{option}={limit:g}`" for option, limit in limits.items()),
        got=f"at best {best['spec']} {best['variant']}: {left} at {rise:+.3f} nats per token",
        fix=f"{folder} holds the front; relax the limit, or allow more variants, `grain=mixed`, or "
        "more `max_evaluations`",
    )
