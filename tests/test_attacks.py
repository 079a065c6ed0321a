"""Contract: every attack recovers exactly what its definition says.

Each is compared with a slow, obvious implementation: attackers who really decode, draw, correct
and cut; and text that no model has seen is recovered as rarely as the control's.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reciting import PREFIX, SUFFIX, generate, model_named, passages
from results import compare
from tiny_compact import VOCABULARY
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from evals.choose.search.request import SearchRequest
from evals.data import Samples
from evals.jobs.asking import MeasureRequest
from evals.measure.attacks.attack import UNTRAINED, Setting, Target, count_held, draw_held, split
from evals.measure.attacks.names import ALL, CHEAP, DEFAULT, choose_attacks, make_attack
from evals.measure.attacks.perturbed import change_prefixes
from evals.measure.attacks.quantized import GROUP, quantize_matrices, round_to_levels
from evals.measure.attacks.relearn import SHARE
from evals.measure.attacks.trying import AttackPlan, try_attacks
from evals.measure.attacks.tuning import ROWS, STEPS, fine_tune, train
from evals.measure.memorization.recovery import NAMES, Evidence, make_recovery
from evals.measure.naming import name_figures
from evals.run.models import LoadedModel, open_model
from surgery.errors import MeasurementError
from surgery.exporting import export
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.training.loop import SCALE
from surgery.training.losses import measure_loss
from surgery.training.student import make_student

MODEL = tiny_model()
RIGHT = arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 24)))


def recovered(name: str, right, log_p_z=None):
    seen = Evidence(right, np.full(len(right), -np.inf) if log_p_z is None else log_p_z)
    return make_recovery(name).recovered(seen).tolist()


@given(RIGHT, st.integers(1, 6))
def test_hints_are_counted(right, most) -> None:
    """At most so many, and at most a quarter of the suffix: more would give most of it away."""
    allowed = min(most, right.shape[1] // 4)
    assert recovered(f"hints:{most}", right) == [list(row).count(False) <= allowed for row in right]


@given(RIGHT)
def test_greedy_is_right_everywhere_and_prefix_after_some_cut(right) -> None:
    assert recovered("greedy", right) == [all(row) for row in right]
    cuts = [max(0, right.shape[1] - 16)]  # the longest cut that leaves 16: later ones leave fewer
    by_cut = [any(all(row[cut:]) for cut in range(cuts[0] + 1)) for row in right]
    assert recovered("prefix", right) == by_cut


@given(arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 16))))
def test_prefix_of_a_short_suffix_is_greedy_and_says_so(right) -> None:
    """No cut but the suffix's own beginning leaves 16 tokens or more."""
    assert recovered("prefix", right) == recovered("greedy", right)
    assert "a suffix of 16 tokens or fewer" in make_attack("prefix").definition
    begins = make_attack("hints:1").definition.partition(",")[0], make_attack("hints:2").definition
    assert begins[0] == "at most 1 token of the suffix is wrong"
    assert begins[1].startswith("at most 2 tokens of the suffix are wrong, and at most one in 4:")


@given(RIGHT, st.integers(1, 24))
def test_a_span_is_a_run_of_right_tokens(right, length) -> None:
    wanted = "1" * min(length, right.shape[1])
    rows = ["".join("1" if token else "0" for token in row) for row in right]
    assert recovered(f"span:{length}", right) == [wanted in row for row in rows]


@given(st.floats(1e-6, 1.0), st.integers(1, 1000))
def test_sampling_is_the_chance_that_one_draw_of_many_is_right(p_z, draws) -> None:
    chance = 1 - (1 - p_z) ** draws
    if abs(chance - 0.5) > 1e-9:
        right = np.zeros((1, 4), dtype=bool)
        assert recovered(f"sampling:{draws}", right, np.log([p_z])) == [chance >= 0.5]


@given(RIGHT, st.data())
def test_any_is_any_of_its_parts(right, data) -> None:
    log_p_z = data.draw(arrays(np.float64, len(right), elements=st.floats(-20, 0)))
    parts = [recovered(n, right, log_p_z) for n in ("greedy", "hints:2", "prefix", "sampling:100")]
    assert recovered("any", right, log_p_z) == np.any(parts, axis=0).tolist()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("sampling:100", "any")])
def test_the_chance_is_that_of_tokens_that_are_right_independently(name) -> None:
    """By enumerating every combination of right and wrong tokens."""
    measure = make_recovery("span:3" if name.startswith("span") else name)
    p = np.asarray([0.9, 0.2, 0.7, 0.95, 0.6])
    every = (np.arange(2**5)[:, None] >> np.arange(5)) % 2 == 1
    weights = np.where(every, p, 1 - p).prod(axis=1)
    flags = measure.recovered(Evidence(every, np.full(len(every), -np.inf)))
    assert measure.chance(p, None) == pytest.approx(weights[flags].sum())


@pytest.mark.parametrize("name", ["hint:2", "hints:", "hints:0", "hints:02", "span", "any:1", ""])
def test_unknown_names(name) -> None:
    with pytest.raises(ValueError, match="no measure"):
        make_recovery(name)
    with pytest.raises(MeasurementError, match=r"no attack .*expected any, greedy"):
        make_attack(name)


@pytest.mark.parametrize("name", ["membership", "cheap", "quantized:04"])
def test_no_limit_is_dropped_in_silence(name) -> None:
    lab = {"max": {name: 0.1}, "baseline": "lab:pythia"}
    for ask in (
        lambda: MeasureRequest.of(command="audit", models=("edited",), **lab),
        lambda: MeasureRequest.of(command="evaluate", models=("edited",), **lab).attack_names,
        lambda: SearchRequest.of(model="m", samples="s", max=lab["max"]),
    ):
        with pytest.raises(
            MeasurementError, match=rf"no attack '{name}'|{name} (has a limit|stands)"
        ):
            ask()


def test_names_of_groups_and_of_settings() -> None:
    assert choose_attacks(["cheap"]) == CHEAP
    assert choose_attacks(["all"], sibling=True) == ALL
    assert choose_attacks([], sibling=True) == DEFAULT
    assert choose_attacks([]) == choose_attacks(["default"])
    assert choose_attacks(["relearn", "cheap", "relearn"])[0] == "relearn"
    for bits in ("1", "8", "nf4"):
        with pytest.raises(MeasurementError, match="no attack"):
            choose_attacks([f"quantized:{bits}"])


def test_the_default_attacks_hold_the_strongest() -> None:
    """Those that were the sole strongest in any of our tables, and what one pass decides."""
    lab = {"command": "audit", "models": ("edited",), "baseline": "lab:pythia"}
    asked = MeasureRequest.of(sibling="lab:pythia", **lab).attack_names
    strong = ("in-context", "quantized:4", "relearn", "relearn-strongest", "revive", "hints:8")
    assert {*CHEAP, *strong, "graft", "graft-wide"} == {*asked} - {"membership"}
    assert {*MeasureRequest.of(**lab).attack_names} == {*asked} - {"graft", "graft-wide"}


@pytest.fixture(
    scope="module",
    params=["neox-parallel", pytest.param("neo stock zero", marks=pytest.mark.slow)],
)
def target(request) -> Target:
    rows = passages(request.param)
    unrelated = np.random.default_rng(1).integers(2, VOCABULARY, (6, PREFIX + SUFFIX))
    unrelated = unrelated.astype(np.int32)
    return Target(model_named(request.param), None, rows, unrelated, draws=1)


def rows_of(tokens, prefix_length: int) -> Samples:
    return Samples(tokens, prefix_length, tuple(map(str, range(len(tokens)))), "made here")


def decoded(model, prefix) -> list[int]:
    return generate(model, torch.as_tensor(np.asarray(prefix))[None].long(), SUFFIX)[0].tolist()


@pytest.mark.parametrize("most", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_hints_are_those_of_an_attacker_who_is_corrected(target, most) -> None:
    """Decodes token by token; at each wrong one the attacker is told the true one."""
    expected = []
    for row in target.samples.tokens:
        hints = 0
        for place in range(PREFIX, len(row)):
            said = generate(target.model, torch.as_tensor(row[:place])[None].long(), 1)[0, 0]
            hints += int(said) != row[place]
        expected.append(hints <= most)
    assert make_attack(f"hints:{most}").run(target).recovered.tolist() == expected


def test_perturbed_prefixes_are_really_decoded(target) -> None:
    """Half of the passages are what the model says after a prefix without its first tokens."""
    samples = target.samples.select(np.arange(15) < 6)
    tokens = samples.tokens.copy()
    for row, dropped in zip(tokens, (1, 4, 1), strict=False):
        row[PREFIX:] = decoded(target.model, row[dropped:PREFIX])
    tokens[5, PREFIX:] = tokens[5, PREFIX:][::-1]
    target = replace(target, samples=replace(samples, tokens=tokens))
    kinds = list(change_prefixes(target))
    assert len(kinds) == 8
    expected = np.zeros(len(target.samples), dtype=bool)
    for some in kinds:
        for row, prefix in enumerate(some):
            if len(prefix):
                said = decoded(target.model, prefix)
                expected[row] |= said == target.samples.suffixes[row].tolist()
    assert 3 <= expected.sum() < 6
    assert make_attack("perturbed").run(target).recovered.tolist() == expected.tolist()


def test_prefixes_are_changed_as_they_are_said_to_be() -> None:
    tokenizer = tiny_tokenizer()
    ids = np.asarray(tokenizer(TEXT.title())["input_ids"][:20], dtype=np.int32)
    unrelated = np.full((1, 20), 5, dtype=np.int32)
    target = Target(tiny_model(), tokenizer, rows_of(np.stack([ids, ids[::-1]]), 18), unrelated)
    one, four, sixteen, *replaced, moved, upper, lower = (
        made[0] for made in change_prefixes(target)
    )
    assert [list(x) for x in (one, four, sixteen)] == [list(ids[k:18]) for k in (1, 4, 16)]
    assert all((x != ids[:18]).sum() == 1 and len(x) == 18 for x in replaced)
    assert list(moved) == [5] * 16 + list(ids[:18])
    text = tokenizer.decode(ids[:18].tolist())
    assert tokenizer.decode(upper.tolist()) == text.upper()
    assert tokenizer.decode(lower.tolist()) == text.lower()


def test_a_case_that_changes_nothing_is_no_change() -> None:
    """Else plain greedy decoding would count as a changed prefix."""
    tokenizer = tiny_tokenizer()
    ids = np.asarray(tokenizer(TEXT.lower())["input_ids"][:20], dtype=np.int32)
    rows = rows_of(ids[None], 18)
    *_, upper, lower = change_prefixes(Target(tiny_model(), tokenizer, rows, rows.tokens))
    assert len(upper[0])
    assert len(lower[0]) == 0
    *_, upper, lower = change_prefixes(Target(tiny_model(), None, rows, rows.tokens))
    assert len(upper[0]) == len(lower[0]) == 0


@given(arrays(np.int32, (4, 6), elements=st.integers(0, 3)), st.integers(0, 3))
def test_changed_prefixes_depend_on_the_passage_alone(rows, row) -> None:
    """Not on its place, nor on what is tried beside it; and one token really is another."""
    unrelated = np.arange(60, dtype=np.int32).reshape(3, 20)
    among, alone = (
        Target(MODEL, tiny_tokenizer(), rows_of(tokens, 4), unrelated)
        for tokens in (rows, rows[row : row + 1])
    )
    both = zip(change_prefixes(among), change_prefixes(alone), strict=True)
    made = [(some[row].tolist(), one[0].tolist()) for some, one in both]
    assert [one for one, _ in made] == [other for _, other in made]
    for changed, _ in made[3:5]:
        assert np.sum(np.asarray(changed) != rows[row, :4]) == 1


EVERY = (*ALL, "hints:3", "span:4", "sampling:7")
UNLABELED = ("any", "membership", "relearn")  # others do the same as one of these
NOTHING_READ = {("membership", False)}
"""Attacks, and whether membership is known, that have nothing to compare with."""


def mark(name: str, labeled: bool):
    slow = name == "relearn-strongest" if labeled else name not in UNLABELED
    return pytest.param(name, labeled, marks=[pytest.mark.slow] * slow)


@pytest.fixture(scope="module")
def cut_and_base(tmp_path_factory) -> tuple[LoadedModel, ResolvedModel]:
    """A model without attention in block 1, and the one that it was cut from."""
    folder = tmp_path_factory.mktemp("cut")
    base = save_tiny(folder / "base")
    export(base, "1", variant="zero", layout="stock", output=folder / "cut")
    loaded = open_model(str(folder / "cut"), device="cpu")
    assert loaded.cut == (1,)
    return loaded, find_model(base)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("name", "labeled"), [mark(name, labeled) for labeled in (True, False) for name in EVERY]
)
def test_passages_are_read_alike_with_the_control_and_without(
    name, labeled, cut_and_base, monkeypatch
) -> None:
    """The base is tried without it and the edited model with it: else nothing pairs.

    The same tokens in the same batches, in the order of the passages.
    """
    monkeypatch.setattr("evals.measure.attacks.relearn_strongest.STEPS", (1, 2))
    monkeypatch.setattr("evals.measure.attacks.revive.STEPS", (1, 3))
    loaded, sibling = cut_and_base
    rng = np.random.default_rng(3)
    rows, unrelated = (rng.integers(1, 300, (n, 20)).astype(np.int32) for n in (24, 5))
    members = np.arange(24) % 3 > 0 if labeled else None
    samples = replace(rows_of(rows, 11), members=members)
    plan = AttackPlan(samples, unrelated, (name,), batch_size=7, draws=2, sibling=sibling)
    read: list[list[list[int]]] = []
    hook = loaded.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: read.append(inputs[0].tolist())
    )
    alone = try_attacks(loaded, plan, with_control=False)
    number = len(read)
    beside = try_attacks(loaded, plan)
    hook.remove()
    assert (number == 0) == ((name, labeled) in NOTHING_READ)
    assert read[number:][:number] == read[:number]
    assert alone.passages.keys() == beside.passages.keys()
    assert name == "membership" or not alone.control
    for key, outcome in alone.passages.items():
        assert outcome.recovered.tolist() == beside.passages[key].recovered.tolist()
        for score, values in outcome.scores.items():
            assert np.array_equal(values, beside.passages[key].scores[score])


@given(arrays(np.float32, (3, 40), elements=st.floats(-2, 2, width=32)))
def test_weights_are_rounded_to_nearest_in_groups(values) -> None:
    rounded, levels = round_to_levels(torch.from_numpy(values)).numpy(), 7
    for row, out in zip(values, rounded, strict=True):
        for start in range(0, 40, GROUP):
            group, got = row[start : start + GROUP], out[start : start + GROUP]
            scale = np.float32(np.abs(group).max()) / np.float32(levels)
            assert np.abs(got - group).max() <= scale / 2 * (1 + 1e-5) + 1e-30
            assert len(np.unique(got)) <= 2 * levels + 1


def test_a_quantized_model_is_asked(target) -> None:
    """What the rounded model says, it recites; the model as it is does not."""
    rounded = copy.deepcopy(target.model)
    for weight in rounded.parameters():
        if weight.ndim == 2:
            weight.data = round_to_levels(weight.data)
    tokens = target.samples.tokens.copy()
    for row in tokens:
        row[PREFIX:] = decoded(rounded, row[:PREFIX])
    said = replace(target, samples=replace(target.samples, tokens=tokens))
    assert make_attack("quantized:4").run(said).recovered.all()
    assert not make_attack("any").run(said).recovered.all()


def test_a_quantized_model_is_put_back(target) -> None:
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    with quantize_matrices(target.model):
        inside = target.model.state_dict()
        assert any(not torch.equal(inside[name], before[name]) for name in before)
    after = target.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_relearning_trains_a_copy_as_an_obvious_loop_does(target) -> None:
    model, rows = target.model, target.samples.tokens[:3]
    before = copy.deepcopy(model.state_dict())
    *_, last = fine_tune(model, rows, learning_rate=1e-4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    obvious = copy.deepcopy(model).float()
    obvious.requires_grad_(True)
    optimizer = torch.optim.AdamW(obvious.parameters(), lr=1e-4, weight_decay=0.0)
    tokens = torch.from_numpy(rows.astype(np.int64))
    for _ in range(STEPS[-1]):  # three rows, fewer than a step takes, are one batch
        assert len(tokens) <= ROWS
        loss = obvious(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in obvious.state_dict().items():
        torch.testing.assert_close(last.state_dict()[name], value, rtol=2e-3, atol=2e-5)


def test_each_step_takes_the_next_rows(target, monkeypatch) -> None:
    """More than a step takes are all learned, in a cycle."""
    taken, sizes = [], set()

    def measure(model, batch):
        taken.extend(batch[:, 0].tolist())
        sizes.add(len(batch))
        return measure_loss(model, batch)

    monkeypatch.setattr("evals.measure.attacks.tuning.measure_loss", measure)
    rows = np.arange(70, dtype=np.int32)[:, None].repeat(3, axis=1)
    given = target.model, make_student, rows, 4, 0.1
    assert [step for step, _ in train(*given)] == [1, 2, 3, 4]
    assert taken == [at % 70 for at in range(4 * ROWS)]
    assert sizes == {ROWS}


def test_a_bfloat16_model_is_tuned_in_float32_and_stays_in_bfloat16(target) -> None:
    rows = target.samples.tokens[:3]
    *_, exact = fine_tune(target.model, rows, learning_rate=1e-4)
    *_, tuned = fine_tune(copy.deepcopy(target.model).bfloat16(), rows, learning_rate=1e-4)
    assert {weight.dtype for weight in tuned.parameters()} == {torch.bfloat16}
    tokens = torch.from_numpy(rows.astype(np.int64))
    losses = [float(one(tokens, labels=tokens).loss.detach()) for one in (exact, tuned)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_large_models_are_tuned_by_adapters_alone(target, monkeypatch) -> None:
    monkeypatch.setattr("evals.measure.attacks.tuning.LARGE", 0)
    before = copy.deepcopy(target.model.state_dict())
    *_, tuned = fine_tune(target.model, target.samples.tokens[:3], learning_rate=1e-4)
    after = tuned.state_dict()
    for name, value in before.items():
        kept = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        if kept is None:
            kept = after[name.replace(".bias", ".base_layer.bias")]
        assert torch.equal(kept, value), name
    assert any("lora" in name and value.abs().sum() > 0 for name, value in after.items())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    *_, again = fine_tune(target.model, target.samples.tokens[:3], learning_rate=1e-4)
    assert all(torch.equal(after[name], value) for name, value in again.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(before[name], value) for name, value in target.model.state_dict().items()
    )


@pytest.mark.parametrize("name", ["quantized:4", "relearn", "revive"])
def test_weights_that_are_offloaded_cannot_be_changed(target, name) -> None:
    with torch.device("meta"):
        elsewhere = type(target.model)(target.model.config)
    with pytest.raises(MeasurementError, match="needs every weight in memory"):
        make_attack(name).run(replace(target, model=elsewhere))


def test_what_was_learned_again_does_not_count(target) -> None:
    outcome = make_attack("relearn").run(target)
    assert (~outcome.tried).sum() == 1  # of fifteen
    assert outcome.curve is not None
    assert outcome.curve.shape == (4, 15)


@pytest.mark.parametrize("rates", [(1e-4, 0.01), (0.01, 1e-4)])
def test_relearning_counts_the_rate_that_brings_most_back(rates, monkeypatch) -> None:
    """In a search, too, which learns as many passages of a half as an audit of all."""
    samples, greedy = passages("neo stock zero"), make_recovery("greedy")
    target = Target(model_named("neo stock zero"), None, samples, samples.tokens, draws=1)
    monkeypatch.setattr("evals.measure.attacks.relearn.RATES", rates)
    monkeypatch.setattr("evals.measure.attacks.attack.make_recovery", lambda name: greedy)
    attack = make_attack("relearn")
    for share, more in ((SHARE, {}), (SHARE // 2, {"of": 2 * len(samples)})):
        held, others = split(samples, share)
        told = {}
        for rate in rates:
            tuned = fine_tune(target.model, samples.tokens[held], learning_rate=rate)
            for steps, model in zip(STEPS, tuned, strict=True):
                seen = replace(target, model=model).read(samples.tokens, samples.prefix_length)
                told[rate, steps] = greedy.recovered(Evidence.of(seen))
        trainings = tuple(Setting("all weights", rate, STEPS[-1]) for rate in rates)
        found = attack.run(replace(target, trainings=trainings, **more))
        assert {
            (one.learning_rate, one.steps): flags[0].tolist()
            for one, flags in found.settings.items()
            if one != UNTRAINED
        } == {key: flags.tolist() for key, flags in told.items()}
        most = max(flags[others].sum() for flags in (found.settings[UNTRAINED][0], *told.values()))
        assert found.take_strongest(None)[1].counted.sum() == most


def test_each_draw_learns_its_own_tenth_and_counts_the_others(monkeypatch) -> None:
    """Text that is learned never counts. The curve of the first draw goes by the steps."""
    samples = passages("neo stock zero", rows=40)
    target = Target(model_named("neo stock zero"), None, samples, samples.tokens, draws=3)
    learned: list[list[list[int]]] = []

    def tune(model, rows, *, steps, **how):
        learned.append(sorted(rows.tolist()))
        return [model] * len(steps)

    monkeypatch.setattr("evals.measure.attacks.relearn.fine_tune", tune)
    two = tuple(Setting("all weights", rate, STEPS[-1]) for rate in (1e-3, 1e-4))
    outcome = make_attack("relearn").run(replace(target, trainings=two))
    draws = learned[::2]
    assert draws == learned[1::2]
    assert len(draws) == 3
    for draw, (rows, tried) in enumerate(zip(draws, outcome.tried, strict=True)):
        held, _ = split(samples, SHARE, draw)
        assert rows == sorted(samples.tokens[held].tolist())
        assert not {*map(tuple, rows)} & {*map(tuple, samples.tokens[tried].tolist())}


@given(st.integers(1, 500), st.floats(0.05, 0.95))
def test_a_search_attacks_each_part_with_as_much_as_an_audit_of_all(number, share) -> None:
    """However it splits the passages, unless a part is so small that half of it is less."""
    chosen = math.ceil(round(share * number, 9))
    parts = (chosen, number - chosen)
    for part in filter(None, parts):
        held = count_held(part, SHARE, number)
        assert held == count_held(number, SHARE) or held == max(1, part // 2)
        assert 1 <= held <= max(1, part // 2)


@pytest.mark.usefixtures("few_steps")
def test_base_edit_and_control_are_attacked_in_the_same_draws(loaded, monkeypatch) -> None:
    """Each draw learns another tenth."""
    rng = np.random.default_rng(3)
    rows, unrelated = (rng.integers(1, 300, (n, 20)).astype(np.int32) for n in (24, 5))
    plan = AttackPlan(rows_of(rows, 11), unrelated, ("relearn",))
    base = try_attacks(loaded, plan)
    edited = try_attacks(loaded, plan, base)
    rows = [row for row in compare(plan, base, edited) if row.name == "recovered.relearn"]
    assert [(row.of, row.on, row.runs) for row in rows] == [
        ("base", "all", 3),
        ("edited", "all", 3),
        ("edited", "never trained on", 3),
    ]
    tried = base.passages["relearn"].tried
    assert np.array_equal(tried, edited.passages["relearn"].tried)
    assert len({row.tobytes() for row in tried}) == 3
    assert (rows[1].n, tried.sum(axis=1).tolist()) == (24, [22, 22, 22])
    alone = try_attacks(loaded, plan, with_control=False).passages["relearn"]
    named = name_figures(rows)["recovered.relearn"]
    assert (alone.draws, named.label) == (3, "recovered by relearn, mean of 3 runs")
    assert np.array_equal(alone.tried[0], tried[0])


@pytest.mark.usefixtures("few_steps")
def test_small_gradients_of_float16_do_not_vanish(target, monkeypatch) -> None:
    """With a loss of which most half-precision gradients would be zero."""
    rows, moved = target.samples.tokens, {}
    monkeypatch.setattr(
        "evals.measure.attacks.tuning.measure_loss",
        lambda model, *given: 1e-5 * measure_loss(model, *given),
    )
    monkeypatch.setattr("evals.measure.attacks.tuning.LARGE", 0)  # adapters: weights stay half
    half = copy.deepcopy(target.model).half()
    for scale in (1.0, SCALE):
        monkeypatch.setattr("surgery.training.student.SCALE", scale)
        (tuned,) = fine_tune(half, rows, steps=(1,), learning_rate=1e-2)
        adapters = [one for name, one in tuned.named_parameters() if "lora_B" in name]
        moved[scale] = sum(int((one.abs() > 1e-3).sum()) for one in adapters)
    assert moved[SCALE] > 2 * moved[1.0]


def test_draws_that_differ_later_all_run(target) -> None:
    """Of few passages the attacker holds one, by chance the same one in the first two draws."""
    held = {
        number: [draw_held(number, SHARE, draw) for draw in range(5)] for number in range(2, 15)
    }
    number = next(
        number
        for number, (first, second, *others) in held.items()
        if np.array_equal(first, second) and not all(np.array_equal(first, one) for one in others)
    )
    some = target.samples.select(np.arange(15) < number)
    found = make_attack("relearn").run(replace(target, samples=some, draws=5))
    assert found.draws == 5
    assert np.array_equal(found.tried, [~one for one in held[number]])


@pytest.mark.parametrize("shift", [0, 2])
def test_nothing_is_tried_that_was_learned_again(shift, loaded) -> None:
    """Not a copy of a passage, nor a window that overlaps it."""
    text = np.random.default_rng(4).integers(1, 300, (30, 22))
    rows = np.concatenate([text[:, :20], text[:, shift : shift + 20]]).astype(np.int32)
    target = Target(loaded.model, None, rows_of(rows, 4), rows, draws=2)
    outcome = make_attack("relearn").run(target)
    for draw, tried in enumerate(outcome.tried):
        learned = np.random.default_rng(draw).permutation(60)[:6]
        twins = np.concatenate([learned % 30, learned % 30 + 30])
        assert sorted(np.flatnonzero(~tried)) == sorted(set(twins.tolist()))


def test_passages_of_which_none_is_left_to_relearn_from(loaded) -> None:
    rows = np.full((5, 20), 7, dtype=np.int32)
    samples = Samples(rows, 4, tuple("abcde"), "windows.npy")
    plan = AttackPlan(samples, rows, ("any", "relearn"))
    assert [attack.name for attack in plan.tried] == ["any"]
    assert plan.skipped == {"relearn": "passages that do not overlap those that the attacker holds"}
    with pytest.raises(MeasurementError, match=r"windows.npy: relearn has a limit and cannot be"):
        AttackPlan(samples, rows, ("any", "relearn"), limited=("relearn",))


@pytest.mark.slow
def test_what_a_model_never_saw_is_recovered_like_the_control() -> None:
    """Every attack on the lab's non-members, as if they were passages, against held-out text."""
    from evals.data import load_samples
    from evals.data.windows import cut_windows
    from evals.lab import heldout_texts

    loaded, samples = open_model("lab:pythia", dtype="float32"), load_samples("lab:pythia")
    never = replace(samples.select(~samples.members), members=None)
    windows = cut_windows(heldout_texts(), loaded.tokenizer, samples.tokens.shape[1])[: len(never)]
    names = tuple(name for name in ALL if name != "membership")
    plan = AttackPlan(never, windows, names, draws=1)
    found = try_attacks(loaded, plan)
    for name, outcome in found.passages.items():
        if outcome.settings:
            outcome = outcome.take_strongest(found.control[name])[1]
        assert outcome.counted.mean() <= 0.05, name
        control = found.control[name]
        if control.settings:
            continue  # settings that bring any of it back do not count
        control = control.counted  # none where the attack trains on that text
        assert control.sum() <= 0.05 * len(control), name


def test_corrections_of_every_token_recover_nothing() -> None:
    """With as many hints as the suffix has tokens, anything at all would count."""
    assert recovered("hints:4", np.zeros((1, 4), dtype=np.bool_)) == [False]
