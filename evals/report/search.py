"""The result of a search: its JSON object, the plan to export, and a picture of the front."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.choose.search.opened import OpenedSearch
from evals.choose.search.points import EditPoint, pareto_front, point_as_json
from evals.choose.search.request import SearchRequest
from evals.choose.search.run import SearchOutcome
from evals.data import hash_row
from evals.data.held_back import Half
from evals.measure.attacks.names import hash_code, is_own
from evals.measure.edits.engine import BASE, edit_record
from evals.measure.verdicts import OK, check_share, find_void, judge, settle
from evals.report.charts.chart import Chart
from evals.report.charts.front import FrontPanel, draw_front
from evals.report.charts.panels import Point, Series
from evals.report.model_map import make_map
from evals.run.statistics import FEWEST, bound_share, mean, rate_count, wilson
from surgery import own_code
from surgery.errors import MeasurementError
from surgery.record.manifest import Choice, EditedModel, list_versions
from surgery.record.plan_file import PlanFile, list_edits
from surgery.record.report import Limit, ModelMap, State
from surgery.selection import Selection


def make_search_report(opened: OpenedSearch, outcome: SearchOutcome) -> dict[str, Any]:
    """The JSON object of `search --json`, without the path of the plan. Figures are of members."""
    loaded = opened.loaded
    return {
        "model": loaded.name,
        "family": loaded.family.model_type,
        "num_blocks": opened.loaded.dimensions.num_blocks,
        "num_heads": opened.loaded.dimensions.num_heads,
        **_describe_aim(opened),
        "max_evaluations": opened.request.max_evaluations,
        **_describe_choice(opened, outcome),
        "evaluations": outcome.found.evaluations,
        "exhaustive": opened.exhaustive,
        "units": {
            "offered": len(opened.offered),
            "estimated": len(opened.offered) if outcome.found.estimates else 0,
            "measured": len(frozenset[int]().union(*outcome.found.measured)),
        },
        **_describe_text(opened),
        "calibration": _record_fits(opened, outcome),
        "question": describe_question(opened),
        "map": (found := make_search_map(opened, outcome)) and found.model_dump(mode="json"),
        "measured": [point_as_json(point) for point in outcome.found.measured.values()],
        "warnings": list(opened.warnings),
        "provenance": {
            "model": {**loaded.provenance, "batch_size": outcome.engines[0].batch_size},
            "versions": list_versions(),
        },
    }


def make_search_map(opened: OpenedSearch, outcome: SearchOutcome) -> ModelMap | None:
    """What each unit offered is worth and costs: as estimated, or as measured without estimates."""
    estimates, base, size = outcome.found.estimates, outcome.base[0], opened.loaded.dimensions
    if estimates is not None:
        found = {unit: estimates.predict_one((unit,)) for unit in estimates.units}
        units = {unit: (one["margin"], one["kl"]) for unit, one in found.items()}
    else:
        units = {
            point.selection[0]: (100 * (base.recovered - point.recovered), point.heldout_kl)
            for point in outcome.found.measured.values()
            if len(point.selection) == 1 and point.selection[0] in opened.offered
        }
    return make_map(units, size.num_blocks, size.num_heads, measured=estimates is None)


def _describe_choice(opened: OpenedSearch, outcome: SearchOutcome) -> dict[str, Any]:
    """The choice, the unedited model, and the deepest blocks, on both halves.

    `held_back_state`: whether the choice keeps every limit on the half it was not made on, as
    `held_back_meets_goal` says, too: true, false, or None if that half cannot decide it. They,
    `selected`, and `held_back` are None if nothing meets the goal; `deep_blocks`, if the model
    cannot hold it.
    """
    here, back = opened.halves
    (base, base_back), deep, selected = outcome.base, outcome.deep_blocks, outcome.selected

    def record(point: EditPoint) -> dict[str, Any]:
        named = edit_record(point.selection, opened.loaded.dimensions.num_heads)
        return {**named, **_figures(opened, outcome, (point, base), here)}

    state = _judge_held_back(opened, outcome, selected[1]) if selected else None
    front = pareto_front(outcome.points.values(), opened.request.goal.cost)
    return {
        "base": {
            **_figures(opened, outcome, (base, base), here),
            "held_back": _figures(opened, outcome, (base_back, base_back), back),
        },
        "deep_blocks": deep
        and {
            **record(deep[0]),
            "held_back": _figures(opened, outcome, (deep[1], base_back), back),
            "meets_goal": opened.keeps(deep[0], base),
            "offered": opened.find_units(deep[0].selection) is not None,
        },
        "selected": selected and record(selected[0]),
        "held_back": selected and _figures(opened, outcome, (selected[1], base_back), back),
        "held_back_meets_goal": OK.get(state),
        "held_back_state": state,
        "passed_over": selected and _count_better(opened, outcome),
        "front": [record(point) for point in front],
        "nearest": None if selected else record(outcome.points[outcome.best]),
    }


def _count_better(opened: OpenedSearch, outcome: SearchOutcome) -> dict[str, int]:
    """How many measured edits beat the choice and exceed no limit that was measured, and why they
    are not the choice: `doubtful`, as they may miss the goal on other passages; `untried`, as an
    attack would bring back too much, by the edits that were attacked."""
    assert outcome.selected is not None
    found, goal, chosen = outcome.found, opened.request.goal, outcome.selected[0]
    why = {"doubtful": 0, "untried": 0}
    for units in found.measured:
        point = outcome.points[found.measured[units].selection]
        if goal.order(point) < goal.order(chosen) and opened.keeps(point, found.base):
            doubtful, untried = found.is_doubtful(units), bool(set(opened.late) - point.tried)
            why["doubtful"] += doubtful
            why["untried"] += untried and not doubtful
    return why


def _figures(
    opened: OpenedSearch, outcome: SearchOutcome, points: tuple[EditPoint, EditPoint], half: Half
) -> dict[str, Any]:
    """`points`: of the edit, and of the base on the same half."""
    (point, base), n = points, len(half.samples)
    limits = _check_limits(opened, outcome, (point, base), n)
    return {
        "exact_match": point.exact_match,
        "exact_match_ci95": wilson(round(point.exact_match * n), n).as_list(),
        "recovered": dict(point.rates) if opened.healing else point.known,
        "recovered_ci95": wilson(round(point.recovered * n), n).as_list(),
        "next_token_accuracy": point.next_token_accuracy,
        "heldout_loss": point.heldout_loss,
        "heldout_kl": point.heldout_kl,
        "costs": {"kl": point.heldout_kl, **dict(point.costs)},
        "worst": point.worst[0],
        "cost": opened.request.goal.price(point),
        "healed_rise": point.healed_rise,
        "limits": [limit.model_dump(mode="json") for limit in limits],
    }


def _check_limits(
    opened: OpenedSearch, outcome: SearchOutcome, points: tuple[EditPoint, EditPoint], n: int
) -> list[Limit]:
    """Each limit whose attack was tried, on the passages that it counts. `points`: of the edit, and
    of the base on the same half; `n`: of the half.

    With healing, what the cut gives before it is healed says nothing about a limit.
    """
    point, base = points
    limits, found = opened.request.limits, []
    before, rise = base.heldout_loss, point.healed_rise
    after = point.heldout_loss if rise is None else before + rise
    void = find_void(opened.loaded.dimensions.vocabulary, (before, after))
    rates = {} if opened.healing else {name: (rate, n) for name, rate in point.rates}
    for name, (value, counted) in (rates | {a: (rate, k) for a, rate, k in point.attacked}).items():
        if name in limits:
            share = {**rate_count(round(value * counted), counted), "n": counted}
            known: Any = {"base": base.known.get(name), "unclear": void or outcome.doubts.get(name)}
            what = f"share of passages recovered by {name}"
            found.append(check_share(name, what, limits[name], share, **known))
    return [*found, *point.drops]


def _judge_held_back(
    opened: OpenedSearch, outcome: SearchOutcome, point: EditPoint
) -> State | None:
    """Whether a point of the held-back passages keeps every limit there, and what it may cost.

    With healing, the limits are those of the healed edit, whatever the cut leaves.
    """
    base, n = outcome.base[1], len(opened.halves[1].samples)
    if opened.healing is None and not opened.keeps(point, base):
        return "missed"
    if limits := _check_limits(opened, outcome, (point, base), n):
        return settle(limit.state for limit in limits)
    most = bound_share(round(point.recovered * n), n)
    fewer = judge(point.recovered, most, base.recovered, n)
    before, after = outcome.engines[1].measure([BASE, point.selection])  # both are known
    rise, windows = mean(after.heldout_nll - before.heldout_nll), len(before.heldout_nll)
    limit, enough = opened.request.goal.limit, windows >= FEWEST
    return settle((fewer, judge(rise["mean"], rise["ci95"][1], limit, windows, enough=enough)))


def _describe_text(opened: OpenedSearch) -> dict[str, Any]:
    """The passages and the held-out text of both halves."""
    samples, (here, back) = opened.samples, opened.halves
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


def _record_fits(opened: OpenedSearch, outcome: SearchOutcome) -> dict[str, Any] | None:
    """The text that the chosen edit was fitted on, and how well; None if it needs none."""
    if opened.fitter is None or outcome.selected is None:
        return None
    fits = opened.fitter.fit(outcome.selected[0].selection)
    return opened.fitter.calibration.record(fits).model_dump(mode="json") if fits else None


def describe_question(opened: OpenedSearch) -> dict[str, Any]:
    """Everything that the measured figures and the answer depend on."""
    fitter, text = opened.fitter, opened.healing
    guarded = text and [text.record_text().sha256, opened.request.heal_steps, "guarded"]
    if guarded and opened.request.adapters:
        guarded.append(opened.request.adapters)
    healing = {"healing": guarded} if guarded else {}
    sibling = {"sibling": opened.sibling.identified.content} if opened.sibling else {}
    own = {name: hash_code(name) for name in opened.slow if is_own(name)}
    made = {name: own_code.hash_code(name) for name in opened.variants if own_code.is_path(name)}
    return {
        **healing,
        **sibling,
        **({"own_attacks": own} if own else {}),
        **({"own_variants": made} if made else {}),
        **({"tasks": _identify_tasks(opened)} if opened.benchmarks else {}),
        "model": opened.loaded.identity,
        "dtype": opened.loaded.dtype,
        "device": opened.loaded.device,
        "samples": [opened.samples.sha256, opened.samples.prefix_length],
        "halves": [half.samples.sha256 for half in opened.halves],  # counts and members deal them
        "heldout": hash_row(opened.windows),
        "calibration": fitter and fitter.calibration.record({}).sha256,
        "batch_size": opened.request.batch_size,
        "versions": list_versions(),
        **_describe_aim(opened),
    }


def _identify_tasks(opened: OpenedSearch) -> dict[str, Any]:
    assert opened.benchmarks is not None
    return opened.benchmarks.identify(dict.fromkeys(opened.tasks, opened.request.batch_size or 0))


def _describe_aim(opened: OpenedSearch) -> dict[str, Any]:
    asked = opened.request.model_dump(mode="json", include={"grain", "layout", "seed"})
    goal = "max_extraction" if opened.request.max_loss_increase is None else "max_loss_increase"
    chosen = {
        "goal": {goal: opened.request.goal.limit},
        "measure": opened.measure.name,
        "max": opened.attack_limits,
        "max_drop": opened.drop_limits,
        "cost_by": opened.request.cost,
    }
    return {**asked, **chosen, "variants": list(opened.variants)}


def make_plan(opened: OpenedSearch, selection: Selection, result: Mapping[str, Any]) -> PlanFile:
    """Makes the file for `export --plan`. `result`: the search report that has `selection`."""
    kept = (
        "model", "goal", "measure", "seed", "base", "selected", "held_back", "calibration",
        "provenance",
    )  # fmt: skip
    found, (here, _) = opened.loaded.found, opened.halves
    return PlanFile(
        edits=list_edits(selection, opened.loaded.dimensions.num_heads),
        layout=opened.request.layout,
        model=EditedModel.of(found.identified, found.checkpoint.config),
        chosen=Choice(
            seed=opened.request.seed,
            share=opened.request.choose,
            passages=here.samples.sha256,
            windows=hash_row(here.windows),
            met=result["selected"] is not None,
        ),
        provenance={"command": "search", **{key: result[key] for key in kept}},
    )


def explain_miss(
    result: Mapping[str, Any], request: SearchRequest, folder: Path
) -> MeasurementError:
    """The error if nothing meets the goal. `folder` holds the results."""
    base, front, measure = result["base"], result["front"], result["measure"]
    before = base["recovered"][measure]
    less = [edit for edit in front if edit["recovered"][measure] < before] or front
    best = less[-1] if "max_extraction" in result["goal"] else less[0]
    limits = dict(result["goal"])
    if limits and request.max_extraction is None and request.max_loss_increase is None:
        limits = {f"max={measure}": most for most in limits.values()}
    left = f"{best['recovered'][measure]:.1%} recovered"
    if result["max"] or result["max_drop"]:
        best = result["nearest"]
        for word in ("max", "max_drop"):
            limits |= {f"{word}={name}": most for name, most in result[word].items()}
        if best["limits"]:
            left = ", ".join(f"{one['name']} {one['value']:.1%}" for one in best["limits"])
        else:  # no edit was worth healing
            left = f"{best['recovered'][measure]:.1%} recovered before it is healed"
    rise = best["heldout_loss"] - base["heldout_loss"]
    grain = "" if request.grain == "mixed" else "`grain=mixed`, "
    return MeasurementError(
        f"none of the {result['evaluations']} edits measured meets it",
        where=", ".join(f"`{option}={limit:g}`" for option, limit in limits.items()),
        got=f"at best {best['spec']} {best['variant']}: {left} at {rise:+.3f} nats per token",
        fix=f"search.json in {folder} lists the best edits; relax the limit, or allow more "
        f"variants, {grain}or more `max_evaluations`",
    )


def chart_search(result: Mapping[str, Any]) -> Chart:
    """The Pareto front of a search.

    Beside it are the chosen edit, if there is one, and that of the deepest blocks: filled as
    measured on the half that was searched, hollow on the half that was held back. The cost is the
    goal's: with a limit on passages that of `--cost`, else the rise of held-out loss.
    """
    base, measure = result["base"], result["measure"]
    limited = "max_extraction" in result["goal"]

    def place(edit: Mapping[str, Any], before: Mapping[str, Any]) -> Point:
        rise = edit["heldout_loss"] - before["heldout_loss"]
        return Point(edit["cost"] if limited else rise, 100 * edit["recovered"][measure])

    found: dict[str, list[Point]] = {}
    for edit in result["front"]:
        found.setdefault(edit["variant"], []).append(place(edit, base))
    front = [Series("unedited", [Point(0.0, 100 * base["recovered"][measure])], "base")]
    front += [Series(f"Pareto front, {name}", points, name) for name, points in found.items()]
    series = []
    for name, key in (("deep blocks", "deep_blocks"), ("chosen", "selected")):
        edit = result[key]
        if edit is not None:
            back = edit["held_back"] if key == "deep_blocks" else result["held_back"]
            spec = edit["spec"] if len(edit["spec"]) <= 24 else edit["spec"][:23] + "…"
            there = place(back, base["held_back"])
            series.append(Series(f"{name}, on the other half", [there], name, hollow=True))
            series.append(Series(f"{name}: {spec}", [place(edit, base)], name))
    (limit,) = result["goal"].values()
    by_kl = "KL divergence" if result["cost_by"] == "kl" else "cost"
    cost = f"{by_kl} on held-out text" if limited else "rise of held-out loss"
    what = "recited word for word" if measure == "greedy" else f"recovered ({measure})"
    panel = FrontPanel(
        f"{cost}, nats per token",
        f"{what}, %",
        series,
        front=front,
        limit=("y", 100 * limit) if limited else ("x", limit),
    )
    names, grain = ", ".join(result["variants"]), result["grain"]
    where = "blocks and heads" if grain == "mixed" else grain
    title = f"{result['model']}, search over {where} ({names}), n = {result['n']}"
    return draw_front(title, [[panel]])
