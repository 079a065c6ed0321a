"""Contract: a hardened lesson also counts at the weights where someone's fine-tuning would lead.

- The gradient of a step gets that of the lesson there, and every weight is put back.
- Who fine-tunes holds a tenth of the passages, and the lesson there is on others.
- In each matrix, the gradient of the lesson loses its strongest directions, and keeps its norm.
- What is learned of the passages weighs a third, so that ability stays.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import tiny_model
from torch.nn import functional

from evals.measure.attacks.attack import draw_held
from evals.measure.attacks.relearn import SHARE
from surgery.fitting.calibration import Calibration
from surgery.training import distillation, training
from surgery.training.distillation import Lesson, TaughtRows, distill, teach
from surgery.training.hardening import (
    MOST_ROWS,
    MOST_STEPS,
    REMOVED,
    WEIGHT,
    Rehearsal,
    draw_rehearsals,
    harden,
    remove_strongest,
)
from surgery.training.losses import Divergence
from surgery.training.training import Schedule


@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 9))
def test_a_tenth_is_learned_and_others_are_to_be_forgotten(passages, per_step, seed) -> None:
    drawn = draw_rehearsals(passages, per_step, 5, seed)
    assert len(drawn) == 5
    for one in drawn:
        assert 1 <= one.steps <= MOST_STEPS
        assert len(one.learned) == min(MOST_ROWS, max(1, passages // 10))
        assert len(one.others) == max(1, min(per_step, passages - len(one.learned)))
        every = [*one.learned, *one.others]
        assert set(every) <= set(range(passages))
        assert len(set(every)) == len(every) or passages == 1


@given(st.integers(40, 500), st.integers(0, 9))
def test_neither_a_rehearsal_nor_an_attack_learns_all_of_the_other(passages, seed) -> None:
    """An attack with the same seed would test the defense on the very passages that taught it."""
    held = np.flatnonzero(draw_held(passages, SHARE, seed))
    for one in draw_rehearsals(passages, 8, 3, seed):
        assert not {*one.learned} <= {*held}
        assert not {*held} <= {*one.learned}


def test_the_gradient_of_a_step_gets_that_of_where_training_leads() -> None:
    """And loses its strongest directions."""
    torch.manual_seed(0)
    model, rows = torch.nn.Linear(4, 3), torch.randn(6, 4)
    model.bias.register_hook(lambda gradient: 0 * gradient)  # a constant, which never learns
    right = torch.tensor([0, 1, 2, 0, 1, 2])

    def measure(some: torch.nn.Module, chosen: np.ndarray, sign: float) -> torch.Tensor:
        return sign * functional.cross_entropy(some(rows[chosen]), right[chosen])

    chosen, here = Rehearsal(np.array([0, 3]), np.array([1, 2]), steps=2), np.array([4, 5])
    before = copy.deepcopy(model.state_dict())
    loss = harden(
        list(model.parameters()), chosen, 0.1,
        lambda some: [lambda: measure(model, some, 1)],
        lambda some: [lambda: measure(model, some, -1)],
        [lambda: measure(model, here, -1)],
    )  # fmt: skip
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert loss == pytest.approx(measure(model, here, -1).item())
    other = copy.deepcopy(model)
    other.bias.requires_grad_(False)
    measure(other, here, -1).backward()
    first = other.weight.grad.clone()
    optimizer = torch.optim.AdamW([other.weight], lr=0.1, weight_decay=0.0)
    for _ in range(chosen.steps):
        optimizer.zero_grad()
        measure(other, chosen.learned, 1).backward()
        optimizer.step()
    assert not torch.equal(other.weight, model.weight)
    optimizer.zero_grad()
    measure(other, chosen.others, -1).backward()
    torch.testing.assert_close(model.weight.grad, remove_strongest(first + other.weight.grad))
    assert not model.bias.grad.any()


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (3, 7, 5)])
def test_a_gradient_loses_its_strongest_directions_and_keeps_its_norm(shape) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, sizes, right = torch.linalg.svd(gradient, full_matrices=False)
    sizes[..., 0], sizes[..., 1] = 100, 50
    whole = left @ torch.diag_embed(sizes) @ right
    sizes[..., :REMOVED] = 0
    rest = left @ torch.diag_embed(sizes) @ right
    found = remove_strongest(whole)
    norms = [torch.linalg.matrix_norm(one, keepdim=True) for one in (whole, rest)]
    torch.testing.assert_close(found, rest * norms[0] / norms[1], rtol=1e-3, atol=1e-2)


def test_what_gets_no_gradient_still_gets_none() -> None:
    """Neither constants, nor rows of tokens that nobody read. Rounding would move them: AdamW takes
    steps of one size, however small a gradient is."""
    gradient = torch.randn((12, 6), generator=torch.Generator().manual_seed(0))
    gradient[::2] = 0
    gradient[1, 3] = 0
    assert torch.equal(remove_strongest(gradient) == 0, gradient == 0)


@pytest.mark.parametrize("shape", [(4, 1, 3), (1, 6), (5, 2)])
def test_a_gradient_of_few_directions_stays(shape) -> None:
    """Nothing but rounding would be left of it."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(remove_strongest(gradient), gradient)
    assert not remove_strongest(torch.zeros(shape)).any()


@pytest.mark.parametrize("hardened", [False, True])
def test_passages_weigh_a_third_of_the_text(hardened: bool) -> None:
    """The losses of `teach` are those of lessons with that weight; the text has its own in full."""
    rows = np.random.default_rng(0).integers(0, 50, (4, 8)).astype(np.int32)
    text = Calibration(rows, (), spread=True)
    passages = TaughtRows(rows, 4, "passages", "0" * 64)
    schedule = training.Schedule(2, hardened=hardened)
    student, intact, cut = (tiny_model(seed) for seed in range(3))
    found = teach(student, intact, Divergence(cut), text, passages, schedule).losses
    weight = 1 / 3 if hardened else 1.0
    lessons = [
        Lesson(Divergence(intact), rows, training.ROWS),
        Lesson(Divergence(cut), rows, distillation.ROWS_OF_PASSAGES, 4, weight),
    ]
    assert WEIGHT == 1 / 3
    assert found == distill(student, lessons, schedule).losses
    lessons[1] = replace(lessons[1], weight=0.5)
    assert found != distill(student, lessons, schedule).losses


def test_each_step_rehearses_fine_tuning_on_the_passages_of_the_last_lesson(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the rate of the schedule, with the next-token loss; the lesson is the teacher's."""
    draw = np.random.default_rng(0)
    text, passages = (draw.integers(0, 50, (n, 8)).astype(np.int32) for n in (16, 20))
    student, intact, cut = (tiny_model(seed).float() for seed in range(3))
    given: list[tuple[Rehearsal, float]] = []

    def note(learned, rehearsal, rate, relearn, forget, lesson, scale) -> float:
        assert len(learned) == sum(1 for _ in student.parameters())
        given.append((rehearsal, rate))
        if len(given) > 1:  # it has learned something
            return 0.0
        chosen = np.array([2, 5, 11])
        tokens = torch.from_numpy(passages[chosen]).long()
        logits = [one(input_ids=tokens).logits.log_softmax(-1) for one in (student, cut)]
        mine, taught = (one[:, :-1] for one in logits)
        right = mine.gather(2, tokens[:, 1:, None])
        assert sum(part() for part in relearn(chosen)).item() == pytest.approx(
            -right.mean().item(), rel=1e-5
        )
        apart = (taught.exp() * (taught - mine)).sum(2)[:, 3:].mean().item()
        assert sum(part() for part in forget(chosen)).item() == pytest.approx(0.5 * apart, rel=1e-4)
        assert sum(part() for part in lesson).item() > 0
        return 0.0

    monkeypatch.setattr(distillation, "harden", note)
    lessons = [
        Lesson(Divergence(intact), text, 16),
        Lesson(Divergence(cut), passages, 6, first=4, weight=0.5),
    ]
    schedule = Schedule(3, seed=7, learning_rate=1e-3, hardened=True)
    distill(student, lessons, schedule)
    assert [rate for _, rate in given] == 3 * [1e-3]
    for (found, _), expected in zip(given, draw_rehearsals(20, 6, 3, 7), strict=True):
        assert found.steps == expected.steps
        assert found.learned.tolist() == expected.learned.tolist()
        assert found.others.tolist() == expected.others.tolist()


def test_rehearsals_lead_to_other_weights() -> None:
    """With the same lessons, weights, and seed."""
    rows = np.random.default_rng(0).integers(0, 50, (12, 8)).astype(np.int32)
    found = []
    for hardened in (False, True):
        student, teacher = tiny_model(seed=0).float(), tiny_model(seed=1)
        schedule = Schedule(2, learning_rate=1e-3, hardened=hardened)
        learned = distill(
            student, [Lesson(Divergence(teacher), rows, 6, first=4)], schedule
        ).student.learned
        found.append(torch.cat([one.flatten() for one in learned]))
    assert not torch.equal(*found)
