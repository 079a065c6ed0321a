"""Says what a mitigation will do, how long it takes, and what it needs: times each step on a small
part, and measures the memory of all of it."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from evals.choose.search.deepening import TRIES
from evals.choose.search.estimates import DRAWS, MOST_PASSAGES, estimate_units
from evals.choose.search.opened import OpenedSearch, open_search
from evals.choose.search.units import held_in_stock
from evals.data import say_lengths
from evals.data.held_back import Half
from evals.data.inputs import find_calibration_text
from evals.jobs.materials import Materials, open_materials
from evals.jobs.memory import forecast_memory, forecast_outline
from evals.jobs.mitigating import (
    MitigationRequest,
    check_texts,
    find_job,
    find_page_browser,
)
from evals.measure.attacks.draws import count_draws
from evals.measure.attacks.names import TRAINED, choose_attacks, find_attack, list_untried
from evals.measure.attacks.trying import AttackPlan, try_attacks
from evals.measure.edits.engine import Engine
from evals.measure.healing import find_healing_text
from evals.run.console import show_progress
from evals.run.lm_eval.running import Benchmarks
from evals.run.models import LoadedModel
from evals.table.limits import describe_splits, say_split
from surgery.fitting.calibration import ROWS as WINDOWS
from surgery.fitting.fitter import Fitter
from surgery.hub.embedded import find_lab
from surgery.hub.finding import lacks_weights
from surgery.memory import measure_free_memory
from surgery.training.planning import USABLE
from surgery.variants import variant_of

FEW, MORE = 8, 128
"""Passages, windows, documents, and edits that each step is timed on; passages, where all attacks
on the first take less than `FAST` seconds."""
FAST = 10.0
_MEGABYTES = 32 << 20
_READS = 6  # how often a checkpoint goes through memory: hashes, the copy, and the proofs


def forecast(
    request: MitigationRequest, output: Path, *, overwrite: bool = False, pdf: bool = False
) -> dict[str, Any]:
    """Opens every input, the model first, and times each step. Writes nothing.

    Returns `inputs` ([{`name`, `what`}]), `steps` ([{`name`, `what`, `seconds`}]), `seconds`,
    `disk` {`needed`, `free`} in bytes, and `memory`, as `forecast_memory` does; for a folder
    without weights, only `inputs` and `memory`. Raises as `mitigate`.
    """
    job = find_job(request, output, overwrite=overwrite)
    if pdf:
        find_page_browser(job.page, overwrite)
    if lacks_weights(request.model):
        return forecast_outline(request)
    models = [(request.model, request.revision)]
    materials = open_materials(request.evaluation_request, models)
    check_texts(request, materials)
    if request.heal or request.erase:  # an audit of a trained model tries more
        attacks = choose_attacks((*materials.request.attacks, *TRAINED))
        asked = materials.request.model_copy(update={"attack": attacks})
        materials = replace(materials, request=asked)
    fits = bool(request.calibration) or find_lab(request.model) is not None
    variants = request.list_variants(fits=fits)
    text = find_calibration_text(request.calibration, request.model, variants)
    plain = [name for name in variants if not variant_of(name).fitted]
    unfitted = request.search_request.model_copy(
        update={"variant": tuple(plain or ["zero"]), "calibration": ()}
    )
    opened = open_search(unfitted)
    calibration = text.tokenize(opened.loaded.tokenizer, opened.loaded.dimensions) if text else None
    with show_progress("time every step", None):
        steps = [_time_search(opened, variants), _time_export(opened)]
        if calibration is not None:
            steps.insert(0, _time_calibration(opened, calibration, variants))
        healed = 0.0
        trained = list(_time_training(opened, request))
        if request.heal:
            healed = trained[-1]["seconds"] / sum("heal" in name for name in request.list_results())
        if opened.slow:
            steps.insert(-1, _time_limits(opened, healed))
        if opened.benchmarks is not None:
            steps.insert(-1, _time_drops(opened, opened.benchmarks))
        measured = 1 + bool(request.twin) + len(request.list_results())
        steps += [*trained, *_time_evaluation(opened, materials, measured)]
    free = int(USABLE * measure_free_memory(opened.loaded.model.device))
    with show_progress("plan memory", None):
        given = opened.loaded.model, request, materials.request.attacks, opened.guard
        memory = forecast_memory(*given, {"this machine": free})
    folders = len(request.list_results()) + bool(request.heal)  # a cut that is healed, too
    size = folders * opened.loaded.found.inventory.nbytes
    folder = next(one for one in output.absolute().parents if one.exists())
    return {
        "inputs": list(_describe_inputs(opened, materials, calibration, variants)),
        "steps": steps,
        "seconds": sum(step["seconds"] for step in steps),
        "disk": {"needed": size, "free": shutil.disk_usage(folder).free},
        "memory": memory,
    }


def _describe_inputs(
    opened: OpenedSearch, materials: Materials, calibration: Any, variants: tuple[str, ...]
) -> Iterator[dict[str, str]]:
    size, loaded, samples = opened.loaded.dimensions, opened.loaded, opened.samples
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    (split,) = describe_splits(samples, [opened.request.choose], opened.request.seed)
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
        "attacks": ", ".join(materials.request.attacks),
        "limits": "; ".join(opened.foresee()),
        "not tried": ", ".join(list_untried(materials.request.attacks)) or "none",
        "benchmarks": ", ".join(materials.benchmarks.tasks) if materials.benchmarks else "none",
    }
    return ({"name": name, "what": what} for name, what in found.items())


def _take(run: Callable[[], Any]) -> float:
    """The seconds that it takes."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _step(name: str, what: str, seconds: float) -> dict[str, Any]:
    return {"name": name, "what": what, "seconds": seconds}


def _time_calibration(
    opened: OpenedSearch, calibration: Any, variants: tuple[str, ...]
) -> dict[str, Any]:
    """Fits every block on one batch."""
    part = replace(calibration, windows=calibration.windows[:WINDOWS])
    fitted = {name for name in variants if variant_of(name).fitted}
    number = opened.loaded.dimensions.num_blocks
    fitter = Fitter(opened.loaded.model, part, editable=opened.loaded.editable)
    seconds = _take(lambda: fitter.fit_alone(range(number), fitted))
    what = f"fit {' and '.join(sorted(fitted))} for {number} blocks"
    return _step("calibrate", what, seconds * len(calibration.windows) / len(part.windows))


def _time_search(opened: OpenedSearch, variants: tuple[str, ...]) -> dict[str, Any]:
    """Measures some edits, and estimates the units, on a few rows."""
    half, request, loaded = opened.halves[0], opened.request, opened.loaded
    every = half.samples.trained_on
    small = Half(half.samples.spread(every, FEW), half.windows[:FEW])
    how = request.model_dump(include={"batch_size", "layout"})
    engine = Engine(loaded.model, small.samples, small.windows, editable=loaded.editable, **how)
    engine.measure([])  # the first pass is slower
    units = [(unit,) for unit in opened.offered[:: -(-len(opened.offered) // FEW)]]
    rows = len(opened.halves[0]) / len(small)
    one = _take(lambda: engine.measure(units)) / len(units) * rows
    seconds, what = request.max_evaluations * one, f"at most {request.max_evaluations} edits"
    if not opened.exhaustive:
        stock = held_in_stock(opened.offered, loaded.editable, request.layout)
        given = small, small.samples.trained_on, opened.offered, (), opened.measure
        took = _take(lambda: estimate_units(loaded.model, *given, {}, stock=stock))
        full = _count_passes(min(int(every.sum()), MOST_PASSAGES), len(half.windows), opened)
        seconds += took * full / _count_passes(len(small.samples), len(small.windows), opened)
        parts = "blocks and heads" if request.grain == "mixed" else request.grain
        what += f" of {parts}, in {len(variants)} variants"
    return _step("search", f"measure {what}, by {opened.measure.name}", seconds)


def _count_passes(passages: int, windows: int, opened: OpenedSearch) -> int:
    """Passes forward and back of estimates, in rows."""
    return passages * (1 + opened.samples.suffix_length) + windows * (1 + DRAWS)


def _time_export(opened: OpenedSearch) -> dict[str, Any]:
    """Reads and hashes some of the weights."""
    found = opened.loaded.found
    file = max(Path(found.checkpoint.folder).iterdir(), key=lambda path: path.stat().st_size)
    with file.open("rb") as stream:
        seconds = _take(lambda: hashlib.sha256(stream.read(_MEGABYTES)).digest())
    seconds *= found.inventory.nbytes / min(_MEGABYTES, file.stat().st_size)
    return _step("export and verify", "write the checkpoint and prove it", _READS * seconds)


def _time_training(opened: OpenedSearch, request: MitigationRequest) -> Iterator[dict[str, Any]]:
    """Trains a copy for one step. Erasing is done once, healing for each result that is healed."""
    from surgery.training.distillation import teach
    from surgery.training.training import Schedule

    if not (request.heal or request.erase):
        return
    text = find_healing_text(request.heal or request.text or (request.model,))
    tokens = Schedule(1).tokenize(text, opened.loaded.tokenizer, opened.loaded.dimensions)
    model = opened.loaded.model

    def time_step(schedule: Schedule) -> float:
        return _take(lambda: teach(model, model, model, tokens, opened.guard, schedule))

    if request.erase:
        n = len(opened.guard.tokens)
        what = f"teach the model by its cut, {request.erase_steps} steps, {n:,} passages"
        seconds = time_step(Schedule(1, rank=request.adapters, hardened=request.harden))
        yield _step("erase", what, request.erase_steps * seconds)
    if request.heal:
        seconds = time_step(Schedule(1, rank=request.adapters))
        results = sum("heal" in name for name in request.list_results())
        what = f"train {results} of the results, {request.heal_steps} steps each"
        yield _step("heal", what, results * request.heal_steps * seconds)


def _time_limits(opened: OpenedSearch, healed: float) -> dict[str, Any]:
    """Limits that one pass does not decide, on the base and on every edit that is tried.

    `healed`: seconds to heal one, before it is attacked.
    """
    half, of = opened.halves[0], int(opened.samples.trained_on.sum())
    seconds = sum(
        line.at(_count_rows(name, len(half.samples), len(half.windows), trainings, of))
        for name, line, trainings in _time_attacks(opened, opened.slow, opened.request.batch_size)
    )
    first, names = "heal and " if healed else "", ", ".join(opened.slow)
    what = f"{first}attack at most {TRIES} edits by {names}"
    # the base, deep blocks, and the choice on both halves; the other edits on one
    return _step("limits", what, (TRIES + 5) * seconds + TRIES * healed)


def _time_drops(opened: OpenedSearch, benchmarks: Benchmarks) -> dict[str, Any]:
    """Limits on benchmarks: on the base, on deep blocks, and on every edit that is tried."""
    documents, seconds = _time_tasks(opened, benchmarks)
    names = ", ".join(benchmarks.tasks)
    what = f"measure at most {TRIES} edits on {documents:,} documents of {names}"
    return _step("benchmark limits", what, (TRIES + 2) * seconds)


@dataclass(frozen=True)
class _Line:
    """The seconds of a step by its rows: `fixed`, and `each`."""

    fixed: float
    each: float

    def at(self, rows: float) -> float:
        return self.fixed + self.each * rows

    @staticmethod
    def through(points: Sequence[tuple[int, float]]) -> _Line:
        """Through the first and the last point, (rows, seconds); through zero for one point."""
        (few, short), (many, long) = points[0], points[-1]
        if many == few:
            return _Line(0.0, short / few)
        each = max(long - short, 0.0) / (many - few)
        return _Line(max(short - each * few, 0.0), each)


def _time_attacks(
    opened: OpenedSearch, names: tuple[str, ...], batch_size: int | None
) -> Iterator[tuple[str, _Line, int]]:
    """Tries each attack on a few passages and some edit, and again on more if that was fast: a
    small batch, and what is done once, would make it seem slow.

    Attacks that train the whole model are tried on the base, which decides how many trainings all
    models get. Yields that number, too.
    """
    samples, editable, unit = opened.samples, opened.loaded.editable, opened.offered[0]
    cut = editable.apply(editable.plan((unit,), layout=opened.request.layout))
    training = [name for name in names if (one := find_attack(name)).in_draws and not one.on_cuts]
    groups: list[tuple[LoadedModel, tuple[int, ...] | None, list[str]]] = [
        (opened.loaded, None, training),
        (replace(opened.loaded, model=cut), (unit.block,), [n for n in names if n not in training]),
    ]
    found: dict[str, list[tuple[int, float]]] = {}
    trainings: dict[str, int] = {}
    for number in (FEW, MORE):
        some = replace(samples.spread(samples.trained_on, number), members=None)
        text, begun = opened.windows[:number], time.perf_counter()
        for loaded, blocks, group in groups:
            plan = AttackPlan(some, text, tuple(group), batch_size, draws=1, sibling=opened.sibling)
            tried = try_attacks(loaded, plan, with_control=False, cut=blocks)
            for name, took in tried.seconds.items():
                outcome = tried.passages.get(name)
                trainings[name] = (outcome and outcome.trainings) or 1
                rows = _count_rows(name, len(some), len(text), trainings[name])
                found.setdefault(name, []).append((rows, took))
        if time.perf_counter() - begun > FAST:
            break
    for name, points in found.items():
        yield name, _Line.through(points), trainings[name]


def _time_evaluation(
    opened: OpenedSearch, materials: Materials, models: int
) -> Iterator[dict[str, Any]]:
    """Times every attack, and each benchmark on a few documents."""
    request = materials.request
    passages, windows = int(opened.samples.trained_on.sum()), len(opened.windows)
    controls = len(opened.samples) - passages or windows
    seconds = 0.0
    for name, line, trainings in _time_attacks(opened, request.attacks, request.batch_size):
        one, control = (
            line.at(_count_rows(name, n, windows, trainings)) for n in (passages, controls)
        )
        base = line.at(passages) if find_attack(name).on_cuts else one
        once = base + (models - 1) * (one + control)
        draws = request.draws or count_draws(one)
        seconds += once * (draws if find_attack(name).in_draws else 1)
    what = f"{len(request.attacks)} attacks on {passages:,} passages, {models} models"
    yield _step("attack", what, seconds)
    benchmarks = materials.benchmarks
    if benchmarks is None:
        return
    documents, each = _time_tasks(opened, benchmarks)
    what = f"{documents:,} documents of {len(benchmarks.tasks)} tasks, {models} models"
    yield _step("benchmark", what, models * each)


def _time_tasks(opened: OpenedSearch, benchmarks: Benchmarks) -> tuple[int, float]:
    """Times each task on a few documents. Returns how many all have, and the seconds of a model."""
    seconds, documents, loaded = 0.0, 0, opened.loaded
    for name, one in benchmarks.tasks.items():
        number, limit = len(one.eval_docs), benchmarks.limit or len(one.eval_docs)
        number = min(number, math.ceil(limit if limit >= 1 else limit * number))
        few = replace(benchmarks, limit=min(FEW, number))
        size = opened.request.batch_size or few.batch_size(name, loaded)
        took = _take(partial(few.run, name, loaded, batch_size=size))
        seconds += took * number / min(FEW, number)
        documents += number
    return documents, seconds


def _count_rows(
    attack: str, passages: int, windows: int, trainings: int, of: int | None = None
) -> int:
    """About how many rows go through the model in an attack; a row of training counts as three.

    `trainings`: how many it makes. `of`: in a search, the number of all passages, a share of which
    the attacker holds.
    """
    found = find_attack(attack)
    decoded = 2 * max(0, len(found.stages) - 1) * passages
    trained = found.count_trained(of or passages, windows) if found.count_trained else 0
    return passages + trainings * (3 * trained + decoded)
