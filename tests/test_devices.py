"""Contract: nothing mixes devices. Loops, attacks, fits, and measures run with the model on a GPU,
or its blocks on two.

The GPUs are pretended (`pretended_gpu.py`). They compute as the CPU does, so must give the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from checkpoints import neox_config, write_checkpoint
from decoders import CONFIGS, MORE, write_decoder
from pretended_gpu import GPU, pretend_gpu
from reciting import generate, model_named, passages
from tiny_compact import BLOCKS, HEADS, VOCABULARY
from tiny_compact import CONFIGS as TINY
from tiny_tokenizer import TEXT, tiny_tokenizer
from transformers import GPTNeoConfig, GPTNeoForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from benchmarks import speed
from evals.data import Samples
from evals.measure.attacks import relearn, relearn_strongest, revive, soft_prompt, tuning
from evals.measure.attacks.attack import AttackOutcome, Target
from evals.measure.attacks.names import ALL, CHEAP, make_attack
from evals.measure.attacks.trying import AttackPlan
from evals.measure.edits.engine import Engine
from evals.measure.first_order import Probe, expand_loss, expand_margins
from evals.measure.memorization.extraction import extract
from evals.run.decoding import continue_prompt
from evals.run.early_exit import read_divergences
from evals.run.models import open_model
from surgery.editing.in_memory import Editable, apply, short_circuit
from surgery.editing.loading import load_model
from surgery.editing.preparing import prepare
from surgery.exporting import export
from surgery.families import family_of
from surgery.fitting.calibration import Calibration, make_calibration
from surgery.fitting.fitter import Fitter, fit_checkpoint
from surgery.fitting.some_blocks import find_layers
from surgery.hub.finding import find_model
from surgery.record.manifest import TextSource
from surgery.selection import parse_selection
from surgery.training import distillation, planning
from surgery.training.distillation import TaughtRows, count_recited, teach
from surgery.training.erasing import teach_to_forget
from surgery.training.healing import heal_by_source
from surgery.training.losses import Divergence
from surgery.training.planning import Fit
from surgery.training.training import Schedule
from surgery.training.ways.cut import ByCut
from surgery.training.weights import round_weights
from surgery.variants import VARIANTS

PREFIX, LENGTH, CPU = 4, 10, torch.device("cpu")
ROWS = np.random.default_rng(1).integers(2, VOCABULARY, (24, 16)).astype(np.int32)
FITTED = [one.name for one in VARIANTS.values() if one.fitted]


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for tensors so small, more take longer
    with pretend_gpu():
        yield
    torch.set_num_threads(threads)


def put(model: Any) -> Any:
    """A copy on a GPU."""
    there = copy.deepcopy(model).to(GPU)
    assert all(one.device == GPU for one in there.state_dict().values())
    return there


def spread(model: Any) -> Any:
    """A copy of which the second half of the blocks is on a GPU of its own."""
    blocks = family_of(model.config.to_dict()).attention.partition("{block}")[0]
    outer = [name for name, _ in model.named_modules() if name.count(".") < 2]
    places = {name: "cuda:0" for name in outer if not blocks.startswith(name)}
    number = len(find_layers(model))
    places |= {f"{blocks}{block}": f"cuda:{2 * block // number}" for block in range(number)}
    there = dispatch_model(copy.deepcopy(model), places)
    assert {str(one.device) for one in there.parameters()} == {"cuda:0", "cuda:1"}
    return there


def compare(model: Any, place: Callable[[Any], Any], measure: Callable[[Any], Any]) -> None:
    """What a model gives where `place` puts it must be what it gives on the CPU."""
    check_alike(measure(place(model)), measure(model))


def check_alike(found: Any, expected: Any) -> None:
    for one, other in zip(list_arrays(found), list_arrays(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def list_arrays(found: Any) -> Iterator[Any]:
    """All numbers in it, read as those of a GPU have to be."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list | tuple):
        for one in found:
            yield from list_arrays(one)
    elif isinstance(found, torch.Tensor):
        yield found.detach().float().cpu().numpy()
    elif found is not None:
        yield np.asarray(found)


@lru_cache
def make_model(name: str = "neox") -> Any:
    """Two blocks. The stock layout can cut those of GPT-NeoX in any way."""
    torch.manual_seed(3)
    own = {"num_attention_heads": 2, "num_hidden_layers": 2, "initializer_range": 0.2}
    if name == "neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**TINY["neox-parallel"] | own)).eval()
    own = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], **own}
    return GPTNeoForCausalLM(GPTNeoConfig(**TINY["neo"] | own)).eval()


@lru_cache
def make_samples() -> Samples:
    """12 passages, of which the model recites 6."""
    first = torch.from_numpy(ROWS[:12, :PREFIX].astype(np.int64))
    said = generate(make_model(), first, LENGTH - PREFIX)
    tokens = torch.cat([first, said], dim=1).numpy().astype(np.int32)
    tokens[::2, PREFIX + 2] = 1
    return Samples(tokens, PREFIX, tuple(map(str, range(12))), "what it says")


def make_text(windows: Any = ROWS) -> Calibration:
    return Calibration(windows, (TextSource(name="random numbers"),), spread=False)


def make_passages() -> TaughtRows:
    return TaughtRows(make_samples().tokens, PREFIX, "what it says", "0" * 64)


# --- the GPU itself -------------------------------------------------------------------------------

MIXED: dict[str, Callable[[Any, Any], Any]] = {
    "sums": lambda here, there: here + there,
    "products": lambda here, there: there @ here.T,
    "pieces": lambda here, there: torch.cat([here, there]),
    "choices": lambda here, there: torch.where(here > 0, there, there),
    "indices": lambda here, there: here[torch.zeros(2, dtype=torch.int64, device=GPU)],
    "places": lambda here, there: there.gather(1, here.long()),
    "embeddings": lambda here, there: torch.nn.functional.embedding(here.long(), there),
    "masks": lambda here, there: there.masked_fill(here > 0, 0.0),
    "changes": lambda here, there: there.__setitem__(slice(1), here[:1] + there),
    "equality": lambda here, there: torch.equal(here, there),
    "numpy": lambda here, there: there.numpy(),
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED)
def test_devices_do_not_mix(mix: Callable[[Any, Any], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"device"):
        mix(torch.ones(2, 3), torch.ones(2, 3, device=GPU))


def test_a_gpu_takes_what_a_gpu_takes() -> None:
    there = torch.arange(6.0, device=GPU, requires_grad=True).view(2, 3)
    assert (there * torch.tensor(2.0))[torch.tensor([1]), 1:].tolist() == [[8.0, 10.0]]
    assert there[there > 3].device == there.nonzero().device == GPU
    assert there.cpu().device == CPU
    assert there.to(GPU) is there
    here = torch.ones(2, 3, requires_grad=True)
    (here.to(GPU) * there).sum().cpu().backward()
    assert here.grad is not None
    assert here.grad.device == CPU


# --- training -------------------------------------------------------------------------------------

WAYS = {
    "all weights": (Fit(0, 12, False), True, torch.float32, put),
    "all weights, bfloat16": (Fit(0, 12, False), False, torch.bfloat16, spread),
    "all weights, checkpointing, float16": (Fit(0, 12, True), False, torch.float16, put),
    "adapters, bfloat16": (Fit(4, 12, False), True, torch.bfloat16, put),
    "adapters, checkpointing": (Fit(4, 12, True), False, torch.float32, spread),
}


@pytest.mark.parametrize(("how", "hardened", "dtype", "place"), WAYS.values(), ids=WAYS)
def test_training(
    how: Fit,
    hardened: bool,
    dtype: torch.dtype,
    place: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An erasing. In a healing, the student and its teachers change places."""
    monkeypatch.setattr(distillation, "fit", lambda *given, **more: how)

    model = copy.deepcopy(make_model()).to(dtype)
    cut = apply(model, "1", layout="stock")
    biases = {n: p for n, p in model.named_parameters() if n.endswith("query_key_value.bias")}
    constants = {name: np.arange(len(one)) % 2 == 0 for name, one in biases.items()}

    def train(model: Any, cut: Any) -> Any:
        lessons = make_text(), make_passages(), Schedule(2, rank=how.rank, hardened=hardened)
        taught = teach(model, model, Divergence(cut), *lessons, constants=constants)
        rounded, kept = round_weights(taught.student, "BF16")
        places = [[one.device for one in some.parameters()] for some in (model, rounded)]
        assert places[0] == places[1]
        recital = make_passages().tell(rounded, count_recited(cut, make_passages()))
        return taught.losses, kept, dict(vars(recital)), dict(rounded.named_parameters())

    check_alike(train(place(model), put(cut)), train(model, cut))


def test_a_plan_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are imagined, those of experts, too. Free memory is that of the GPU."""
    model = load_model(write_decoder(tmp_path / "model", "qwen3_moe")).to(GPU)
    free = 200 * sum(one.nbytes for one in model.parameters())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    measured = list[int]()
    monkeypatch.setattr(planning, "measure_needed", partial(note, measured))
    taught = teach(model, model, Divergence(model), make_text(), make_passages(), Schedule(1))
    assert (taught.schedule.rank, taught.student.model.device) == (0, GPU)
    weights = sum(one.nbytes for one in taught.student.learned)
    assert 3 * weights < measured[0] < free  # gradients, and two moments


def note(measured: list[int], model: Any, run: Any, measure: Any = planning.measure_needed) -> int:
    measured.append(measure(model, run))
    return measured[-1]


def test_results_that_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Erased with fits, and healed after a cut."""
    monkeypatch.setattr(distillation, "fit", lambda *given, **more: Fit(0, 24, False))
    config = neox_config(
        vocab_size=400, max_position_embeddings=32, num_hidden_layers=2, torch_dtype="float32"
    )
    source = write_checkpoint(tmp_path / "source", config)
    tiny_tokenizer().save_pretrained(source)
    words = " ".join(np.random.default_rng(0).choice(TEXT.split(), 800))
    plain, schedule = make_calibration([words], name="words"), Schedule(1, rank=0)
    passages = TaughtRows(ROWS[:6, :LENGTH], PREFIX, "random numbers", "0" * 64)
    prepared = prepare(source, "1", variant="linear")
    text = schedule.tokenize(plain, tiny_tokenizer(), prepared.plan.inventory.dimensions)
    cut = prepare(export(source, "1", output=tmp_path / "cut").output, None)

    def make(device: torch.device) -> Any:
        fitting = fit_checkpoint(prepared, plain, device=device)
        told: dict[str, Any] = {"device": device, "passes": torch.float32}
        way = ByCut(prepared, fitting)
        erased = teach_to_forget(prepared, way, passages, text, schedule, **told)
        healed = heal_by_source(cut, find_model(source), text, schedule, passages, **told)
        assert erased.record.device == healed.record.device == device.type
        tensors = erased.checkpoint.tensors, healed.checkpoint.tensors
        return [[one.read_array() for one in some.values()] for some in tensors]

    check_alike(make(GPU), make(CPU))


# --- attacks --------------------------------------------------------------------------------------


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearn_strongest, "OPTIMIZERS", {"AdamW": (1e-3,), "SGD": (0.1,)})
    monkeypatch.setattr(relearn, "RATES", (1e-3,))
    for attack in (relearn, relearn_strongest, revive):
        monkeypatch.setattr(attack, "STEPS", (1,))
    monkeypatch.setattr(soft_prompt, "STEPS", 2)
    monkeypatch.setattr(tuning, "fit", lambda *given, **more: Fit(0, 12, False))


@pytest.fixture(scope="module")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = {}
    for name in ("neox", "neo"):
        make_model(name).save_pretrained(folder := tmp_path_factory.mktemp(name))
        found[name] = find_model(str(folder))
    return found


ATTACKS = [(one, "neox") for one in ALL if one not in CHEAP[:-1]]
ATTACKS += [("graft", "neo"), ("revive", "neo")]


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("name", "kind"), ATTACKS)
def test_attacks(name: str, kind: str, siblings: dict[str, Any]) -> None:
    attack, rows, base = make_attack(name), make_samples(), make_model(kind)
    given: dict[str, Any] = {"alike": ROWS[12:, :LENGTH], "draws": 1, "sibling": siblings[kind]}
    some = replace(rows, members=np.arange(12) < 8)
    plan = AttackPlan(some, ROWS[:12, :LENGTH], (name,), sibling=siblings[kind])
    if plan.skipped:
        pytest.skip(f"needs {plan.skipped[name]}")
    cuts = [apply(base, "1", "zero", layout="stock"), apply(base, "1", layout="compact")]

    def run(model: Any, cuts: Any) -> Any:
        first = Target(model, None, rows, ROWS[:12, :LENGTH], **given)
        found = [attack.run(first)]
        found += [attack.run(replace(first, model=cut, base=found[0], cut=(1,))) for cut in cuts]
        return [list(list_flags(one)) for one in found]

    check_alike(run(spread(base), map(put, cuts)), run(base, cuts))


def list_flags(outcome: AttackOutcome) -> Iterator[Any]:
    yield from (outcome.recovered, outcome.tried)
    yield from (*outcome.variants.values(), *outcome.scores.values())


# --- fits, edits, and measures --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["neox-parallel", "neo"])
def test_fits(name: str) -> None:
    def fit(model: Any) -> Any:
        fitter = Fitter(model, make_text())
        found = [fitter.fit(parse_selection("1-2", one, BLOCKS, HEADS)) for one in FITTED]
        found.append(fitter.fit_alone([0, 3], FITTED))
        return [[vars(one) for one in fits.values()] for fits in found]

    compare(model_named(name), spread, fit)


@pytest.mark.parametrize("layout", ["stock", "compact"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_edits(variant: str, layout: str) -> None:
    ids = torch.from_numpy(ROWS.astype(np.int64))

    def edit(model: Any) -> Any:
        editable, read = Editable(model), partial(model, ids.to(model.device), use_cache=False)
        plan = editable.plan("0-1", variant, layout=layout)
        fits = Fitter(model, make_text()).fit(plan.selection)
        new = editable.apply(plan, fits)
        assert {one.device for one in new.state_dict().values()} == {model.device}
        made = [new(ids.to(model.device), use_cache=False).logits]
        with short_circuit(model, "0-1", variant, layout=layout, fits=fits):
            made.append(read().logits)
        with editable.make_replacements(plan, fits).activate_in_turn():
            made.append(read().logits)
        return made

    compare(make_model(), put, edit)


NAMES = ("neox-parallel", "neo", "neox-parallel stock identity", "neo compact identity")


@pytest.mark.parametrize("place", [put, spread])
@pytest.mark.parametrize("name", NAMES)
def test_measures(name: str, place: Callable[[Any], Any]) -> None:
    rows = passages(name)
    shares = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def measure(model: Any) -> Any:
        extracted = [extract(model, rows, full=full).values for full in (False, True)]
        written = [continue_prompt(model, rows.tokens[0], 3, some) for some in (None, shares)]
        tokens = torch.from_numpy(rows.tokens.astype(np.int64))
        return extracted, written, read_divergences(model, tokens, rows.prefix_length)

    compare(model_named(name), place, measure)


@pytest.mark.parametrize("name", ["neox-parallel", "neo"])
def test_many_edits(name: str) -> None:
    some = [("1", one) for one in VARIANTS] + [("1,3", "linear"), ("2.0", "zero"), ("2.0", "mean")]
    edits = [parse_selection(spec, variant, BLOCKS, HEADS) for spec, variant in some]

    def measure(model: Any) -> Any:
        told: Any = {"fit": Fitter(model, make_text()).fit, "costs": True}
        found = Engine(model, passages(name), ROWS, **told).measure(edits)
        return [{**vars(one), "selection": None, "skills": None} for one in found]

    compare(model_named(name), spread, measure)


@pytest.mark.parametrize("name", ["neox-parallel", "neo"])
def test_responses(name: str) -> None:
    parts = [part for one in VARIANTS for part in parse_selection("1,3.0", one, BLOCKS, HEADS)]

    def respond(model: Any) -> Any:
        fits = Fitter(model, make_text()).fit_alone(range(BLOCKS), FITTED)
        looking = Probe(model, parts, fits, lambda rows: None)
        return expand_loss(looking, ROWS[:8], 2), expand_margins(looking, passages(name, 6))

    compare(model_named(name), spread, respond)


def test_models_that_are_loaded(siblings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = open_model(siblings["neox"], device="cuda")
    assert (loaded.model.device, loaded.device) == (GPU, "cuda (Pretended)")
    asked = {"prompt_tokens": 8, "new_tokens": 3, "batch_size": 2}
    running = speed._Running(loaded.model, asked)
    running.decode(*running.prefill())
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # in this thread, which has the GPU
    mapped = load_model(siblings["neox"].checkpoint, device_map={"": "cuda:0"})
    assert mapped.device == GPU


# --- other families -------------------------------------------------------------------------------

FAST = ("llama", "qwen3_moe")
OTHERS = [
    pytest.param(one, marks=() if one in FAST else pytest.mark.slow) for one in CONFIGS | MORE
]


@pytest.mark.parametrize("kind", OTHERS)
def test_families(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit, a measure, and a training with adapters of each: of experts, too, if it has some."""
    monkeypatch.setattr(distillation, "fit", lambda *given, **more: Fit(2, 24, True))
    rows = Samples(ROWS[:6, :LENGTH], PREFIX, tuple("abcdef"), "random numbers")

    def measure(model: Any) -> Any:
        cut = apply(model, "1", "zero")
        passages = TaughtRows(rows.tokens, PREFIX, "random numbers", "0" * 64)
        loss, schedule = Divergence(cut), Schedule(1, rank=2)
        taught = teach(model, model, loss, make_text(), passages, schedule)
        model, _ = round_weights(taught.student, "F32")
        return taught.losses, [extract(one, rows, full=True).values for one in (model, cut)]

    compare(load_model(write_decoder(tmp_path / "model", kind)), put, measure)
