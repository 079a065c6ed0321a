"""Contract: `relearn-strongest` is the most that a setting brings back without writing anything.

A setting that brings back much text that no model was trained on does not count. Each is tried
alike on base, edited model, and control; the result names the one that reached it, of how many.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reciting import PREFIX, SUFFIX, model_named, passages
from results import say_attacked
from tiny_compact import VOCABULARY

from evals.data import Samples
from evals.measure.attacks import draws, relearn, relearn_strongest, revive, tuning
from evals.measure.attacks.attack import UNTRAINED, AttackOutcome, Setting, Target
from evals.measure.attacks.names import make_attack
from evals.measure.attacks.relearn_strongest import Kind, Lessons
from evals.measure.attacks.result import Outcomes, measure_outcomes
from evals.measure.attacks.tuning import RATES, ROWS, fine_tune
from evals.table.limits import ask, decide
from surgery.errors import NotFiniteError
from surgery.record.measured import Measured, find
from surgery.training.losses import measure_loss
from surgery.training.student import cast_weights, make_student

TEXT_ROWS = np.random.default_rng(1).integers(2, VOCABULARY, (8, PREFIX + SUFFIX)).astype(np.int32)
FEW: Any = {"AdamW": (1e-3,), "SGD": (0.1,)}
WEAK = Setting("all weights", 1e-5, 20)
STRONG = Setting("all weights by SGD", 0.3, 120)
WILD = Setting("rank-8 adapters", 1e-3, 120)


def outcome(**recovered: list[int]) -> AttackOutcome:
    """Of four passages, of which the first was learned; by number of those that come back."""
    names = {"untrained": UNTRAINED, "weak": WEAK, "strong": STRONG, "wild": WILD}
    settings = {names[name]: np.isin(range(4), rows)[None] for name, rows in recovered.items()}
    tried = np.array([[False, True, True, True]])
    return AttackOutcome(np.any(list(settings.values()), axis=0), tried, variants=settings)


EDITED = outcome(untrained=[], weak=[1], strong=[1, 2], wild=[0, 1, 2, 3])


@pytest.mark.parametrize(
    ("control", "best"),
    [
        (None, WILD),
        (outcome(untrained=[], weak=[], strong=[], wild=[]), WILD),
        (outcome(untrained=[], weak=[], strong=[], wild=[2]), STRONG),
        (outcome(untrained=[2], weak=[2], strong=[2], wild=[1, 2]), STRONG),
        (outcome(untrained=[], weak=[], strong=[0], wild=[2]), STRONG),  # it was learned
        (outcome(untrained=[], weak=[]), WEAK),  # no time for the others
        (outcome(untrained=[], weak=[3], strong=[3], wild=[3]), UNTRAINED),
    ],
)
def test_what_counts(control: AttackOutcome | None, best: Setting) -> None:
    found, made = EDITED.take_strongest(control)
    assert found == best
    assert made.recovered.tolist() == EDITED.settings[best].tolist()
    some = np.array([False, True, False, True])
    assert EDITED.select(some).settings[STRONG].tolist() == [[True, False]]


@given(st.integers(0, 200), st.integers(1, 200), st.integers(0, 200), st.integers(1, 200))
def test_a_setting_may_bring_back_a_tenth_as_much_of_the_control(
    found: int, passages: int, new: int, others: int
) -> None:
    """One hit among many does not void an attack that gets half of the passages."""
    found, new = min(found, passages), min(new, others)

    def make(count: int, n: int) -> AttackOutcome:
        flags, nothing = np.arange(n) < count, np.zeros(n, dtype=bool)
        return AttackOutcome(flags, ~nothing, variants={UNTRAINED: nothing, STRONG: flags})

    best, _ = make(found, passages).take_strongest(make(new, others))
    counts = 10 * new * passages <= found * others
    assert best == (STRONG if counts and found else UNTRAINED)


def measure(
    edited: AttackOutcome,
    base: AttackOutcome,
    control: AttackOutcome,
    name: str = "relearn-strongest",
) -> list[Measured]:
    outcomes = Outcomes(base, edited, control=control)
    return list(measure_outcomes(make_attack(name), outcomes, "edited", "all"))


def test_the_result_names_what_reached_it() -> None:
    attack = make_attack("relearn-strongest")
    base = outcome(untrained=[1], weak=[1, 2, 3], strong=[1], wild=[1])
    control = outcome(untrained=[], weak=[], strong=[], wild=[3])
    rows = measure(EDITED, base, control)
    counts = [row.details["count"] for row in rows if row.name == f"recovered.{attack.name}"]
    assert counts == [3, 2, 0], "of the base, the edited model, and the control"
    known = {"learned": "all weights by SGD", "learning_rate": 0.3, "steps": 120, "settings": 3}
    made = find(rows, f"recovered.{attack.name}")
    assert made is not None
    assert {**made.details, **known, "discarded": 1.0} == made.details
    told = "recovers most after training all weights by SGD for 120 steps at 0.3 (of 3 settings)"
    assert f"{attack.name} {told}" in say_attacked(rows)


def test_a_limit_is_not_kept_by_settings_that_do_not_count() -> None:
    """Those that bring back much of the control tell nothing. That is no reason to rely on it."""
    attack = make_attack("relearn-strongest")
    every = outcome(untrained=[], weak=[3], strong=[3], wild=[3])
    rows = measure(EDITED, EDITED, every)
    made = find(rows, f"recovered.{attack.name}")
    assert made is not None
    assert (made.details["count"], made.details["discarded"]) == (0, 1.0)
    rows[0] = rows[0].model_copy(update={"value": 1.0})  # the base gives away all
    (limit,) = decide(rows, ask({attack.name: 0.9}), "edited")
    said = "a setting of relearn-strongest recovers 100.0%, and does not count, as it also brings"
    assert limit.state == "undecided"
    assert said in str(limit.lacks)
    assert any(line.startswith(said) for line in say_attacked(rows))
    none = outcome(untrained=[], weak=[], strong=[], wild=[])
    clear = find(measure(none, EDITED, none), f"recovered.{attack.name}")
    assert clear is not None
    assert not {"discarded", "doubt"} & clear.details.keys()


def test_a_first_draw_that_counts_nothing_has_no_curve() -> None:
    """A search may have used all passages that it tried. The other draws still count."""
    attack = make_attack("relearn")
    tried = np.array([[False, False, True], [True, True, False]])
    flags = np.ones((len(attack.stages), 3), dtype=np.bool_)
    whole = AttackOutcome(np.ones_like(tried), tried, flags)
    some = whole.select(np.array([True, True, False]))
    rows = measure(some, some, whole, "relearn")
    assert {row.name for row in rows} == {"recovered.relearn"}, "no curve"
    assert [(row.n, row.value) for row in rows] == [(2, 1), (2, 1), (3, 1)]
    assert "doubt" not in rows[1].details
    curve = [row for row in measure(whole, whole, some, "relearn") if " " in row.name]
    assert [(row.of, row.on) for row in curve] == [("base", "all"), ("edited", "all")] * 4
    assert {(row.n, row.value) for row in curve} == {(1, 1)}


def test_training_that_breaks_the_model_brings_nothing_back(
    few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float16, a high learning rate may do so. A model that is broken before is an error."""
    rows, broken = passages("neox-parallel", rows=20), model_named("neox-parallel")
    broken = cast_weights(broken, torch.float32)
    with torch.no_grad():
        broken.gpt_neox.layers[2].attention.dense.bias[:] = float("nan")
    for module in (relearn_strongest, relearn):
        monkeypatch.setattr(module, "fine_tune", lambda *a, steps, **k: [broken] * len(steps))
    monkeypatch.setattr(revive, "learn_attention", lambda *given: [broken] * 3)
    said: list[str] = []
    monkeypatch.setattr(draws, "say", said.append)
    for name in ("relearn", "relearn-strongest", "revive"):
        sound = target_of(model_named("neox-parallel"), rows, draws=1, cut=(2,))
        found = make_attack(name).run(sound)
        untrained = found.settings.get(UNTRAINED, np.zeros_like(found.recovered))
        assert np.array_equal(found.recovered, untrained)
        with pytest.raises(NotFiniteError, match="likelihoods that are not finite"):
            make_attack(name).run(target_of(broken, rows, draws=1))
    assert said == [
        *(f"relearn, run 1, at {rate:g}: fine-tuning breaks the model by step 5" for rate in RATES),
        "revive, run 1: training breaks the model by step 20",
    ]


def test_stages_before_training_breaks_the_model_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker stops in time."""
    rows, whole = passages("neox-parallel", rows=20), model_named("neox-parallel")

    def tune(model: Any, *given: Any, **more: Any) -> Iterator[Any]:
        yield whole
        raise NotFiniteError("training gives a loss that is not finite")

    monkeypatch.setattr(relearn, "fine_tune", tune)
    edited = model_named("neox-parallel compact identity")
    found = make_attack("relearn").run(target_of(edited, rows, draws=1))
    alone, expected = (
        make_attack("any").run(target_of(model, rows)).recovered for model in (edited, whole)
    )
    assert expected.any()
    assert found.curve is not None
    assert found.curve.tolist() == [
        alone.tolist(), expected.tolist(), *2 * [[False] * 20]
    ]  # fmt: skip
    assert found.take_strongest(None)[1].recovered.tolist() == [expected.tolist()]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearn_strongest, "STEPS", (1, 2))
    monkeypatch.setattr(relearn_strongest, "OPTIMIZERS", FEW)


def target_of(model: Any, samples: Samples, **more: Any) -> Target:
    return Target(model, None, samples, TEXT_ROWS, **more)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_setting_is_tried_alike(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = passages("neox-parallel", rows=20)
    base, edited = model_named("neox-parallel"), model_named("neox-parallel compact identity")
    before = {name: tensor.clone() for name, tensor in edited.state_dict().items()}
    attack = make_attack("relearn-strongest")
    control = Samples(TEXT_ROWS, PREFIX, tuple(map(str, range(8))), "text")
    of_base = attack.run(target_of(base, rows, draws=2))
    given: Any = {"draws": 2, "trainings": of_base.trainings}
    others = [attack.run(target_of(edited, some, **given)) for some in (rows, control)]
    assert len(of_base.settings) == 1 + 3 * 2, "3 trainings, 2 looks"
    for one in others:
        assert one.settings.keys() == of_base.settings.keys()
    assert all(flags.shape == (2, 20) for flags in of_base.settings.values())
    assert all((edited.state_dict()[name] == before[name]).all() for name in before)


def test_what_an_attacker_learns_chooses_by_and_is_scored_on_are_apart() -> None:
    rows = passages("neox-parallel", rows=20)
    text = np.concatenate([rows.tokens[:1], TEXT_ROWS])  # text that gives a passage away
    target = replace(target_of(model_named("neox-parallel"), rows), unrelated=text)
    for draw in range(5):
        lessons = Lessons.of(target, draw)
        learned = {*map(tuple, lessons.many)}
        apart, tried = ({*map(tuple, rows.tokens[some])} for some in (lessons.apart, lessons.tried))
        assert {*map(tuple, lessons.few)} <= learned
        assert (len(lessons.few), len(learned), len(apart)) == (2, 8, 2)
        assert not learned & (apart | tried)
        assert not apart & tried
        assert not {*map(tuple, lessons.text)} & tried
        mixed = lessons.choose(Kind("all weights", "AdamW", few=False, mixed=True))
        step = [tuple(row) in learned for row in mixed[:ROWS]]
        assert step.count(True) == ROWS // 2


def test_rates_are_settled_once_for_what_learns_and_the_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the first rate that leaves the base what it gives after the last step."""
    monkeypatch.setattr(relearn_strongest, "STEPS", (1,))
    whole, cut = model_named("neox-parallel"), model_named("neox-parallel compact identity")
    trained: list[tuple[str, str, float]] = []

    def tune(model: Any, rows: Any, *, learning_rate: float, **how: Any) -> Any:
        trained.append((how["learned"], how["optimizer"], learning_rate))
        return iter([whole if learning_rate < 1e-3 or how["optimizer"] == "SGD" else cut])

    monkeypatch.setattr(relearn_strongest, "fine_tune", tune)
    rows = passages("neox-parallel", rows=20)
    make_attack("relearn-strongest").run(target_of(whole, rows, draws=1))
    assert trained == [
        *(("all weights", "AdamW", rate) for rate in (1e-3, 3e-4)),
        ("all weights", "SGD", 1.0),
        *(("rank-8 adapters", "AdamW", rate) for rate in (1e-3, 3e-4)),
    ]


def test_the_clock_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is: as many draws, and as many settings in each."""
    models = [model_named("neox-parallel")]
    clock = count(step=10_000.0)
    for name in ("perf_counter", "monotonic", "time"):
        monkeypatch.setattr(time, name, lambda: next(clock))
    for module in (relearn, relearn_strongest):
        monkeypatch.setattr(module, "fine_tune", lambda *a, steps, **k: models * len(steps))
    target = target_of(models[0], passages("neox-parallel", rows=400))
    number = {"relearn": len(relearn.STEPS), "relearn-strongest": 3 * len(relearn_strongest.STEPS)}
    for name, settings in number.items():
        found = make_attack(name).run(target)
        assert (found.draws, len(found.settings)) == (draws.DRAWS, 1 + settings)


def test_rates_begin_with_those_of_relearn() -> None:
    assert relearn_strongest.OPTIMIZERS["AdamW"] == RATES
    first, *_ = relearn_strongest.TRIED
    assert (first.learned, first.optimizer) == ("all weights", "AdamW")


def test_no_training_of_a_large_model_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters are trained there in place of all weights. The result says so."""
    monkeypatch.setattr(tuning, "LARGE", 0)
    monkeypatch.setattr(relearn_strongest, "STEPS", (1,))
    model, rows = model_named("neox-parallel"), passages("neox-parallel", rows=20)
    monkeypatch.setattr(relearn_strongest, "fine_tune", lambda *a, steps, **k: [model])
    found = make_attack("relearn-strongest").run(target_of(model, rows, draws=1))
    learned = [
        one.learned.removesuffix(" on half of the passages") for one in found.trainings or ()
    ]
    assert learned == ["rank-8 adapters", "rank-8 adapters by SGD"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("learned", relearn_strongest.LEARNED)
def test_what_is_trained(learned: Any) -> None:
    model = model_named("neox-parallel")
    before = dict(model.state_dict())
    rows = passages("neox-parallel", rows=4).tokens
    (tuned,) = fine_tune(model, rows, steps=(2,), learned=learned, learning_rate=0.1)
    after = {name.replace(".base_layer", ""): one for name, one in tuned.state_dict().items()}
    changed = {name for name in before if (after[name] != before[name]).any()}
    if learned == "all weights":
        assert changed == {name for name, _ in model.named_parameters()}
        return
    assert not changed
    ranks = {min(one.shape) for name, one in after.items() if "lora" in name}
    assert ranks == {int(learned.split("-")[1].split()[0])}


def test_sgd_steps_by_the_gradient() -> None:
    """One step at a rate moves each weight by the rate times its gradient."""
    model, rows = model_named("neox-parallel"), passages("neox-parallel", rows=4).tokens
    (tuned,) = fine_tune(model, rows, steps=(1,), optimizer="SGD", learning_rate=0.5)
    student = make_student(model)
    measure_loss(student.model, torch.from_numpy(rows).long(), 1).backward()
    for (name, before), after, one in zip(
        model.named_parameters(), tuned.parameters(), student.learned, strict=True
    ):
        assert one.grad is not None
        torch.testing.assert_close(after, before - 0.5 * one.grad, msg=name)
