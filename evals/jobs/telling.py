"""Says what a mitigation would do. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evals.choose.search.enforcing import TRIES
from evals.choose.search.opened import OpenedSearch, open_search
from evals.choose.search.run import FINALISTS
from evals.data import say_lengths
from evals.data.inputs import find_calibration_text
from evals.jobs.mitigating import OpenedMitigation
from evals.measure.attacks.names import TRAINED, choose_attacks, list_untried
from evals.run.groups import ERASE_STEPS, HEAL_STEPS
from evals.table.limits import describe_splits, say_split
from surgery.errors import SamplesError
from surgery.lab import find_lab
from surgery.variants import variant_of

Told = dict[str, str]
"""`name` and `what`."""


def tell(opened: OpenedMitigation) -> dict[str, Any]:
    """The object of `mitigate --dry-run --json`: `inputs` and `steps`. Opens the model."""
    request, attacks = opened.request, opened.materials.request.attack_names
    if request.trains:  # an audit of a trained model tries more
        attacks = choose_attacks((*attacks, *TRAINED))
    fits = bool(request.texts.calibration) or find_lab(request.model) is not None
    variants = request.choice.list_variants(fits=fits)
    plain = [name for name in variants if not variant_of(name).fitted]
    asked = request.search_request.change(variant=tuple(plain or ["zero"]), calibration=())
    search = open_search(asked)  # with variants that need no fit
    inputs = {**_describe_inputs(opened, search), "variants": ", ".join(variants)}
    text = find_calibration_text(request.texts.calibration, request.model, variants)
    if text is not None:
        loaded = search.loaded
        read = text.tokenize(loaded.tokenizer, loaded.dimensions)
        inputs["calibration"] = f"{read.windows.size:,} tokens"
    if len(request.recipes) > 1:
        inputs["passages"] += "; half of these choose among the results, the others judge the best"
    inputs["attacks"] = ", ".join(attacks)
    inputs["not tried"] = ", ".join(list_untried(attacks)) or "none"
    return {
        "inputs": [{"name": name, "what": what} for name, what in inputs.items()],
        "steps": list(_list_steps(opened, search, attacks)),
    }


def _describe_inputs(opened: OpenedMitigation, search: OpenedSearch) -> dict[str, str]:
    size, loaded, samples = search.loaded.dimensions, search.loaded, search.samples
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    choice, benchmarks = search.request.choice, opened.materials.benchmarks
    (split,) = describe_splits(samples, [choice.choose], choice.seed)
    return {
        "model": f"{loaded.name}: {loaded.family.model_type}, {size.num_blocks} blocks of "
        f"{size.num_heads} heads, {parameters:,} parameters, {loaded.dtype} on "
        f"{loaded.model.device}",
        "passages": f"{len(samples):,} from {samples.source}: "
        f"{say_lengths(samples.prefix_length, samples.suffix_length, samples.secrets)}; "
        f"{say_split(split)}",
        "held-out text": f"{len(search.windows):,} windows of {search.windows.shape[1]} tokens",
        "limits": "; ".join(search.foresee()),
        "benchmarks": ", ".join(benchmarks.tasks) if benchmarks else "none",
    }


def _list_steps(
    opened: OpenedMitigation, search: OpenedSearch, attacks: tuple[str, ...]
) -> Iterator[Told]:
    request, recipes = opened.request, opened.request.recipes
    most = request.choice.max_evaluations
    yield _step("search", f"measure at most {most} edits, by {search.measure.name}")
    if (steps := request.choice.judge_steps) and not request.heal and _has_text(search):
        what = f"heal at most {FINALISTS + 2} edits, {steps} steps each, and choose one"
        yield _step("judge", what)
    if search.slow:
        yield _step("limits", f"attack at most {TRIES} edits by {', '.join(search.slow)}")
    if search.benchmarks is not None:
        yield _step("benchmark limits", f"measure at most {TRIES} edits")
    for kind, asked, usual, does in (
        ("erase", request.erasing, ERASE_STEPS, "teach"),
        ("heal", request.healing, HEAL_STEPS, "train"),
    ):
        if number := sum(recipe.steps[-1] == kind for recipe in recipes):
            yield _step(kind, f"{does} {number} of the results, {asked.steps or usual} steps each")
    measured = 1 + bool(request.attacks.twin) + len(recipes)
    members = int(search.samples.trained_on.sum())
    what = f"{len(attacks)} attacks on {members:,} passages, {measured} models"
    yield _step("attack", what)
    if (benchmarks := opened.materials.benchmarks) is not None:
        yield _step("benchmark", f"{len(benchmarks.tasks)} tasks, {measured} models")


def _has_text(search: OpenedSearch) -> bool:
    """Whether the search has enough text to heal edits on before one is chosen."""
    try:
        return bool(search.short_healing)
    except SamplesError:
        return False


def _step(name: str, what: str) -> Told:
    return {"name": name, "what": what}
