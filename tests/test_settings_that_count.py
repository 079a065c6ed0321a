"""Contract: of an attack that trains, the rate and number of steps count that recover most.

Rates go down until one leaves the base most of what it gives; the edited model and the control get
the same ones. Where none does, little that is recovered shows nothing. Training that breaks a model
ends at once, and progress tells how far it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from reciting import PREFIX, SUFFIX, model_named, passages
from results import compare, say_attacked
from tiny_compact import VOCABULARY
from torch import nn

from evals.choose.grid import EditPoint
from evals.choose.search.report import _decide, _list_rows
from evals.choose.search.run import _find_doubts
from evals.choose.search.trials import Trials
from evals.data import Samples
from evals.measure.attacks import relearn, relearn_strongest, revive, tuning
from evals.measure.attacks.attack import UNTRAINED, AttackOutcome, Setting, Target
from evals.measure.attacks.names import make_attack
from evals.measure.attacks.result import Outcomes, measure_outcomes
from evals.measure.attacks.trying import KINDS, AttackPlan, Tried, try_attacks
from evals.measure.attacks.tuning import RATES, STEPS, fine_tune
from evals.measure.edits.engine import BASE
from evals.measure.naming import name_figures
from evals.run.console import Console, use_console
from evals.run.keep import Store
from evals.run.lm_eval.request import Tasks
from evals.table.limits import ask, decide
from evals.table.measured import measure_share, measure_value
from surgery.card.measurements import Line, show
from surgery.errors import NotFiniteError
from surgery.record.measured import Limit, Measured, find
from surgery.record.report import Report
from surgery.training.loop import descend
from surgery.training.student import cast_weights, copy_sharing

WHOLE, CUT = "neox-parallel", "neox-parallel compact identity"
TEXT_ROWS = np.random.default_rng(1).integers(2, VOCABULARY, (8, PREFIX + SUFFIX)).astype(np.int32)
ROWS = passages(WHOLE, rows=20)


def target_of(model: Any, samples: Samples = ROWS, **more: Any) -> Target:
    return Target(model, None, samples, TEXT_ROWS, draws=1, **more)


def recited(model: Any) -> Any:
    return make_attack("any").run(target_of(model)).recovered


def tune_to(monkeypatch: pytest.MonkeyPatch, choose: Any) -> list[tuple[Any, float]]:
    """Training gives `choose(model, rate, stage)`. Returns what is trained, at which rate."""
    trained: list[tuple[Any, float]] = []

    def tune(model: Any, rows: Any, *, learning_rate: float, steps: Any, **how: Any) -> Any:
        trained.append((model, learning_rate))
        return [choose(model, learning_rate, stage) for stage in range(len(steps))]

    for module in (relearn, relearn_strongest):
        monkeypatch.setattr(module, "fine_tune", tune)
    return trained


def make_trainings(*rates: float, steps: int = STEPS[-1], of: str = "") -> tuple[Setting, ...]:
    learned = "all weights" + " on half of the passages" * (of == "relearn-strongest")
    return tuple(Setting(learned, rate, steps) for rate in rates)


def decide_one(rows: list[Measured], name: str, most: float) -> Limit:
    """The limit on what an attack recovers, where the base gives away all."""
    known = [
        row.model_copy(update={"value": 1.0}) if row.of == "base" else row
        for row in rows
        if row.name == f"recovered.{name}"
    ]
    (limit,) = decide(known, ask({name: most}), "edited")
    return limit


# --- steps


@pytest.mark.parametrize("of", [None, 40])
@pytest.mark.parametrize("name", ["relearn", "relearn-strongest"])
def test_an_attacker_stops_where_most_comes_back(
    name: str, of: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an audit, and in a search, where each attack is brief."""
    whole, cut = model_named(WHOLE), model_named(CUT)
    tune_to(monkeypatch, lambda model, rate, stage: whole if stage == 0 else cut)
    attack = make_attack(name)
    found = attack.run(target_of(cut, of=of))
    best, made = found.take_strongest(None)
    assert best.steps == STEPS[0] == relearn_strongest.STEPS[0]
    assert made.counted.tolist() == recited(whole)[found.tried[0]].tolist()
    assert made.counted.mean() > recited(cut)[found.tried[0]].mean()
    rate = made.counted.mean()
    if of is None:
        rows = list(measure_outcomes(attack, Outcomes(found, found), "edited", "all"))
        row = find(rows, f"recovered.{name}")
        assert row is not None
        assert (row.value, row.details["steps"]) == (rate, best.steps)
        assert decide_one(rows, name, 0.1).state == "missed"
        return
    monkeypatch.setattr("evals.choose.search.trials.Trials._run", lambda *given: found)
    halves = 2 * (SimpleNamespace(samples=SimpleNamespace(groups=None)),)
    opened: Any = SimpleNamespace(
        slow=(name,), others={}, drop_limits={}, healing=None, halves=halves
    )
    trials = Trials(opened, ("here", "there"))  # type: ignore[arg-type]
    (row,) = trials.attack(EditPoint((), ())).tried
    assert (row.name, row.value, row.n) == (f"recovered.{name}", rate, len(made.counted))


def test_who_wakes_attention_stops_where_most_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model as it is counts, too; it is what a compact export gives, not what is woken."""
    whole, cut = model_named(WHOLE), model_named(CUT)
    broken = copy_sharing(whole, lambda _, one: torch.zeros_like(one))
    monkeypatch.setattr(revive, "learn_attention", lambda *_: iter((broken, whole, broken)))
    found = make_attack("revive").run(target_of(cut, cut=(1, 3)))
    assert found.settings[UNTRAINED].tolist() == [recited(cut).tolist()]
    best, made = found.take_strongest(None)
    assert (best.learned, best.steps) == ("attention of the cut blocks", revive.STEPS[1])
    assert made.recovered.tolist() == [recited(whole).tolist()]


def test_the_curve_begins_with_the_model_as_it_is_and_takes_the_best_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, cut = model_named(WHOLE), model_named(CUT)
    gives = {RATES[0]: (whole, cut, cut), RATES[1]: (cut, whole, cut)}
    tune_to(monkeypatch, lambda model, rate, stage: gives[rate][stage])
    attack = make_attack("relearn")
    found = attack.run(target_of(cut, trainings=make_trainings(*RATES[:2])))
    assert attack.stages == (0, *STEPS)
    shares = [recited(model).tolist() for model in (cut, whole, whole, cut)]
    assert found.curve is not None
    assert found.curve.tolist() == shares


# --- rates


def gentle(model: Any, rate: float, stage: int) -> Any:
    """Training destroys what a model knows at rates above 1e-4, after some steps."""
    return model_named(CUT) if rate > 1e-4 and stage else model


def test_rates_go_down_until_one_leaves_the_base_what_it_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After its last step: that it does so earlier shows nothing of the others."""
    trained = tune_to(monkeypatch, gentle)
    base = make_attack("relearn").run(target_of(model_named(WHOLE)))
    assert [rate for _, rate in trained] == [1e-3, 3e-4, 1e-4]
    assert base.trainings == make_trainings(*RATES[:3])
    left = {rate: share for (_, rate), share in base.left.items()}
    assert (left[1e-4], list(left)) == (1.0, [1e-3, 3e-4, 1e-4])
    assert left[1e-3] == left[3e-4] < 0.9
    trained.clear()
    monkeypatch.setattr("evals.measure.attacks.attack.KEPT", 0.0)
    monkeypatch.setattr(relearn, "KEPT", 0.0)
    make_attack("relearn").run(target_of(model_named(WHOLE)))
    assert [rate for _, rate in trained] == [1e-3]
    trained.clear()
    make_attack("relearn").run(replace(target_of(model_named(WHOLE)), draws=3))
    assert [rate for _, rate in trained] == [1e-3] * 3, "the first run settles it for all"


def test_a_model_that_gives_nothing_gets_every_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can say which rate leaves it what it gives."""
    trained = tune_to(monkeypatch, lambda model, rate, stage: model)
    never = Samples(TEXT_ROWS, PREFIX, tuple(map(str, range(8))), "text")
    found = make_attack("relearn").run(target_of(model_named(WHOLE), never))
    assert not found.recovered.any()
    assert [rate for _, rate in trained] == list(RATES)
    assert found.left == {}


def try_both(monkeypatch: pytest.MonkeyPatch, choose: Any, name: str = "relearn") -> Any:
    """The rows of an attack on a model and its cut, and what was trained, at which rate."""
    trained = tune_to(monkeypatch, choose)
    plan = AttackPlan(ROWS, TEXT_ROWS, (name,), draws=1)

    def attack(model: Any, base: Any = None) -> Any:
        loaded: Any = SimpleNamespace(
            model=model_named(model), tokenizer=None, name=model, cut=(), provenance={}
        )
        return try_attacks(loaded, plan, base, with_control=base is not None)

    base = attack(WHOLE)
    edited = attack(CUT, base)
    return compare(plan, base, edited), trained


def test_the_edited_model_and_the_control_get_the_rates_of_the_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, trained = try_both(monkeypatch, gentle)
    rates = [rate for _, rate in trained]
    assert rates == [1e-3, 3e-4, 1e-4] * 3, "base, edited model, control"
    assert [model is model_named(WHOLE) for model, _ in trained] == [True] * 3 + [False] * 6
    best = {of: find(found, "recovered.relearn", of) for of in ("base", "edited")}
    each = [row for row in found if row.name.startswith("recovered.relearn at ")]
    names = [f"recovered.relearn at {rate}" for rate in ("0.001", "0.0003", "0.0001")]
    assert [(row.name, row.of) for row in each] == [
        (name, of) for name in names for of in ("base", "edited")
    ]
    assert {(row.of, row.value) for row in each} == {
        (of, row.value) for of, row in best.items() if row
    }, "at their best"
    assert each[-2].details["base_left"] == 1.0
    assert best["edited"] is not None
    assert "doubt" not in best["edited"].details
    named = name_figures(found)
    line = Line(names[0], named[names[0]], each[0], [each[1]])
    shown = show(Report.model_construct(names=named, figures=found), line, each[0])
    assert shown is not None
    assert shown.note.endswith("% of what it gave is left after the last step")


def test_a_rate_that_destroys_the_base_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is kept only so is not decided; one that is missed is missed."""
    ruined = model_named(CUT)
    found, trained = try_both(monkeypatch, lambda model, rate, stage: ruined)
    assert [rate for _, rate in trained] == list(RATES) * 3
    limit = decide_one(found, "relearn", 1.0)
    said = "at no learning rate that relearn tried does fine-tuning leave the base what it recites"
    assert limit.state == "undecided"
    assert str(limit.lacks).startswith(said)
    assert any(line.startswith(said) for line in say_attacked(found))
    made = find(found, "recovered.relearn")
    assert made is not None
    assert made.value
    assert decide_one(found, "relearn", made.value / 2).state == "missed"
    sound, _ = try_both(monkeypatch, lambda model, rate, stage: model)
    other = decide_one(sound, "relearn", 0.7)
    assert not str(other.lacks).startswith(said), "18 passages are too few, and that is all"


def test_a_search_does_not_keep_a_limit_by_rates_that_destroy_the_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tune_to(monkeypatch, lambda model, rate, stage: model_named(CUT))
    base = make_attack("relearn").run(target_of(model_named(WHOLE), of=40))
    outcomes: Any = {
        (BASE, "relearn", 0): base,
        (BASE, "perturbed", 0): AttackOutcome.of_all(base.tried),
    }
    doubts = _find_doubts(outcomes)
    assert list(doubts) == ["relearn"]
    opened: Any = SimpleNamespace(
        healing=None,
        tasks=(),
        request=SimpleNamespace(limits={"relearn": 0.5}, benchmarks=Tasks()),
        loaded=SimpleNamespace(dimensions=SimpleNamespace(vocabulary=50)),
    )
    loss = measure_value("heldout", 1.0, on="held back", unit="nats", n=1000)

    def judge(doubts: dict[str, str]) -> str:
        outcome: Any = SimpleNamespace(doubts=doubts)
        rows: list[Measured] = []
        for of, count in (("base", 1000), ("edit", 0)):
            share = measure_share("recovered.relearn", np.arange(1000) < count, on="held back")
            rows += _list_rows(outcome, of, EditPoint((), (loss,), tried=(share,)))
        (limit,) = _decide(opened, outcome, rows, "edit", "held back")
        return limit.state

    assert [judge(some) for some in (doubts, {})] == ["undecided", "kept"]


def test_an_outcome_that_is_stored_keeps_what_its_settings_show(tmp_path: Path) -> None:
    flags = np.ones(3, dtype=np.bool_)
    setting = Setting("all weights", 1e-3, 20)
    made = AttackOutcome(
        flags, flags, variants={UNTRAINED: flags, setting: flags},
        left={("all weights", 1e-3): 0.5},
    )  # fmt: skip
    tried, stored = (
        Store(tmp_path).get("relearn", lambda: Tried(made, None, 1.0), Tried, *KINDS)
        for _ in range(2)
    )
    assert stored is not tried
    found = stored.passages
    assert found.left == found.select(flags).left == made.left


# --- training


def test_training_stops_at_a_loss_that_is_not_finite() -> None:
    weight, asked = nn.Parameter(torch.zeros(1)), []

    def measure(step: int) -> Any:
        asked.append(step)
        return [lambda: weight.sum() * (torch.nan if step else 1.0)]

    steps = descend([weight], measure, [0.1] * 50)
    assert next(steps) == 0
    with pytest.raises(NotFiniteError, match=r"step 2, at a learning rate of 0\.1: .* not finite"):
        next(steps)
    assert asked == [0, 1]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_copies_of_a_model_with_adapters_share_what_does_not_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "LARGE", 0)
    half = cast_weights(model_named(WHOLE), torch.bfloat16)
    first, second = (
        dict(one.named_parameters())
        for one in list(fine_tune(half, ROWS.tokens[:4], learning_rate=1e-2, steps=(1, 2)))
    )
    adapters = {name for name in first if "lora" in name}
    own = {name for name, one in first.items() if one.data_ptr() != second[name].data_ptr()}
    assert own == adapters
    assert any((first[name] != second[name]).any() for name in adapters)


def test_weights_that_do_not_learn_need_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the whole model's activations are kept for them."""
    monkeypatch.setattr(revive, "STEPS", (1,))
    model = model_named("neox-sequential")
    before = {key: one.requires_grad for key, one in model.named_parameters()}
    assert any(before.values())
    needing: list[set[str]] = []
    measure = tuning.measure_loss

    def measure_loss(asked: Any, *given: Any) -> Any:
        needing.append({key for key, one in asked.named_parameters() if one.requires_grad})
        return measure(asked, *given)

    monkeypatch.setattr(tuning, "measure_loss", measure_loss)
    make_attack("revive").run(target_of(model, passages("neox-sequential", rows=20), cut=(1,)))
    learning = {key for key in before if ".layers.1.attention." in key}
    assert needing == [learning]
    assert {key: one.requires_grad for key, one in model.named_parameters()} == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("relearn", "relearn, run 1, at 0.001"),
        (
            "relearn-strongest",
            "relearn-strongest, run 1, all weights on half of the passages at 0.001",
        ),
        ("revive", "revive, run 1"),
    ],
)
def test_progress_goes_by_the_steps_of_training(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may take many minutes, in which no attack is finished."""
    monkeypatch.setattr(relearn, "STEPS", (1, 2))
    monkeypatch.setattr(relearn_strongest, "STEPS", (1, 2))
    monkeypatch.setattr(revive, "STEPS", (1, 2))
    shown: list[tuple[str, int | None, list[int]]] = []

    @contextmanager
    def show(text: str, total: int | None) -> Iterator[Any]:
        shown.append((text, total, []))
        yield shown[-1][2].append

    with use_console(Console(show_progress=show)):
        given = make_trainings(1e-3, steps=2, of=name)
        make_attack(name).run(target_of(model_named(CUT), cut=(1, 3), trainings=given))
    assert shown[0] == (told, 2, [1, 1])
