"""Says what a mitigation will do, how long it takes, and what it needs.

One pass and one step of training are timed. All other times are counts of these. Memory is measured
(`evals.jobs.memory`).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from evals.choose.estimates import DRAWS, MOST_PASSAGES
from evals.choose.search.enforcing import TRIES
from evals.choose.search.opened import Healing, OpenedSearch, open_search
from evals.choose.search.run import FINALISTS
from evals.data import say_lengths
from evals.data.inputs import find_calibration_text
from evals.jobs.materials import Materials
from evals.jobs.memory import forecast_memory, forecast_outline
from evals.jobs.mitigating import MitigationRequest, OpenedMitigation
from evals.jobs.recipes import Recipe, fit_recipes
from evals.measure.attacks.foreseeing import BACK, count_rows, time_attack
from evals.measure.attacks.names import TRAINED, choose_attacks, find_attack, list_untried
from evals.measure.healing import find_healing_text
from evals.run.console import say, show_progress
from evals.run.groups import ERASE_STEPS, HEAL_STEPS
from evals.run.lm_eval.running import Benchmarks
from evals.run.predictions import Sampling
from evals.table.limits import describe_splits, say_split
from surgery.checkpoint.source import MANIFEST
from surgery.errors import SamplesError
from surgery.fitting.calibration import Calibration
from surgery.hub.embedded import find_lab
from surgery.hub.finding import lacks_weights
from surgery.processes import share_free_memory
from surgery.training.planning import USABLE
from surgery.variants import variant_of

FEW = 8
"""Passages of the pass that is timed, and documents of each benchmark."""


@dataclass(frozen=True)
class Pace:
    """Seconds: of a pass for each of its rows, of a step of training, of all attacks on a model,
    of all `documents` of its benchmarks, and of those with a limit."""

    row: float
    step: float
    attack: float
    benchmark: float
    documents: int
    limited: float
    limited_documents: int

    def estimate(self, request: MitigationRequest, recipe: Recipe) -> float:
        """The seconds of the last step of a recipe, and to measure its result."""
        hard = 3 if request.harden else 1
        steps = {
            "erase": hard * (request.erasing.steps or ERASE_STEPS),
            "heal": request.healing.steps or HEAL_STEPS,
        }
        return steps.get(recipe.steps[-1], 0) * self.step + self.attack + self.benchmark


def fit_budget(opened: OpenedMitigation) -> OpenedMitigation:
    """The same with the recipes that should fit into its budget, if it has one. Says which."""
    request, materials = opened.request, opened.materials
    if request.budget is None or materials is None:
        return opened
    attacks = list_attacks(request, materials)
    search, calibration, _ = _open_unfitted(request)
    with show_progress("time a pass and a step", None):
        pace = measure_pace(search, request, materials, attacks)
    begun = _count_steps(search, request, materials, attacks, calibration, pace, ())
    made = {one for one in opened.recipes if (opened.locate(one) / MANIFEST).is_file()}
    chosen = fit_recipes(
        opened.recipes,
        partial(pace.estimate, request),
        60 * request.budget - sum(step["seconds"] for step in begun),
        made,
    )
    named = ", ".join(recipe.name for recipe in chosen)
    say(f"{request.budget:g} minutes: tries {len(chosen)} of {len(opened.recipes)}: {named}")
    return replace(opened, recipes=chosen)


def list_attacks(request: MitigationRequest, materials: Materials) -> tuple[str, ...]:
    """Those of the evaluation. An audit of a trained model tries more."""
    attacks = materials.request.attack_names
    return choose_attacks((*attacks, *TRAINED)) if request.trains else attacks


def _open_unfitted(
    request: MitigationRequest,
) -> tuple[OpenedSearch, Calibration | None, tuple[str, ...]]:
    """The search with variants that need no text, the text for the others, and all variants."""
    fits = bool(request.texts.calibration) or find_lab(request.model) is not None
    variants = request.choice.list_variants(fits=fits)
    text = find_calibration_text(request.texts.calibration, request.model, variants)
    plain = [name for name in variants if not variant_of(name).fitted]
    asked = request.search_request
    search = open_search(asked.change(variant=tuple(plain or ["zero"]), calibration=()))
    loaded = search.loaded
    return search, text.tokenize(loaded.tokenizer, loaded.dimensions) if text else None, variants


def measure_pace(
    search: OpenedSearch,
    request: MitigationRequest,
    materials: Materials,
    attacks: tuple[str, ...],
) -> Pace:
    """Times one pass, one step of training, and a few documents of each benchmark."""
    row, members = _time_row(search), int(search.samples.trained_on.sum())
    sizes, draws = (members, len(search.windows)), request.attacks.draws
    every = [time_attack(find_attack(name), sizes, row, draws) for name in attacks]
    benchmarks = [materials.benchmarks, search.benchmarks]
    timed = [_time_tasks(search, some) if some else (0, 0.0) for some in benchmarks]
    (documents, benchmark), (limited_documents, limited) = timed
    step = _time_training(search, request) if request.trains else 0.0
    return Pace(row, step, sum(every), benchmark, documents, limited, limited_documents)


def forecast(opened: OpenedMitigation) -> dict[str, Any]:
    """Times one pass and one step of training, and counts them. Writes nothing.

    Returns `inputs` ([{`name`, `what`}]), `steps` ([{`name`, `what`, `seconds`}]), `seconds`,
    `disk` {`needed`, `free`} in bytes, and `memory`, as `forecast_memory` does; for a folder
    without weights, only `inputs` and `memory`.
    """
    request, materials = opened.request, opened.materials
    if lacks_weights(request.model):
        return forecast_outline(request)
    assert materials is not None
    attacks = list_attacks(request, materials)
    search, calibration, variants = _open_unfitted(request)
    loaded = search.loaded
    with show_progress("time a pass and a step", None):
        pace, recipes = measure_pace(search, request, materials, attacks), opened.recipes
        given = search, request, materials, attacks, calibration, pace, recipes
        steps = list(_count_steps(*given))
    free = int(USABLE * share_free_memory(loaded.model.device))
    with show_progress("plan memory", None):
        memory = forecast_memory(
            loaded.model, request, attacks, search.guarded_passages, {"this machine": free}
        )
    size = len(opened.recipes) * loaded.found.inventory.nbytes
    folder = next(path for path in opened.output.absolute().parents if path.exists())
    return {
        "inputs": list(_describe_inputs(search, materials, attacks, calibration, variants)),
        "steps": steps,
        "seconds": sum(step["seconds"] for step in steps),
        "disk": {"needed": size, "free": shutil.disk_usage(folder).free},
        "memory": memory,
    }


def _describe_inputs(
    opened: OpenedSearch,
    materials: Materials,
    attacks: tuple[str, ...],
    calibration: Any,
    variants: tuple[str, ...],
) -> Iterator[dict[str, str]]:
    size, loaded, samples = opened.loaded.dimensions, opened.loaded, opened.samples
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    (split,) = describe_splits(samples, [opened.request.choice.choose], opened.request.choice.seed)
    found = {
        "model": f"{loaded.name}: {loaded.family.model_type}, {size.num_blocks} blocks of "
        f"{size.num_heads} heads, {parameters:,} parameters, {loaded.dtype} on "
        f"{loaded.model.device}",
        "passages": f"{len(samples):,} from {samples.source}: "
        f"{say_lengths(samples.prefix_length, samples.suffix_length, samples.secrets)}; "
        f"{say_split(split)}",
        "held-out text": f"{len(opened.windows):,} windows of {opened.windows.shape[1]} tokens",
        "calibration": f"{calibration.windows.size:,} tokens" if calibration else "none needed",
        "variants": ", ".join(variants),
        "attacks": ", ".join(attacks),
        "limits": "; ".join(opened.foresee()),
        "not tried": ", ".join(list_untried(attacks)) or "none",
        "benchmarks": ", ".join(materials.benchmarks.tasks) if materials.benchmarks else "none",
    }
    return ({"name": name, "what": what} for name, what in found.items())


def _count_steps(
    search: OpenedSearch,
    request: MitigationRequest,
    materials: Materials,
    attacks: tuple[str, ...],
    calibration: Any,
    pace: Pace,
    recipes: Sequence[Recipe],
) -> Iterator[dict[str, Any]]:
    """Every step, and its seconds."""
    row = pace.row
    length = search.samples.tokens.shape[1]
    if calibration is not None:
        rows = calibration.windows.size / length
        yield _step("calibrate", f"fit on {calibration.windows.size:,} tokens", BACK * rows * row)
    half, members = search.halves[0], int(search.samples.trained_on.sum())
    most, healing = request.choice.max_evaluations, request.healing.steps or HEAL_STEPS
    rows, what = len(half) * most, f"at most {most} edits"
    if not search.exhaustive:
        chosen = min(int(half.samples.trained_on.sum()), MOST_PASSAGES)
        passes = chosen * (1 + search.samples.suffix_length) + len(half.windows) * (1 + DRAWS)
        rows += BACK * passes
    yield _step("search", f"measure {what}, by {search.measure.name}", rows * row)
    if (short := _find_short_healing(search)) is not None:
        most = FINALISTS + 2  # with the deep blocks, and those to compare with
        what = f"heal at most {most} edits, {short.schedule.steps} steps each, and choose one"
        seconds = _time_training(search, request, short.text)
        yield _step("judge", what, most * short.schedule.steps * seconds)
    healed, taught = (
        len([r for r in recipes if r.steps[-1] == kind]) for kind in ("heal", "erase")
    )
    if search.slow:
        sizes = len(half.samples), len(half.windows)
        limited = sum(count_rows(name, *sizes, of=members) for name in search.slow)
        tries = TRIES + 5  # with the base, deep blocks, and the choice on both halves
        seconds = tries * limited * row + (TRIES * healing * pace.step if request.heal else 0)
        names = ", ".join(search.slow)
        yield _step("limits", f"attack at most {TRIES} edits by {names}", seconds)
    if search.benchmarks is not None:
        what = f"measure at most {TRIES} edits on {pace.limited_documents:,} documents"
        yield _step("benchmark limits", what, (TRIES + 2) * pace.limited)
    if taught:
        hard, erasing = 3 if request.harden else 1, request.erasing.steps or ERASE_STEPS
        what = f"teach {taught} of the results, {erasing} steps each"
        yield _step("erase", what, taught * hard * erasing * pace.step)
    if healed:
        what = f"train {healed} of the results, {healing} steps each"
        yield _step("heal", what, healed * healing * pace.step)
    measured = 1 + bool(request.attacks.twin) + len(recipes)
    what = f"{len(attacks)} attacks on {members:,} passages, {measured} models"
    yield _step("attack", what, measured * pace.attack)
    if (benchmarks := materials.benchmarks) is not None:
        what = f"{pace.documents:,} documents of {len(benchmarks.tasks)} tasks, {measured} models"
        yield _step("benchmark", what, measured * pace.benchmark)


def _step(name: str, what: str, seconds: float) -> dict[str, Any]:
    return {"name": name, "what": what, "seconds": seconds}


def _take(run: Callable[[], Any]) -> float:
    """The seconds that it takes."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _time_row(opened: OpenedSearch) -> float:
    """Seconds of a pass for each of its rows. The first pass is slower, and not timed."""
    from evals.measure.memorization.extraction import run_pass

    rows = opened.samples.spread(opened.samples.trained_on, 4 * FEW)

    def read() -> object:
        tokens, prefix = rows.tokens, rows.prefix_length
        return run_pass(opened.loaded.model, tokens, prefix, sampling=Sampling())

    read()
    return _take(read) / len(rows)


def _find_short_healing(opened: OpenedSearch) -> Healing | None:
    """How edits are healed before one is chosen; None if they are not, or as they are anyway."""
    if opened.healing is not None or not opened.request.choice.judge_steps:
        return None
    try:
        return opened.short_healing[0]
    except SamplesError:
        return None


def _time_training(
    opened: OpenedSearch, request: MitigationRequest, tokens: Calibration | None = None
) -> float:
    """Seconds of one step of training. `tokens`: other text than the request's, and no
    passages."""
    from surgery.training.distillation import teach
    from surgery.training.losses import Divergence
    from surgery.training.training import Schedule

    passages = opened.guarded_passages if tokens is None else None
    if tokens is None:
        text = find_healing_text(request.heal or request.erase_text)
        tokens = Schedule(1).tokenize(text, opened.loaded.tokenizer, opened.loaded.dimensions)
    model, schedule = opened.loaded.model, Schedule(1, rank=request.healing.adapters)
    loss = Divergence(model)
    return _take(lambda: teach(model, model, loss, tokens, passages, schedule))


def _time_tasks(opened: OpenedSearch, benchmarks: Benchmarks) -> tuple[int, float]:
    """Times each task on a few documents. Returns how many all have, and the seconds of a model."""
    seconds, documents, loaded = 0.0, 0, opened.loaded
    for name, task in benchmarks.tasks.items():
        number, limit = len(task.eval_docs), benchmarks.limit or len(task.eval_docs)
        number = min(number, math.ceil(limit if limit >= 1 else limit * number))
        few = replace(benchmarks, limit=min(FEW, number))
        size = opened.request.run.batch_size or few.batch_size(name, loaded)
        took = _take(partial(few.run, name, loaded, batch_size=size))
        seconds += took * number / min(FEW, number)
        documents += number
    return documents, seconds
