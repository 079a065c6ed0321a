"""Contract: the attacks that search, train, or read two models do what their definitions say.

Each is compared with a slow implementation that shares no code with it.
"""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROOT, attn_surgery
from example_report import example
from rapidfuzz.distance import Levenshtein
from reciting import PREFIX, SUFFIX, model_named, passages, two_heads, write_rows
from results import list_attacks, read_report
from tiny_compact import CONFIGS, VOCABULARY
from tiny_tokenizer import TEXT, save_tiny, tiny_model
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from evals.data import Samples
from evals.measure.attacks.attack import Setting, Target
from evals.measure.attacks.guided import CANDIDATES, PLAUSIBLE, STRENGTHS
from evals.measure.attacks.names import find_attack, hash_code, list_untried, make_attack
from evals.measure.attacks.near_beams import BEAMS, NEEDED, bound_near_mass
from evals.measure.attacks.quantized import _round_to_nf4, quantize_matrices
from evals.measure.attacks.soft_prompt import LENGTH, learn_prompt, put_before
from evals.measure.attacks.trying import AttackPlan, try_attacks
from evals.measure.attacks.tuning import STEPS, fine_tune
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.models import LoadedModel
from surgery.card.measurements import build_measurements
from surgery.editing.in_memory import apply
from surgery.errors import MeasurementError
from surgery.record.report import Report


def rows_of(tokens: Any, prefix_length: int = PREFIX, **more: Any) -> Samples:
    tokens = np.asarray(tokens, dtype=np.int32)
    return Samples(tokens, prefix_length, tuple(map(str, range(len(tokens)))), "made here", **more)


def target_of(model: Any, samples: Samples, **more: Any) -> Target:
    return Target(model, None, samples, samples.tokens, **{"draws": 1, **more})


@cache
def read(model: Any, tokens: tuple[int, ...]) -> Any:
    with torch.no_grad():
        logits = model(torch.tensor(tokens)[None]).logits[0, -1]
    return logits.double().log_softmax(-1).numpy()


def say(model: Any, tokens: Any) -> Any:
    """The model's log-probabilities after `tokens`, float64 [V]."""
    return read(model, tuple(map(int, tokens)))


def sharpen(model: Any, factor: float) -> Any:
    """A copy that is surer of what it says: a random model is sure of nothing."""
    sure = copy.deepcopy(model)
    with torch.no_grad():
        sure.get_output_embeddings().weight.mul_(factor)
    return sure


# --- near-beams


def search_slowly(model: Any, prefix: list[int], suffix: list[int]) -> float:
    """The beams of one passage, each read from its beginning."""
    allowed, beams = int(len(suffix) / 4), [((), 0.0)]
    for step in range(1, len(suffix) + 1):
        grown = []
        for said, log_p in beams:
            after = say(model, [*prefix, *said])
            top = np.sort(after)[::-1][:40]
            total = np.log(np.exp(top).sum())
            likely = map(int, np.flatnonzero(after >= top[-1]))
            grown += [((*said, token), log_p + after[token] - total) for token in likely]
        near = [
            (said, log_p)
            for said, log_p in grown
            if log_p >= np.log(NEEDED / BEAMS)
            and min(
                Levenshtein.distance(said, suffix[:end]) + abs(end - step)
                for end in range(len(suffix) + 1)
            )
            <= allowed
        ]
        near.sort(key=lambda beam: (list(beam[0]) != suffix[:step], -beam[1]))
        beams = near[:BEAMS]
        if sum(np.exp(log_p) for _, log_p in beams) < NEEDED:
            return 0.0
    return float(sum(np.exp(log_p) for _, log_p in beams))


def test_beams_are_those_of_a_slow_search() -> None:
    model = sharpen(two_heads(), 3.0)
    rows = passages("neox-parallel stock identity", rows=2).tokens
    said = make_said(model, rows[:, :PREFIX])
    changed = said.copy()
    changed[:, PREFIX + 3] = 5  # a token of the suffix is another, and one is skipped
    changed[:, PREFIX + 6 : -1] = said[:, PREFIX + 7 :]
    tokens = np.concatenate([said, changed, rows]).astype(np.int32)
    masses = bound_near_mass(model, tokens, PREFIX)
    expected = [search_slowly(model, list(row[:PREFIX]), list(row[PREFIX:])) for row in tokens]
    assert masses == pytest.approx(expected, rel=1e-4)
    assert 0 < np.sum(masses > 0) < len(masses)
    found = make_attack("near-beams").run(target_of(model, rows_of(tokens)))
    assert found.recovered.tolist() == [mass >= NEEDED for mass in masses]


def make_said(model: Any, prefixes: Any) -> Any:
    """What the model says after each prefix, token by token."""
    rows = [list(map(int, prefix)) for prefix in prefixes]
    for row in rows:
        for _ in range(SUFFIX):
            row.append(int(say(model, row).argmax()))
    return np.asarray(rows)


def test_beams_bound_the_probability_of_all_near_texts() -> None:
    """Of all texts of four tokens out of five, by enumeration."""
    torch.manual_seed(0)
    config = {**CONFIGS["neox-parallel"], "vocab_size": 5, "initializer_range": 0.2}
    model = sharpen(GPTNeoXForCausalLM(GPTNeoXConfig(**config)).eval(), 2.0)
    tokens = np.random.default_rng(0).integers(0, 5, (2, 6)).astype(np.int32)
    masses = bound_near_mass(model, tokens, 2)
    for row, mass in zip(tokens.tolist(), masses, strict=True):
        log_p = {(): 0.0}
        for _ in range(4):
            log_p = {
                (*said, token): value + after[token]
                for said, value in log_p.items()
                for after in [say(model, [*row[:2], *said])]
                for token in range(5)
            }
        near = [
            np.exp(log_p[said])
            for said in product(range(5), repeat=4)
            if Levenshtein.distance(said, row[2:]) <= 1
        ]
        exact = np.exp(log_p[tuple(row[2:])])
        assert mass <= sum(near) + 1e-6
        assert mass >= (exact if exact >= NEEDED else 0) - 1e-6
        assert mass == 0 or mass >= 0.7 * sum(near)


# --- guided


def guide_slowly(base: Any, edited: Any, row: list[int], strength: float) -> tuple[bool, list[int]]:
    """Whether `any` recovers a row, and what the attacker says after each of its prefixes."""
    right, said, p_z = [], [], 1.0
    for place in range(PREFIX, len(row)):
        before, after = say(base, row[:place]), say(edited, row[:place])
        scores = {
            token: before[token] + strength * (before[token] - after[token])
            for token in np.argsort(before)[::-1][:CANDIDATES]
            if np.exp(before[token]) >= PLAUSIBLE * np.exp(before.max())
        }
        said.append(int(max(scores, key=lambda token: scores[token])))
        right.append(said[-1] == row[place])
        total = sum(map(np.exp, scores.values()))
        p_z *= np.exp(scores[row[place]]) / total if row[place] in scores else 0.0
    return right.count(False) <= 2 or 1 - (1 - p_z) ** 100 >= 0.5, said


def test_guided_decoding_is_that_of_a_slow_attacker() -> None:
    """Passages are what guidance of one strength says, or are altered so that none finds them."""
    base = two_heads()
    edited = apply(base, "1", "identity", layout="compact")
    rng = np.random.default_rng(2)
    rows = [list(map(int, rng.integers(2, VOCABULARY, PREFIX))) for _ in range(12)]
    for number, row in enumerate(rows):
        for place in range(SUFFIX):
            said = guide_slowly(base, edited, [*row, 0], 2.0)[1][-1]
            row.append(said if number % 3 or place % 2 else (said + 1) % VOCABULARY)
    samples = rows_of(rows)
    seen = target_of(base, samples).seen
    alone = make_recovery("any").recovered(Evidence.of(seen))
    alone |= [guide_slowly(base, base, row, 0.0)[0] for row in rows]
    held = np.isin(np.arange(12), np.random.default_rng(0).permutation(12)[:6])
    flags = [np.asarray([guide_slowly(base, edited, row, w)[0] for row in rows]) for w in STRENGTHS]
    counts = [int(found[held & ~alone].sum()) for found in flags]
    best = flags[counts.index(max(counts))]
    assert counts.count(max(counts)) > 1  # a tie
    assert alone.any()

    attack = make_attack("guided")
    before = attack.run(target_of(base, samples))
    outcome = attack.run(target_of(edited, samples, base=before))
    assert outcome.tried.tolist() == before.tried.tolist() == (~held & ~alone).tolist()
    assert outcome.recovered.tolist() == (best & outcome.tried).tolist()
    assert not before.recovered.any()
    assert 0 < outcome.counted.sum() < len(outcome.counted)


# --- soft-prompt


@pytest.mark.parametrize(
    "name", ["neox-parallel", pytest.param("neo stock zero", marks=pytest.mark.slow)]
)
def test_a_soft_prompt_is_trained_as_an_obvious_loop_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.measure.attacks.soft_prompt.STEPS", 20)
    model, samples = model_named(name), passages(name)
    before = copy.deepcopy(model.state_dict())
    outcome = make_attack("soft-prompt").run(target_of(model, samples))
    held = np.random.default_rng(0).permutation(15)[:7]
    assert sorted(np.flatnonzero(~outcome.tried[0])) == sorted(held)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())

    embed = model.get_input_embeddings()
    start = np.random.default_rng(0).choice(VOCABULARY, LENGTH)
    prompt = torch.nn.Parameter(embed.weight[torch.as_tensor(start)].detach().clone())
    optimizer = torch.optim.AdamW([prompt], lr=1e-2, weight_decay=0.0)
    tokens = torch.from_numpy(samples.tokens[np.sort(held)].astype(np.int64))

    def read(some: torch.Tensor) -> torch.Tensor:
        first = prompt.expand(len(some), -1, -1)
        return model(inputs_embeds=torch.cat([first, embed(some)], dim=1)).logits

    for _ in range(20):
        logits = read(tokens)[:, LENGTH + PREFIX - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, PREFIX:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad()
    learned = learn_prompt(model, samples.tokens[np.sort(held)], PREFIX)
    torch.testing.assert_close(learned, prompt.detach(), rtol=1e-3, atol=1e-3)

    every = torch.from_numpy(samples.tokens.astype(np.int64))
    with torch.no_grad():
        logits = read(every)
    logits_of_suffix = logits[:, LENGTH + PREFIX - 1 : -1]
    right = logits_of_suffix.argmax(-1).numpy() == samples.suffixes
    least = logits_of_suffix.topk(40).values[..., -1:]
    drawn = logits_of_suffix.masked_fill(logits_of_suffix < least, -math.inf).log_softmax(-1)
    log_p_z = drawn.gather(2, every[:, PREFIX:, None]).sum(dim=(1, 2)).double().numpy()
    expected = make_recovery("any").recovered(Evidence(right, log_p_z))
    assert 0 < expected.sum() < len(expected)
    assert outcome.recovered[0].tolist() == expected.tolist()
    with put_before(model, prompt.detach()), torch.no_grad():
        padded = torch.nn.functional.pad(every, (LENGTH, 0))
        torch.testing.assert_close(model(padded).logits, logits)


def test_a_context_without_room_for_a_soft_prompt() -> None:
    rows = np.random.default_rng(0).integers(2, VOCABULARY, (4, 50))
    with pytest.raises(MeasurementError, match=r"soft-prompt .*at most 44 tokens, got 50"):
        make_attack("soft-prompt").run(target_of(model_named("neo"), rows_of(rows)))


# --- relearn-alike


def test_text_of_the_same_form_is_half_of_the_control(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tuned model recovers is what a model that is tuned on that half recovers."""
    rng = np.random.default_rng(3)
    samples = rows_of(rng.integers(1, 300, (16, 20)), members=np.arange(16) < 10)
    plan = AttackPlan(samples, samples.tokens[:2], ("relearn-alike",))
    found = try_attacks(loaded, plan)
    held = np.sort(np.random.default_rng(0).permutation(6)[:3])
    assert found.control["relearn-alike"].tried.tolist() == [[i not in held for i in range(6)]]
    assert found.passages["relearn-alike"].tried.all()
    learned: list[np.ndarray] = []
    monkeypatch.setattr(
        "evals.measure.attacks.relearn.fine_tune",
        lambda model, rows, **more: learned.append(rows) or fine_tune(model, rows, **more),
    )
    try_attacks(loaded, plan, with_control=False)
    assert learned
    assert all(np.array_equal(rows, samples.tokens[10:][held]) for rows in learned)
    *_, tuned = fine_tune(loaded.model, samples.tokens[10:][held], learning_rate=1e-4)
    expected = make_attack("any").run(target_of(tuned, plan.passages)).recovered
    last = Setting("all weights", 1e-4, STEPS[-1])
    assert found.passages["relearn-alike"].settings[last].tolist() == [expected.tolist()]


def test_what_was_not_tried_is_said(loaded: LoadedModel) -> None:
    samples = rows_of(np.random.default_rng(3).integers(1, 300, (4, 20)))
    plan = AttackPlan(samples, samples.tokens[:2], ("any", "quantized:4", "relearn-alike"))
    result = try_attacks(loaded, plan)
    assert [*result.passages] == ["any", "quantized:4"]
    needs = "two or more passages that the samples mark as never trained on"
    assert plan.skipped == {"relearn-alike": needs}
    missing = {*list_untried(result.passages)}
    assert {"relearn", "relearn-alike", "quantized:nf4", "membership"} <= missing
    assert not {"any", "greedy", "quantized:4", "quantized:8"} & missing


# --- quantized:nf4


needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")  # of other libraries
def test_nf4_is_what_bitsandbytes_loads(tmp_path: Path) -> None:
    """It multiplies on a CPU in bfloat16, so its weights are compared, made float32 again."""
    from transformers import BitsAndBytesConfig

    torch.manual_seed(0)
    wide = {**CONFIGS["neox-parallel"], "intermediate_size": 128}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**wide)).eval()
    model.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    other = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, dtype=torch.float32, device_map="cpu"
    )
    tokens = torch.arange(2, 34)[None]
    with torch.no_grad(), quantize_matrices(model, _round_to_nf4(model)):
        ours = model(tokens).logits
    with torch.no_grad():
        torch.testing.assert_close(ours, other.dequantize()(tokens).logits)
        assert not torch.allclose(ours, model(tokens).logits, rtol=1e-3, atol=1e-3)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", [(3, 160), (5, 33), (4, 64)])
def test_nf4_groups_run_over_the_ends_of_rows(shape: tuple[int, int]) -> None:
    from bitsandbytes.functional import get_4bit_type

    layer, model = torch.nn.Linear(shape[1], shape[0]), tiny_model()
    weight = layer.weight.detach()
    levels = get_4bit_type("nf4", device="cpu")
    expected = []
    for group in weight.flatten().split(64):
        nearest = (group[:, None] / group.abs().max() - levels).abs().argmin(-1)
        expected.append(levels[nearest] * group.abs().max())
    rounded = _round_to_nf4(model)(layer, weight)
    torch.testing.assert_close(rounded, torch.cat(expected).view(shape))


def test_nf4_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.measure.attacks.quantized.find_spec", lambda name: None)
    samples = rows_of(np.random.default_rng(3).integers(1, 300, (4, 20)))
    needs = "the package bitsandbytes (pip install bitsandbytes)"
    plan = AttackPlan(samples, samples.tokens, ("any", "quantized:nf4"))
    assert plan.skipped == {"quantized:nf4": needs}
    with pytest.raises(MeasurementError, match=r"quantized:nf4 has a limit .*bitsandbytes"):
        replace(plan, limited=("quantized:nf4",))


# --- your own

PAGE = (ROOT / "docs" / "who-can-undo-it.md").read_text()
OWN = PAGE.split("```python\n")[1].split("```")[0]  # a module that defines FIRST_TOKEN
OWN += """
import numpy as np

def fail(target):
    return 1 / 0

def shorten(target):
    return AttackOutcome.of_all(np.zeros(1, dtype=bool))

def score(target):
    none = np.zeros(len(target.samples), dtype=bool)
    return AttackOutcome(none, none, scores={"mine": target.samples.tokens[:, 0]})

FAILS = Attack("fails", "", "", "", "", fail)
SHORT = Attack("short", "", "", "", "", shorten)
SCORES = Attack("scores", "", "", "", "", score, tells_members=True)
OTHER = 7
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder, another one in each test."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return name


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("absent.module:ATTACK", r"absent.module:ATTACK: no module 'absent'; install it, or run"),
        (
            "broken:ATTACK",
            r"its code fails: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        (
            "{own}:NONE",
            r"is not an attack .*NONE to be an evals.measure.attacks.attack.Attack, got no such",
        ),
        ("{own}:OTHER", r"is not an attack .*got int"),
        ("hints:ATTACK", r"no attack 'hints:ATTACK' \(expected any, greedy"),
        ("a b:ATTACK", r"no attack 'a b:ATTACK'"),
    ],
)
def test_attacks_that_are_not_there(own: str, path: str, line: str) -> None:
    with pytest.raises(MeasurementError, match=line):
        find_attack(path.format(own=own))


@pytest.mark.parametrize(
    ("name", "line"),
    [("FAILS", "its code fails: ZeroDivisionError"), ("SHORT", r"expected .*bool \[15\]")],
)
def test_attacks_that_fail(own: str, name: str, line: str) -> None:
    target = target_of(model_named("neo"), passages("neo"))
    with pytest.raises(MeasurementError, match=f"{own}:{name}: .*{line}"):
        find_attack(f"{own}:{name}").run(target)


def test_an_attack_of_your_own_is_audited_and_limited(own: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    np.save(tmp_path / "p.npy", np.arange(40).reshape(4, 10))
    np.save(tmp_path / "s.npy", np.arange(40).reshape(4, 10))
    outcome = attn_surgery(
        *("audit", "model", "--baseline", "model", "--samples", "p.npy,s.npy", "--json"),
        *("--control", "text.txt", "--device", "cpu", "--max", f"{own}:FIRST_TOKEN=0.5"),
        *("--attack", "greedy"),
    )
    assert outcome.code == 4, "a model beside itself decides no limit"
    report = read_report(outcome)
    assert list_attacks(report) == ["greedy", f"{own}:FIRST_TOKEN"]
    named = report.names[f"recovered.{own}:FIRST_TOKEN"]
    assert named.hint == "the first token of the suffix is right"
    assert [limit.subject for limit in report.limits] == [f"{own}:FIRST_TOKEN"]


def test_the_code_of_an_attack_of_your_own_is_known_by_its_hash(own: str, tmp_path: Path) -> None:
    """A search keeps what an attack found, so that another one must not pass for it."""
    first = hash_code(f"{own}:FIRST_TOKEN")
    assert first == hash_code(f"{own}:SHORT"), "of the file"
    file = tmp_path / f"{own}.py"
    file.write_text(file.read_text() + "\n# changed\n")
    second = hash_code(f"{own}:FIRST_TOKEN")
    assert second != first
    (tmp_path / "beside.py").write_text("A = 1\n")
    assert hash_code(f"{own}:FIRST_TOKEN") != second, "it may import what is beside it"


def test_an_attack_of_your_own_may_score_members(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its areas are printed under its name, beside those of `membership`."""
    monkeypatch.setattr("cli.console._WIDTH", 300)  # so that no label wraps
    save_tiny(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    rows = [{"tokens": list(range(at, at + 10)), "member": at < 20} for at in range(0, 40, 10)]
    write_rows(tmp_path / "s.jsonl", rows)
    outcome = attn_surgery(
        *("audit", "model", "--baseline", "model", "--samples", "s.jsonl", "--output", "out"),
        *("--control", "text.txt", "--device", "cpu", "--attack", f"{own}:SCORES"),
        *("--prefix-length", 5, "--suffix-length", 5, "--attack", "membership"),
    )
    assert outcome.code == 0, outcome
    assert outcome.find_row("membership by loss")
    _, base, edited, *_ = outcome.find_row(f"membership by {own}:SCORES mine")[1:]
    assert base[:5] == edited[:5] == "0.000"
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_report_that_names_an_attack_runs_nothing(tmp_path: Path) -> None:
    """It is somebody's file: to read it must import nothing."""
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()")
    text = example().to_text().replace("greedy", "evil:ATTACK")
    assert build_measurements(Report.model_validate_json(text)) is not None
    assert not (tmp_path / "ran").exists()
