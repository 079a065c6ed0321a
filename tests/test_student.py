"""Contract: a student shares with its model all that it does not learn, and leaves the model alone.

What it learned is rounded so that it stays, and the best look at what it recites is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import write_decoder
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import tiny_model
from torch import nn

from surgery.errors import UnsupportedError
from surgery.loading import load_model
from surgery.training import distillation, weights
from surgery.training.distillation import Lesson, distill
from surgery.training.loop import descend, fall
from surgery.training.losses import Divergence, measure_loss
from surgery.training.student import Student, cast_weights, make_student
from surgery.training.training import ADAPTERS_RATE, LEARNING_RATE, Schedule, choose_rate
from surgery.training.weights import round_weights

TOKENS = torch.arange(2, 26).view(2, 12)


def learn(student: Student, steps: int = 3, rate: float = 1e-2) -> list[float]:
    def measure() -> torch.Tensor:
        with student.cast():
            return measure_loss(student.model, TOKENS)

    return list(descend(student.learned, lambda step: [measure], [rate] * steps))


def read(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters()}


WAYS = {
    "all": {},
    "block": {"names": ["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]},
    "8": {"rank": 8},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_it_learns_and_its_model_does_not_change(way: dict[str, Any]) -> None:
    model = cast_weights(tiny_model(), torch.bfloat16)
    before = read(model)
    student = make_student(model, **way)
    assert {one.dtype for one in student.learned} == {torch.float32}
    own = {one.data_ptr() for one in student.learned}
    shared = {one.data_ptr() for one in model.parameters()}
    assert all(one.data_ptr() in own | shared for one in student.model.parameters())
    first, *_, last = learn(student, 8)
    assert last < first
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())
    made, kept = round_weights(student, "BF16")
    assert kept > 0.9
    assert {one.dtype for one in made.parameters()} == {torch.bfloat16}
    changed = {name for name, one in made.named_parameters() if not torch.equal(one, before[name])}
    assert changed == (set(way["names"]) if "names" in way else changed)
    assert changed


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_experts_get_adapters_that_learn(tmp_path: Path, kind: str) -> None:
    """Fused ones, too: each weight that has an adapter changes."""
    model = load_model(write_decoder(tmp_path / "m", kind), dtype=torch.float32)
    student = make_student(model, rank=4)
    learn(student, 4)
    moved = {name: not torch.equal(old, new) for name, old, new in student.list_weights()}
    assert any(".experts." in name for name in moved)
    assert all(moved.values()), moved


def test_what_an_edit_set_gets_no_adapter() -> None:
    model, name = tiny_model(), "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    flags = np.zeros(tuple(model.get_parameter(name).shape), np.bool_)
    flags[0] = True
    learned = {
        one for one, _, _ in make_student(model, rank=4, constants={name: flags}).list_weights()
    }
    assert name not in learned
    assert name.replace("layers.0", "layers.1") in learned


def test_offloaded_weights_are_refused() -> None:
    with torch.device("meta"):
        model = type(tiny_model())(tiny_model().config)
    with pytest.raises(UnsupportedError, match="training needs every weight in memory"):
        make_student(model)


def test_adapters_have_one_rate_whatever_the_width() -> None:
    model = tiny_model()
    model.config.hidden_size = 4096
    assert choose_rate(model, 8) == choose_rate(tiny_model(), 32) == ADAPTERS_RATE
    assert choose_rate(model, 0) == pytest.approx(LEARNING_RATE * 192 / 4096)
    assert fall(1.0, 4) == [1.0, 0.75, 0.5, 0.25]


# --- rounding


@given(st.floats(1e-3, 1e3), st.integers(0, 9))
def test_rounding_at_random_keeps_the_mean_and_takes_a_neighbor(size: float, seed: int) -> None:
    numbers = torch.full((20_000,), size)
    rounded = weights._round_at_random(str(seed), numbers)
    near = numbers.to(torch.bfloat16)
    step = 2.0**-7 * size
    assert (rounded.float() - numbers).abs().max() <= step
    assert rounded.float().mean().item() == pytest.approx(size, rel=2e-4)
    assert len(set(rounded.tolist())) <= 2
    assert torch.equal(weights._round_at_random(str(seed), near.float()), near), "it was exact"
    assert torch.equal(weights._round_at_random(str(seed), numbers), rounded), "it repeats"


def test_small_updates_survive_in_bfloat16() -> None:
    """To the nearest, half of them would be lost. float16 has enough digits."""
    torch.manual_seed(0)
    for dtype, stored in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):
        base = nn.Linear(300, 300, bias=False).to(dtype)
        with torch.no_grad():
            base.weight.normal_(0, 0.02)
        base.dtype = dtype  # type: ignore[assignment]
        learned = nn.Linear(300, 300, bias=False)
        learned.weight.data = base.weight.float() + 2e-5 * torch.randn(300, 300).sign()
        student = Student(learned, base, [learned.weight])
        made, kept = round_weights(student, stored)
        assert kept == pytest.approx(1.0, abs=0.02)
        update, wanted = ((one.weight - base.weight.float()).detach() for one in (made, learned))
        assert float((update * wanted).sum() / wanted.square().sum()) == pytest.approx(
            kept, abs=1e-3
        )
        if stored == "BF16":
            nearest = (learned.weight.to(dtype).float() - base.weight.float()).detach()
            assert float((nearest * wanted).sum() / wanted.square().sum()) < 0.6


# --- looks


def test_the_best_look_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one of those where fewest passages are recited."""
    monkeypatch.setattr(distillation, "LOOK", 1)
    counts = iter([5, 1, 1, 2])
    seen: list[torch.Tensor] = []

    def look(model: Any, rows: Any, *_: Any) -> Any:
        seen.append(next(model.parameters()).detach().clone())
        return np.arange(len(rows)) < next(counts)

    monkeypatch.setattr(distillation, "find_recited", look)
    rows = np.random.default_rng(0).integers(0, 50, (8, 12)).astype(np.int32)
    model, teacher = tiny_model(0), tiny_model(1)
    taught = distill(
        model,
        [Lesson(Divergence(model), rows, 4), Lesson(Divergence(teacher), rows, 4, 6)],
        Schedule(4),
    )
    assert [(one.step, one.passages, one.recited) for one in taught.looks] == [
        (1, 8, 5), (2, 8, 1), (3, 8, 1), (4, 8, 2),
    ]  # fmt: skip
    assert torch.equal(next(taught.student.model.parameters()), seen[2])
    assert not torch.equal(seen[2], seen[3])


def test_text_alone_is_not_looked_at() -> None:
    rows = np.random.default_rng(0).integers(0, 50, (8, 12)).astype(np.int32)
    assert (
        distill(tiny_model(0), [Lesson(Divergence(tiny_model(1)), rows, 4)], Schedule(2)).looks
        == []
    )
