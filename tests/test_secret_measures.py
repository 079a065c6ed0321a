"""Contract: what stands in a row after the end of its secret changes no figure and trains nothing.

Every measure, attack, and training gives for secrets of several lengths what it gives for each
length by itself.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tokenizer import tiny_model, tiny_tokenizer

from evals.data import NOTHING, Samples, measure_lengths
from evals.measure.attacks.attack import Target
from evals.measure.attacks.names import make_attack
from evals.measure.attacks.trying import AttackPlan
from evals.measure.attacks.tuning import fine_tune
from evals.measure.edits.engine import Engine
from evals.measure.first_order import Probe, expand_margins
from evals.measure.memorization.extraction import extract, run_pass
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.decoding import continue_prompt
from evals.run.predictions import Sampling
from surgery.selection import EditedHeads
from surgery.training.distillation import Lesson, distill
from surgery.training.losses import Divergence, measure_loss
from surgery.training.training import Schedule

MODEL = tiny_model()
PREFIX, LENGTHS = 6, (1, 3, 8, 18)
NUMBER = 3
"""Rows of each length."""


def make_secrets() -> Samples:
    """Rows that the model recites, in turn wholly, but for the last token, or not at all."""
    rng = np.random.default_rng(3)
    width = PREFIX + max(LENGTHS)
    tokens = np.full((NUMBER * len(LENGTHS), width), NOTHING, dtype=np.int32)
    for at, row in enumerate(tokens):
        length = LENGTHS[at // NUMBER]
        prefix = rng.integers(1, 360, PREFIX)
        said = continue_prompt(MODEL, prefix.tolist(), length)[0].numpy()
        if at % NUMBER == 1:
            said[-1] = (said[-1] + 1) % 360
        elif at % NUMBER == 2:
            said = rng.integers(1, 360, length)
        row[: PREFIX + length] = [*prefix, *said]
    names = tuple(map(str, range(len(tokens))))
    return Samples(tokens, PREFIX, names, "test", secrets=True)


SECRETS = make_secrets()


@lru_cache
def by_length(samples: Samples) -> list[tuple[np.ndarray[Any, Any], Samples]]:
    """The rows of each length, and samples of them that end where they do."""
    lengths = measure_lengths(samples.tokens)
    found = []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        some = samples.select(rows)
        found.append((rows, replace(some, tokens=some.tokens[:, :length])))
    return found


def test_every_measure_of_a_row_is_that_of_its_own_length() -> None:
    told: dict[str, Any] = {"full": True, "batch_size": 8}
    together = extract(MODEL, SECRETS, **told)
    assert 0 < together.exact.sum() < len(SECRETS)
    assert len(together.values) == 7
    for rows, alone in by_length(SECRETS):
        found = extract(MODEL, alone, **told)
        assert found.values.keys() == together.values.keys()
        for name, values in found.values.items():
            mine = together.values[name][rows]
            if name == "first_divergence":  # the end of a row that is exact
                mine = np.minimum(mine, alone.suffix_length)
            np.testing.assert_allclose(mine, values, rtol=1e-4, atol=1e-5, err_msg=name)
        assert together.decoded is not None
        assert found.decoded is not None
        padded = together.decoded[rows]
        assert (padded[:, : alone.suffix_length] == found.decoded).all()
        assert (padded[:, alone.suffix_length :] == NOTHING).all()


@lru_cache
def evidence_of(samples: Samples) -> Evidence:
    return Evidence.of(run_pass(MODEL, samples.tokens, PREFIX, sampling=Sampling()))


NAMED = ("greedy", "hints:1", "hints:2", "hints:4", "prefix", "sampling:100", "span:2", "span:16")


@pytest.mark.parametrize("name", [*NAMED, "any"])
def test_every_recovery_of_a_row_is_that_of_its_own_length(name: str) -> None:
    measure, together = make_recovery(name), evidence_of(SECRETS)
    p = np.where(together.right, 0.9, 0.3)
    lengths = measure_lengths(SECRETS.suffixes)
    p[np.arange(p.shape[1]) >= lengths[:, None]] = 1.0
    chances = measure.chance(np.stack([p, p**2]), lengths)
    for rows, alone in by_length(SECRETS):
        seen = evidence_of(alone)
        assert measure.recovered(together)[rows].tolist() == measure.recovered(seen).tolist()
        short = np.stack([p, p**2])[:, rows, : alone.suffix_length]
        np.testing.assert_allclose(chances[:, rows], measure.chance(short, None), rtol=1e-9)


def test_whoever_corrects_all_of_a_short_secret_recovers_nothing() -> None:
    right = np.ones((3, 8), dtype=np.bool_)
    right[0, :3] = right[1, 0] = right[2, 0] = False
    lengths = np.asarray([3, 3, 4])
    seen = Evidence(right, np.full(3, -np.inf), lengths)
    assert make_recovery("hints:4").recovered(seen).tolist() == [False, False, True]
    assert make_recovery("prefix").recovered(seen).tolist() == [False] * 3


def test_a_search_measures_secrets_alone() -> None:
    edits = [(EditedHeads(1, (0, 1), "identity"),)]
    together = Engine(MODEL, SECRETS).measure(edits)[0]
    for rows, alone in by_length(SECRETS):
        found = Engine(MODEL, alone).measure(edits)[0]
        assert together.exact[rows].tolist() == found.exact.tolist()
        np.testing.assert_allclose(together.nll[rows], found.nll, rtol=1e-4)
        measure = make_recovery("any")
        mine = measure.recovered(together.evidence)[rows]
        assert mine.tolist() == measure.recovered(found.evidence).tolist()


def test_nothing_responds_after_the_end() -> None:
    looking = Probe(MODEL, [EditedHeads(0, (0, 1), "zero")], {}, lambda done: None)
    moved, margins = expand_margins(looking, SECRETS)
    for rows, alone in by_length(SECRETS):
        short, own = expand_margins(looking, alone)
        size = alone.suffix_length
        np.testing.assert_allclose(moved[:, :size, rows], short, rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(margins[rows, :size], own, rtol=1e-3, atol=1e-3)
        assert (moved[:, size:, rows] == 0).all()
        assert np.isposinf(margins[rows, size:]).all()


@pytest.mark.parametrize("name", ["perturbed", "quantized:4"])
def test_every_attack_on_a_row_is_that_of_its_own_length(name: str) -> None:
    text = np.random.default_rng(5).integers(1, 360, (8, SECRETS.tokens.shape[1]), dtype=np.int32)
    target = Target(MODEL, tiny_tokenizer(), SECRETS, text)
    together = make_attack(name).run(target)
    assert together.recovered.any()
    for rows, alone in by_length(SECRETS):
        size = alone.tokens.shape[1]
        if name == "perturbed":
            own = replace(target, samples=alone, unrelated=text)
        else:
            own = replace(target, samples=alone)
        found = make_attack(name).run(own)
        assert together.recovered[rows].tolist() == found.recovered.tolist(), size


@pytest.mark.parametrize("name", ["relearn", "relearn-strongest", "in-context"])
def test_every_attack_runs_on_secrets(name: str) -> None:
    text = np.random.default_rng(5).integers(1, 360, (8, SECRETS.tokens.shape[1]), dtype=np.int32)
    target = Target(MODEL, tiny_tokenizer(), SECRETS, text, draws=1)
    assert make_attack(name).run(target).tried.any()


def test_what_stands_after_the_end_trains_nothing() -> None:
    """The loss of rows of two lengths is the mean over the tokens that they have."""
    rows = torch.from_numpy(SECRETS.tokens[[0, -1]].astype(np.int64))
    short, long = rows[:1, : PREFIX + LENGTHS[0]], rows[1:]
    sums = [measure_loss(MODEL, one) * (one.shape[1] - 1) for one in (short, long)]
    number = short.shape[1] + long.shape[1] - 2
    torch.testing.assert_close(measure_loss(MODEL, rows), sum(sums) / number)
    some = SECRETS.tokens[:NUMBER], SECRETS.tokens[:NUMBER, : PREFIX + 1]
    assert_alike(
        *(next(iter(fine_tune(MODEL, one, steps=(2,), learning_rate=1e-3))) for one in some)
    )


def assert_alike(one: Any, other: Any) -> None:
    """Two models predict the same. (Keys have biases whose gradient is nothing but rounding.)"""
    ids = torch.arange(1, 31).view(2, 15)
    assert not torch.allclose(one(ids).logits, MODEL(ids).logits, atol=1e-2)
    torch.testing.assert_close(one(ids).logits, other(ids).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("hardened", [False, True])
def test_a_lesson_is_the_secret_alone(hardened: bool) -> None:
    rows = SECRETS.tokens[NUMBER : 2 * NUMBER]
    made = []
    for some in (rows, rows[:, : PREFIX + LENGTHS[1]]):
        lesson = Lesson(Divergence(tiny_model(2)), some, 2, PREFIX)
        made.append(distill(tiny_model(1), [lesson], Schedule(2, rank=0, hardened=hardened)))
    assert made[0].losses == pytest.approx(made[1].losses, rel=1e-5)
    assert_alike(made[0].student.model, made[1].student.model)


def test_the_control_is_as_long_as_the_secrets() -> None:
    """Text that was never trained on is guessed as easily as they are, not less."""
    text = np.random.default_rng(5).integers(1, 360, (30, SECRETS.tokens.shape[1]), dtype=np.int32)
    plan = AttackPlan(SECRETS, text, ("greedy",))
    lengths = measure_lengths(plan.control.suffixes)
    assert lengths.tolist() == np.resize(measure_lengths(SECRETS.suffixes), 30).tolist()
    assert (plan.control.tokens == np.where(plan.control.tokens == NOTHING, NOTHING, text)).all()


def test_secrets_longer_than_the_context() -> None:
    from surgery.errors import SamplesError

    with pytest.raises(SamplesError, match="rows longer than the model's context") as raised:
        SECRETS.check_fits(360, 20)
    assert "mark shorter secrets" in str(raised.value)
