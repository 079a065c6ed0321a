"""What a search found, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.samples import row_hash
from evals.search.front import Point
from evals.search.run import Chosen, Task
from evals.statistics import wilson
from surgery.errors import MeasurementError
from surgery.fitting.fitter import Fitter
from surgery.record.manifest import versions
from surgery.record.plan_file import PlanFile, PlannedModel
from surgery.selection import Selection, blocks_of, format_selection, variant_name


def search_report(task: Task, chosen: Chosen, fitter: Fitter | None) -> dict[str, Any]:
    """The JSON object of `search --json`, but for the path of the plan.

    `held_back_meets_goal` tells whether the choice meets the goal on the half it was not made on.
    It, `selected` and `held_back` are None where nothing meets the goal, `paper_recipe` where the
    model cannot be edited so. Figures on samples are over members, where membership is known.
    """
    loaded, samples, (here, back) = task.loaded, task.samples, task.halves
    base, recipe, selected = chosen.base, chosen.recipe, chosen.selected
    heads, n, m = task.dimensions.num_heads, len(here.samples), len(back.samples)
    return {
        "model": loaded.name,
        "family": loaded.family.model_type,
        "num_blocks": task.dimensions.num_blocks,
        "num_heads": heads,
        "grain": task.grain,
        "variants": list(task.variants),
        "layout": task.layout,
        "goal": task.goal.asked,
        "seed": task.seed,
        "n": n,
        "n_held_back": m,
        "prefix_length": samples.prefix_length,
        "suffix_length": samples.suffix_length,
        "base": {**figures(base.chosen_on, n), "held_back": figures(base.held_back, m)},
        "paper_recipe": recipe
        and {
            **edit_record(recipe.chosen_on, heads, n),
            "held_back": figures(recipe.held_back, m),
        },
        "selected": selected and edit_record(selected.chosen_on, heads, n),
        "held_back": selected and figures(selected.held_back, m),
        "held_back_meets_goal": selected and task.goal.met(selected.held_back, base.held_back),
        "front": [edit_record(point, heads, n) for point in chosen.found.front],
        "evaluations": len(chosen.found.points),
        "exhaustive": chosen.found.exhaustive,
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
        "warnings": list(task.offered[1]),
        "provenance": {
            "model": {
                **loaded.provenance,
                "batch_size": chosen.batch_size,
            },
            "versions": versions(),
        },
    }


def plan_of(task: Task, chosen: Chosen, result: dict[str, Any]) -> PlanFile | None:
    """What `export --plan` takes; None where nothing meets the goal."""
    if chosen.selected is None:
        return None
    kept = ("model", "goal", "seed", "base", "selected", "held_back", "calibration", "provenance")
    layout: Any = task.layout
    loaded = task.loaded
    return PlanFile.of(
        chosen.selected.chosen_on.selection,
        task.dimensions.num_heads,
        layout=layout,
        model=PlannedModel.of(loaded.found.identified, loaded.found.checkpoint.config),
        provenance={"command": "search", **{key: result[key] for key in kept}},
    )


def missed(result: Mapping[str, Any], folder: Path) -> MeasurementError:
    """What to say where nothing meets the goal. `folder` holds what was found."""
    base, front = result["base"], result["front"]
    less = [edit for edit in front if edit["exact_match"] < base["exact_match"]] or front
    best = less[-1] if "max_extraction" in result["goal"] else less[0]
    rise = best["heldout_loss"] - base["heldout_loss"]
    ((option, limit),) = result["goal"].items()
    return MeasurementError(
        f"none of the {result['evaluations']} edits measured meets it",
        where=f"`{option}={limit:g}`",
        got=f"at best {best['spec']} {best['variant']}: {best['exact_match']:.1%} recited at "
        f"{rise:+.3f} nats per token",
        fix=f"{folder} holds the front; ask for less, or allow more variants, `grain=heads`, or "
        "more `max_evaluations`",
    )


def edit_record(point: Point, num_heads: int, n: int) -> dict[str, Any]:
    """An edit and its figures. `heads` is there only where not all are whole blocks, `parts` only
    where variants are mixed; `spec` names blocks and heads as they are typed."""
    selection = point.selection
    variant = variant_name(selection)
    record: dict[str, Any] = {
        "spec": format_selection(selection, num_heads),
        "blocks": list(blocks_of(selection)),
        "variant": variant,
    }
    heads = _heads(selection)
    if any(len(some) < num_heads for some in heads.values()):
        record["heads"] = heads
    if variant == "mixed":
        record["parts"] = [asdict(part) for part in selection]
    return {**record, **figures(point, n)}


def figures(point: Point, n: int) -> dict[str, Any]:
    """Means over `n` passages and over held-out windows, losses in nats per token."""
    count = round(point.exact_match * n)
    return {
        "exact_match": point.exact_match,
        "exact_match_ci95": wilson(count, n).as_list(),
        "memorization_score": point.memorization_score,
        "heldout_loss": point.heldout_loss,
        "heldout_kl": point.heldout_kl,
    }


def _heads(selection: Selection) -> dict[str, list[int]]:
    heads: dict[str, list[int]] = {}
    for part in selection:
        heads.setdefault(str(part.block), []).extend(part.heads)
    return {block: sorted(some) for block, some in heads.items()}


def _calibration(chosen: Chosen, fitter: Fitter | None) -> dict[str, Any] | None:
    """The text that the chosen edit was fitted on, and how well; None where it needs none."""
    if fitter is None or chosen.selected is None:
        return None
    fits = fitter.fits(chosen.selected.chosen_on.selection)
    return fitter.calibration.record(fits).model_dump(mode="json") if fits else None
