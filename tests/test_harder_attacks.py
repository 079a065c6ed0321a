"""Contract: attackers who try harder win where a model only hides, and find nothing where it has
nothing to hide.

The models are small, and really trained: to recite, to refuse, or on other passages.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from memorizing import (
    PREFIX,
    Lessons,
    draw_rows,
    make_small,
    name_rows,
    recite,
    refuse,
    teach,
)
from reciting import generate, model_named
from results import compare
from tiny_tokenizer import tiny_tokenizer

from evals.data import Samples, Tokens
from evals.data.repeats import merge_equal_rows
from evals.measure.attacks import relearn_strongest, trying
from evals.measure.attacks.attack import UNTRAINED, AttackOutcome, Setting, Target, rate_held
from evals.measure.attacks.document import Block, find_blocks, write_on
from evals.measure.attacks.early_exit import _fit
from evals.measure.attacks.foreseeing import time_attack
from evals.measure.attacks.graft import list_parts
from evals.measure.attacks.in_context import make_prompts
from evals.measure.attacks.names import choose_attacks, make_attack
from evals.measure.attacks.patching import measure_depth
from evals.measure.attacks.result import Outcomes, measure_diagnosis, measure_outcomes
from evals.measure.attacks.trying import AttackPlan, try_attacks
from evals.measure.memorization.measures import suffix_nll
from evals.measure.memorization.recovery import Evidence
from evals.measure.naming import name_figures
from surgery.editing.in_memory import apply
from surgery.editing.loading import load_model
from surgery.errors import MeasurementError
from surgery.hub.finding import find_model
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


def test_a_context_without_room_for_two_passages_is_refused() -> None:
    long = draw_rows(4, 0, length=40)
    with pytest.raises(MeasurementError, match=r"cannot hold two .*at most 32 tokens, got 40"):
        make_attack("in-context").run(target_of(make_small(), name_rows(long)))


# --- relearn-strongest


@pytest.fixture
def few_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearn_strongest, "STEPS", (1, 5, 20))
    monkeypatch.setattr(relearn_strongest, "LEARNED", ("all weights",))
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


# --- document

DOCUMENT = draw_rows(1, 3, length=160)[0]
WINDOWS = np.lib.stride_tricks.sliding_window_view(DOCUMENT, 33)


def name_documents(*documents: Tokens) -> Samples:
    rows = np.stack([document[:10] for document in documents])
    return replace(name_rows(rows), after=tuple(document[10:] for document in documents))


@pytest.fixture(scope="module")
def reader() -> Any:
    """It knows a document that is longer than its context."""

    def choose(step: int) -> Lessons:
        some = np.random.default_rng(step).choice(len(WINDOWS), 47, replace=False)
        return [recite(WINDOWS[[0, *some]])]

    return teach(make_small(), choose)


def test_a_document_comes_out_whole_from_its_first_tokens(reader: Any) -> None:
    never = draw_rows(1, 4, length=160)[0]
    rows = name_documents(DOCUMENT, never, never[:50])
    attack = make_attack("document")
    outcome = attack.run(target_of(reader, rows))
    assert outcome.tried.tolist() == [True, True, False], "the last has no 100 words"
    assert outcome.recovered.tolist() == [True, False, False]
    found = list(measure_outcomes(attack, Outcomes(None, outcome), "edited", "all"))
    share = find(found, "recovered.document of words in long blocks, alone")
    longest = find(found, "recovered.document of longest block, in words, alone")
    assert share is not None
    assert longest is not None
    assert share.value is not None
    assert 0.4 < share.value <= 0.5, "nearly all of one, and nothing of the other"
    assert share.n == 2
    assert 140 < float(str(longest.details["most"])) <= 156
    assert name_figures(found)["recovered.document of longest block, in words, alone"].label == (
        "document: longest block, in words, alone"
    )


def test_no_document_comes_out_of_a_model_that_never_saw_it(reader: Any) -> None:
    rows = name_documents(*draw_rows(3, 5, length=160))
    for model in (reader, make_small(1)):
        outcome = make_attack("document").run(target_of(model, rows))
        assert not outcome.counted.any()
        assert not any(values.any() for values in outcome.scores.values())


@pytest.mark.parametrize("corrected", [False, True])
def test_each_step_follows_what_was_written_or_the_truth(corrected: bool) -> None:
    """The reference writes one document at a time, by the library's own decoding."""
    model, documents = make_small(), [*draw_rows(2, 6, length=120), draw_rows(1, 7, length=70)[0]]
    target = target_of(model, name_documents(*documents), batch_size=2)
    written = write_on(target, documents, corrected=corrected)
    for document, text in zip(documents, written, strict=True):
        said = document[:PREFIX].tolist()
        while len(said) < len(document):
            known = document[: len(said)].tolist() if corrected else said
            said += generate(model, torch.tensor([known[-32:]]), 32)[0].tolist()
        assert text.tolist() == said[PREFIX : len(document)]


def test_passages_too_short_for_a_block_are_not_tried() -> None:
    plan = AttackPlan(name_rows(ROWS), TEXT, ("document",))
    assert plan.skipped == {"document": "a passage that goes on for 100 tokens after its prefix"}


def test_near_verbatim_blocks() -> None:
    """Runs of the same words in order; small gaps join them, and short ones do not count."""
    true = [*range(300)]
    whole = [Block(0, 300, 0, 300, 300)]
    assert find_blocks(true, true) == whole
    changed = [-one if one in (50, 51, 200) else one for one in true]
    assert find_blocks(true, changed) == [Block(0, 300, 0, 300, 297)]
    skipped = true[:120] + true[140:]
    assert [one.words for one in find_blocks(true, skipped)] == [120, 160]
    apart = true[:99] + [-1] * 11 + true[110:]
    assert [one.words for one in find_blocks(true, apart)] == [190]
    assert find_blocks(true, true[:99]) == []
    assert find_blocks(true, true[::-1]) == []
    short = [one if one % 21 < 18 else -one for one in true]  # 18 words, and then 3 others
    assert find_blocks(true, short) == []


def test_the_longest_of_equal_passages_goes_on() -> None:
    rows = name_documents(DOCUMENT[:20], DOCUMENT[:40], draw_rows(1, 9, length=30)[0])
    merged = merge_equal_rows(rows)
    assert merged.after is not None
    assert [len(one) for one in merged.after] == [30, 20]
    assert merged.select(np.array([False, True])).untested.tolist() == [20]


# --- patching


def diagnose(base: Any, edited: Any, twin: Any) -> dict[str, float | None]:
    """What `patching` shows of the edited model: name → mean."""
    attack = make_attack("patching")
    before = attack.run(target_of(base))
    after, never = (attack.run(target_of(one, base=before)) for one in (edited, twin))
    rows = measure_diagnosis(attack, after, never, "edited", "all")
    found = {row.name: row.value for row in rows if row.of == "edited"}
    return {name.removeprefix("recovered.patching of "): one for name, one in found.items()}


def test_states_show_what_a_last_block_hides(public: Any, learned: Any) -> None:
    """The model that refuses holds all before its last block, which is another one."""
    twin = load_model(public.checkpoint, dtype=torch.float32)
    refusing = teach(copy.deepcopy(learned), lambda step: [refuse(ROWS)], learns=is_last_mlp)
    found = diagnose(learned, refusing, twin)
    assert found["nats lost after block 0"] == 0
    assert found["nats lost after block 1"] > 3
    assert 0 < found["unlearning depth"] < 0.9


def test_states_of_a_model_that_never_saw_the_passages_hold_nothing(
    public: Any, learned: Any
) -> None:
    twin = load_model(public.checkpoint, dtype=torch.float32)
    assert diagnose(learned, twin, twin)["unlearning depth"] == 1
    whole = diagnose(learned, learned, twin)
    assert whole == {"unlearning depth": 0, **{f"nats lost after block {at}": 0 for at in (0, 1)}}


def test_the_last_block_gives_what_the_edited_model_itself_gives(public: Any, learned: Any) -> None:
    """Also in a compact export, whose blocks have no attention."""
    edited = apply(learned, "1", "identity", layout="compact")
    attack, samples = make_attack("patching"), name_rows(ROWS)
    before = attack.run(target_of(learned))
    found = attack.run(target_of(edited, base=before)).scores
    losses = [loss_of(model, samples) for model in (edited, learned)]
    np.testing.assert_allclose(found["nats lost after block 1"], losses[0] - losses[1], atol=1e-5)
    assert not found["nats lost after block 0"].any()
    assert attack.run(target_of(learned)).kept.loss == pytest.approx(losses[1], abs=1e-5)


def loss_of(model: Any, samples: Samples) -> Any:
    made = target_of(model, samples).ask(model)
    return suffix_nll(made.predictions.log_likelihood, samples.suffixes)


def test_depth_is_that_of_the_paper() -> None:
    """Blocks after which the twin loses little do not count, and no passage without others."""
    twin = {
        f"nats lost after block {at}": np.array(v)
        for at, v in enumerate([[0.0, 0], [1, 0.04], [3, 0]])
    }
    edited = {name: np.array(v) for name, v in zip(twin, [[5.0, 5], [0.5, 1], [9, 1]], strict=True)}
    (depth,) = measure_depth(edited, twin).values()
    assert depth[0] == (1 * 0.5 + 3 * 1) / 4
    assert np.isnan(depth[1])


def test_a_diagnosis_recovers_nothing_and_has_no_limit(public: Any, learned: Any) -> None:
    with pytest.raises(MeasurementError, match="patching has a limit and is not a share"):
        choose_attacks(["any"], ["patching"])
    plan = AttackPlan(name_rows(ROWS), TEXT, ("any", "patching"))

    def attack(model: Any, base: Any = None) -> Any:
        loaded: Any = SimpleNamespace(model=model, tokenizer=None, name="m", cut=(), provenance={})
        return try_attacks(loaded, plan, base)

    before = attack(learned)
    rows = compare(plan, before, attack(load_model(public.checkpoint), before))
    names = {row.name for row in rows}
    assert "recovered.any" in names
    assert "recovered.patching" not in names
    assert {"recovered.patching of nats lost after block 0"} <= names
    assert AttackPlan(name_rows(ROWS), TEXT, ("patching",), has_base=False).skipped


# --- early-exit


def test_a_lens_of_a_model_in_16_bits_is_computed_in_32() -> None:
    """Residuals are large and maps small, so that 16 bits would round them away."""
    draw = torch.Generator().manual_seed(0)
    here = 100 + torch.randn(500, 8, generator=draw)
    slope = 0.05 * torch.randn(8, 8, generator=draw)
    last = here + (here - 100) @ slope
    lens = _fit(here.bfloat16(), last.bfloat16())
    wide = _fit(here.bfloat16().float(), last.bfloat16().float())
    read = here.bfloat16()
    assert lens(read).dtype is torch.bfloat16
    assert torch.equal(lens(read), wide(read.float()).bfloat16())


# --- how long attacks take


def test_an_audit_says_what_attacks_take_before_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass is timed: here, a second for each of its rows."""
    said: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(trying, "say", said.append)
    monkeypatch.setattr(trying, "read_clock", lambda: clock[0])
    ask = Target.ask

    def take_seconds(target: Target, *given: Any, **more: Any) -> Any:
        clock[0] += len(target.samples)
        return ask(target, *given, **more)

    monkeypatch.setattr(Target, "ask", take_seconds)
    loaded: Any = SimpleNamespace(
        model=make_small(), tokenizer=None, name="m", cut=(), provenance={}
    )
    base = try_attacks(loaded, AttackPlan(name_rows(ROWS), TEXT, ("any", "in-context")))
    assert said == ["m: attacks take about 0:15:36: in-context 0:15:00, all others 0:00:36"]
    try_attacks(loaded, AttackPlan(name_rows(ROWS), TEXT, ("any", "in-context")), base)
    try_attacks(loaded, AttackPlan(name_rows(ROWS), TEXT, ("any", "greedy")))
    assert len(said) == 1, "an edit takes as long, and these take little"
    strongest = make_attack("relearn-strongest:2")
    assert time_attack(strongest, (24, 12), 1.0, None) == 2 * 120, "draws that fit into 5 minutes"
    assert time_attack(strongest, (24, 12), 1e-6, 1) < 120


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
