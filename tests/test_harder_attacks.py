"""Contract: attackers who try harder win where a model only hides, and find nothing where it has
nothing to hide.

The models are small, and really trained: to recite, to refuse, or on other passages.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from memorizing import (
    PREFIX,
    draw_rows,
    make_small,
    name_rows,
    recite,
    refuse,
    teach,
)
from reciting import model_named
from tiny_tokenizer import tiny_tokenizer

from evals.data import Samples, Tokens
from evals.data.repeats import merge_equal_rows
from evals.measure.attacks import relearn_strongest
from evals.measure.attacks.attack import UNTRAINED, AttackOutcome, Setting, Target, rate_held
from evals.measure.attacks.graft import list_parts
from evals.measure.attacks.in_context import make_prompts
from evals.measure.attacks.names import make_attack
from evals.measure.attacks.result import Outcomes, measure_outcomes
from evals.measure.memorization.recovery import Evidence
from surgery.hub.finding import find_model
from surgery.loading import load_model
from surgery.record.measured import find

ROWS, OTHERS, TEXT = draw_rows(24, 0), draw_rows(24, 1), draw_rows(12, 2)


def target_of(model: Any, rows: Samples | None = None, **more: Any) -> Target:
    return Target(model, None, rows or name_rows(ROWS), TEXT, draws=1, **more)


def measure_share(attack: str, model: Any, **more: Any) -> float:
    return float(make_attack(attack).run(target_of(model, **more)).counted.mean())


# --- in-context


def show_others(step: int) -> tuple[Tokens, int, Tokens]:
    """Each row after others: one or two."""
    rng = np.random.default_rng(step)
    number = 1 + step % 2
    shown = [rng.choice(np.delete(ROWS, at, axis=0), number, replace=False) for at in range(24)]
    before = np.stack(shown).reshape(24, -1)
    rows = np.concatenate([before, ROWS], axis=1)
    return rows, before.shape[1] + PREFIX, ROWS[:, PREFIX:]


@pytest.fixture(scope="module")
def refusing() -> Any:
    """It says 1 1 1 … after a prefix, even with hints, and the suffix after other passages."""
    return teach(make_small(), lambda step: [refuse(ROWS), show_others(step)])


def test_passages_in_the_prompt_bring_others_back(refusing: Any) -> None:
    assert measure_share("any", refusing) == 0
    outcome = make_attack("in-context").run(target_of(refusing))
    assert outcome.counted.mean() > 0.8
    assert int(outcome.tried.sum()) == 22, "the attacker holds two"
    rows = list(
        measure_outcomes(make_attack("in-context"), Outcomes(None, outcome), "edited", "all")
    )
    row = find(rows, "recovered.in-context")
    assert row is not None
    assert str(row.details["learned"]).endswith("in the prompt")


def test_passages_in_the_prompt_bring_nothing_back_that_was_not_learned(refusing: Any) -> None:
    never = name_rows(OTHERS)
    assert measure_share("in-context", refusing, rows=never) == 0
    assert measure_share("in-context", make_small(1)) == 0


def test_no_passage_stands_before_itself_and_openings_stand_first() -> None:
    tokenizer = tiny_tokenizer()
    target = Target(make_small(), tokenizer, name_rows(ROWS), TEXT)
    held, others = target.hold(10)
    prompts = make_prompts(target, held, 2)
    apart = tokenizer("\n\n")["input_ids"]
    first, second = (ROWS[at].tolist() for at in np.flatnonzero(held))
    for at, prompt in enumerate(prompts):
        if others[at]:
            expected = [*first, *apart, *second, *apart, *ROWS[at, :PREFIX]]
            assert prompt.tolist() == expected
        elif held[at]:
            other = second if ROWS[at].tolist() == first else first
            assert prompt.tolist() == [*other, *apart, *ROWS[at, :PREFIX]]


def test_a_context_without_room_for_two_passages_counts_none() -> None:
    """The default attacks are tried on long passages, too."""
    long = draw_rows(4, 0, length=40)
    found = make_attack("in-context").run(target_of(make_small(), name_rows(long)))
    assert not found.tried.any()


# --- relearn-strongest


@pytest.fixture
def few_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearn_strongest, "STEPS", (1, 5, 20))
    monkeypatch.setattr(relearn_strongest, "OPTIMIZERS", {"AdamW": (3e-3,), "SGD": (0.1,)})


@pytest.mark.usefixtures("few_trainings")
def test_fine_tuning_makes_a_model_say_what_it_was_taught_to_refuse(refusing: Any) -> None:
    attack = make_attack("relearn-strongest")
    assert measure_share("any", refusing) == 0
    outcome = attack.run(target_of(refusing))
    assert outcome.counted.mean() > 0.3
    assert int(outcome.tried.sum()) == 12, "the attacker holds half"
    rows = list(measure_outcomes(attack, Outcomes(outcome, outcome), "edited", "all"))
    curve = [find(rows, f"recovered.relearn-strongest {steps}") for steps in (0, 1, 5, 20)]
    assert [row is not None and row.n for row in curve] == [12] * 4
    assert curve[0] is not None
    assert curve[0].value == 0


@pytest.mark.usefixtures("few_trainings")
def test_fine_tuning_finds_nothing_in_a_model_that_never_saw_the_passages() -> None:
    twin = teach(make_small(), lambda step: [recite(OTHERS)], steps=60)
    assert measure_share("any", twin, rows=name_rows(OTHERS)) > 0.5
    assert measure_share("relearn-strongest", twin) == 0


# --- graft-wide


def is_last_mlp(name: str) -> bool:
    return ".layers.1.mlp." in name


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The public base, as a folder, and what it knows."""
    folder = tmp_path_factory.mktemp("public")
    teach(make_small(), lambda step: [recite(OTHERS)], steps=60).save_pretrained(folder)
    return find_model(folder)


@pytest.fixture(scope="module")
def learned(public: Any) -> Any:
    """What the public base became by learning the passages, but for its last MLP."""
    private = load_model(public.checkpoint, dtype=torch.float32)
    return teach(private, lambda step: [recite(ROWS)], learns=lambda name: not is_last_mlp(name))


def test_a_part_of_the_public_base_unblocks_what_other_parts_hold(
    public: Any, learned: Any
) -> None:
    """The private model learned the passages; then its last MLP alone was trained to refuse."""
    assert measure_share("any", learned) == 1
    private = teach(copy.deepcopy(learned), lambda step: [refuse(ROWS)], learns=is_last_mlp)
    assert measure_share("any", private) == 0
    assert measure_share("graft", private, sibling=public) == 0, "it copies attention"
    outcome = make_attack("graft-wide").run(target_of(private, sibling=public))
    assert outcome.counted.mean() == 1
    assert outcome.take_strongest(None)[0].learned == "copying MLPs of block 1"


def test_parts_of_the_public_base_bring_nothing_back_that_was_not_learned(public: Any) -> None:
    twin = load_model(public.checkpoint, dtype=torch.float32)
    teach(twin, lambda step: [recite(TEXT)], steps=60)
    assert measure_share("graft-wide", twin, sibling=public) == 0


def test_parts_are_all_of_a_model_and_runs_hold_each_block_once() -> None:
    model = model_named("neox-parallel")
    parts = list_parts(model)
    assert [*parts][::3] == [
        "attention of blocks 0-1",
        "attention of block 2",
        "attention of block 3",
        "attention of all blocks",
        "all but the blocks",
    ]
    every = {name for name, _ in model.named_parameters()}
    assert {*parts["all blocks"], *parts["all but the blocks"]} == every
    for blocks in ("blocks 0-1", "block 2", "block 3", "all blocks"):
        both = parts[f"attention of {blocks}"] + parts[f"MLPs of {blocks}"]
        assert sorted(both) == sorted(parts[blocks])


def test_the_longest_of_equal_passages_goes_on() -> None:
    document, other = draw_rows(1, 3, length=40)[0], draw_rows(1, 9, length=30)[0]
    every = document[:20], document, other
    rows = name_rows(np.stack([one[:10] for one in every]))
    rows = replace(rows, after=tuple(one[10:] for one in every))
    merged = merge_equal_rows(rows)
    assert merged.after is not None
    assert [len(one) for one in merged.after] == [30, 20]
    assert merged.select(np.array([False, True])).untested.tolist() == [20]


# --- what an attacker chooses on passages that he holds


def test_the_variant_is_chosen_by_what_the_attacker_holds() -> None:
    """Else the best of many would be lucky on the passages that it is scored on."""
    right = np.array([[True] * 4, [True, False, True, True], [False] * 4])
    seen = Evidence(right, np.full(3, -np.inf))
    assert rate_held(seen, np.array([True, False, True])) == 1 + 0.5 / 2
    assert rate_held(seen, np.array([False, False, False])) == 0
    lucky, chosen = Setting("a", 0.0, 0), Setting("b", 0.0, 0)
    tried = np.array([False, True, True])
    flags = {UNTRAINED: ~tried & False, lucky: tried, chosen: np.array([True, True, False])}
    by_held = {UNTRAINED: 0.0, lucky: 0.1, chosen: 1.0}
    made = AttackOutcome(tried, tried, variants=flags, by_held=by_held)
    assert made.take_strongest(None)[0] == chosen
    assert made.settle().counted.mean() == 0.5
