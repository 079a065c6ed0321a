"""Contract: nothing mixes devices. Every loop, attack, fit, and measure runs with its model on a GPU.

The GPU is pretended (`pretended_gpu.py`), so what runs there gives the same numbers as on the CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import CONFIGS, MORE, few_first, write_decoder
from pretended_gpu import GPU, pretend_gpu
from reciting import MODELS, PREFIX, SUFFIX, model_named, passages, two_heads
from tiny_compact import BLOCKS, HEADS, VOCABULARY

from evals.data import Samples
from evals.data.windows import repeat_windows
from evals.measure.attacks import relearn, relearn_strongest, revive, soft_prompt
from evals.measure.attacks.attack import AttackOutcome, Target
from evals.measure.attacks.names import ALL, make_attack
from evals.measure.edits.engine import Engine
from evals.measure.memorization.extraction import extract
from evals.measure.response import Looking, respond_heldout, respond_margins
from evals.run.decoding import continue_prompt
from surgery.editing.in_memory import Editable, apply, short_circuit
from surgery.editing.loading import load_model
from surgery.fitting.calibration import Calibration
from surgery.fitting.fitter import Fitter
from surgery.hub.finding import find_model
from surgery.record.manifest import TextSource
from surgery.selection import parse_selection
from surgery.training import distillation, planning
from surgery.training.distillation import Passages, listen, teach
from surgery.training.planning import Fit
from surgery.training.training import Schedule
from surgery.training.weights import round_weights
from surgery.variants import VARIANTS

RANDOM = np.random.default_rng(1)
TEXT = RANDOM.integers(2, VOCABULARY, (24, PREFIX + SUFFIX)).astype(np.int32)


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of tensors so small, more take longer
    with pretend_gpu():
        yield
    torch.set_num_threads(threads)


def put(model: Any) -> Any:
    return copy.deepcopy(model).to(GPU)


def check_alike(found: Any, expected: Any) -> None:
    """Numbers are as close as those of two devices are."""
    for one, other in zip(list_arrays(found), list_arrays(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def list_arrays(found: Any) -> Iterator[Any]:
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list | tuple):
        for one in found:
            yield from list_arrays(one)
    elif isinstance(found, torch.Tensor):
        yield found.detach().float().cpu().numpy()
    elif found is not None:
        yield np.asarray(found)


def compare(model: Any, measure: Callable[[Any], Any]) -> Any:
    """What a model on the GPU gives, which must be what it gives on the CPU."""
    found = measure(put(model))
    check_alike(found, measure(model))
    return found


# --- the GPU itself -------------------------------------------------------------------------------

MIXED: dict[str, Callable[[Any, Any], Any]] = {
    "sums": lambda here, there: here + there,
    "products": lambda here, there: there @ here.T,
    "columns": lambda here, there: torch.cat([here, there]),
    "choices": lambda here, there: torch.where(here > 0, there, there),
    "indices": lambda here, there: here[torch.zeros(2, dtype=torch.int64, device=GPU)],
    "embeddings": lambda here, there: torch.nn.functional.embedding(here.long(), there),
    "masks": lambda here, there: there.masked_fill(here > 0, 0.0),
    "equality": lambda here, there: torch.equal(here, there),
    "numpy": lambda here, there: there.numpy(),
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED)
def test_devices_do_not_mix(mix: Callable[[Any, Any], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"device|cuda"):
        mix(torch.ones(2, 3), torch.ones(2, 3, device=GPU))


def test_a_gpu_takes_what_a_gpu_takes() -> None:
    there = torch.arange(6.0, device=GPU, requires_grad=True).view(2, 3)
    assert (there * torch.tensor(2.0))[torch.tensor([1]), 1:].tolist() == [[8.0, 10.0]]
    assert there[there > 3].device == there.nonzero().device == GPU
    assert there.cpu().device.type == "cpu"
    assert there.to(GPU) is there
    here = torch.ones(2, 3, requires_grad=True)
    (here.to(GPU) * there).sum().cpu().backward()
    assert here.grad is not None
    assert here.grad.device.type == "cpu"


# --- training -------------------------------------------------------------------------------------

LEARNED = {
    "all weights": Fit(0, 4, False),
    "adapters": Fit(4, 4, False),
    "checkpointing": Fit(0, 4, True),
    "adapters, checkpointing": Fit(4, 4, True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", LEARNED.values(), ids=LEARNED)
def test_training(how: Fit, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "fit", lambda *given, **more: how)

    def train(model: Any) -> Any:
        cut = apply(model, "1,3", layout="stock")
        lessons = make_text(), make_passages(), Schedule(2, rank=how.rank, hardened=True)
        taught = teach(model, model, cut, *lessons, constants=make_constants(model))
        rounded, kept = round_weights(taught.student, "BF16")
        assert rounded.device == model.device
        recital = listen(rounded, cut, make_passages())
        return taught.losses, kept, dict(vars(recital)), dict(rounded.named_parameters())

    compare(two_heads().to(dtype), train)


def make_text() -> Calibration:
    return Calibration(TEXT, (TextSource(name="random numbers"),), spread=False)


def make_passages() -> Passages:
    return Passages(TEXT[:12, :10], 4, "random numbers", "0" * 64)


def make_constants(model: Any) -> dict[str, Any]:
    """Half of each bias of attention."""
    found = {n: p for n, p in model.named_parameters() if n.endswith("query_key_value.bias")}
    return {name: np.arange(len(one)) % 2 == 0 for name, one in found.items()}


def test_a_plan_of_memory() -> None:
    """Steps are imagined, and free memory is that of the GPU."""
    lessons = make_text(), make_passages(), Schedule(2)
    model = put(two_heads())
    taught = teach(model, model, model, *lessons)
    assert taught.schedule.rank == 0
    assert all(one.device == GPU for one in taught.student.learned)


# --- attacks --------------------------------------------------------------------------------------

TRIED = tuple(dict.fromkeys(ALL))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearn, "STEPS", (1, 2))
    monkeypatch.setattr(relearn, "RATES", (1e-3,))
    monkeypatch.setattr(relearn_strongest, "STEPS", (1,))
    monkeypatch.setattr(relearn_strongest, "RUNS", [(1e-3, one) for one in relearn_strongest.LEARNED])
    monkeypatch.setattr(revive, "STEPS", (1, 2))
    monkeypatch.setattr(soft_prompt, "STEPS", 2)
    monkeypatch.setattr(soft_prompt, "LENGTH", 4)


@pytest.fixture(scope="module")
def sibling(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("sibling")
    two_heads().save_pretrained(folder)
    return find_model(str(folder))


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", TRIED)
def test_attacks(name: str, sibling: Any) -> None:
    attack, base = make_attack(name), two_heads()
    rows = passages("neox-parallel stock identity")
    if not attack.can(rows):
        pytest.skip(f"needs {attack.needs}")
    told: dict[str, Any] = {"alike": TEXT[12:], "draws": 1, "sibling": sibling}

    def attack_both(model: Any) -> Any:
        target = Target(model, None, rows, TEXT[:12], **told)
        first = attack.run(target)
        cuts = [apply(model, "1,3", layout=layout) for layout in ("stock", "compact")]
        return [first, *(attack.run(replace(target, model=cut, base=first, cut=(1, 3))) for cut in cuts)]

    def measure(model: Any) -> Any:
        return [describe(one) for one in attack_both(model)]

    compare(base, measure)


def describe(outcome: AttackOutcome) -> Any:
    return outcome.recovered, outcome.tried, list(outcome.settings.values()), list(outcome.scores.values())


# --- fits, edits, and measures --------------------------------------------------------------------

FITTED = [one.name for one in VARIANTS.values() if one.fitted]


@pytest.mark.parametrize("name", ["neox-parallel stock identity", "neo"])
def test_fits(name: str) -> None:
    model = model_named(name.split()[0])

    def fit(model: Any) -> Any:
        fitter = Fitter(model, make_text())
        found = [fitter.fit(parse_selection("1-2", one, BLOCKS, HEADS)) for one in FITTED]
        return [[vars(fit) for fit in fits.values()] for fits in [*found, fitter.fit_alone([0, 3], FITTED)]]

    compare(model, fit)


@pytest.mark.parametrize("layout", ["stock", "compact"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_edits(variant: str, layout: str) -> None:
    ids = torch.from_numpy(TEXT.astype(np.int64))

    def edit(model: Any) -> Any:
        editable, read = Editable(model), partial(model, ids.to(model.device), use_cache=False)
        plan = editable.plan("1,3", variant, layout=layout)
        fits = Fitter(model, make_text()).fit(plan.selection)
        new = editable.apply(plan, fits)
        assert {one.device for one in new.state_dict().values()} == {model.device}
        with short_circuit(model, "1,3", variant, layout=layout, fits=fits):
            inside = read().logits
        with editable.make_replacements(plan, fits).activate_in_turn():
            in_turn = read().logits
        after = new(ids.to(model.device), use_cache=False).logits
        assert torch.equal(inside, after)
        assert torch.equal(in_turn, after)
        return after

    compare(two_heads(), edit)


@pytest.mark.parametrize("name", MODELS)
def test_measures(name: str) -> None:
    rows = passages(name)

    def measure(model: Any) -> Any:
        extracted = [extract(model, rows, full=full).values for full in (False, True)]
        written = continue_prompt(model, rows.tokens[0], 3)
        shares = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return extracted, written, continue_prompt(model, rows.tokens[0], 3, shares)

    compare(model_named(name), measure)


@pytest.mark.parametrize("exact_only", [False, True])
@pytest.mark.parametrize("name", ["neox-parallel", "neo"])
def test_many_edits(name: str, exact_only: bool) -> None:
    def measure(model: Any) -> Any:
        fitter, several = Fitter(model, make_text()), {"exact_only": exact_only}
        several |= {} if exact_only else {"repeated": repeat_windows(TEXT)}
        engine = Engine(model, passages(name), TEXT, fit=fitter.fit, **several)
        edits = [parse_selection(spec, one, BLOCKS, HEADS) for spec in ("1", "1,3") for one in VARIANTS]
        edits += [parse_selection("2.0", one, BLOCKS, HEADS) for one in ("zero", "mean")]
        return [
            {key: value for key, value in vars(one).items() if key != "selection"}
            for one in engine.measure(edits)
        ]

    compare(model_named(name), measure)


@pytest.mark.parametrize("name", ["neox-parallel", "neo"])
def test_responses(name: str) -> None:
    parts = [
        part for one in VARIANTS for part in parse_selection("1,2,3.0", one, BLOCKS, HEADS)
    ]

    def respond(model: Any) -> Any:
        fits = Fitter(model, make_text()).fit_alone(range(4), FITTED)
        looking = Looking(model, parts, fits, lambda rows: None)
        return respond_heldout(looking, TEXT, 3), respond_margins(looking, passages(name))

    compare(model_named(name), respond)
