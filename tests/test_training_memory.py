"""Contract: a training is planned for the memory that there is, and then takes what was planned."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROOT
from tiny_tokenizer import tiny_model

from evals.measure.attacks import tuning
from surgery.errors import UnsupportedError
from surgery.training import planning
from surgery.training.distillation import Lesson, _distill, distill, plan_training
from surgery.training.losses import Divergence
from surgery.training.planning import Fit, _Count, measure_needed
from surgery.training.training import Schedule

ROOM = 1 << 60
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
"""The allocator keeps nothing that is freed."""


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_MEASURED", {})


def wide_model(seed: int = 0) -> Any:
    return tiny_model(seed, hidden_size=64, intermediate_size=256)


def make_lessons(text: int = 4, passages: int = 3) -> list[Lesson]:
    draw = np.random.default_rng(0)
    windows, rows = (
        draw.integers(2, 250, shape).astype(np.int32) for shape in ((24, 32), (12, 20))
    )
    rows[0, 15:] = -1  # a shorter one
    teacher = wide_model(1)
    return [
        Lesson(Divergence(teacher), windows, text),
        Lesson(Divergence(teacher), rows, passages, 10),
    ]


def count_real(run: Any) -> int:
    """The most bytes of tensors that it holds at a time."""
    gc.collect()
    with _Count("cpu") as count:
        run()
    return int(count.most)


@pytest.mark.parametrize(
    ("asked", "hardened"),
    [
        (Fit(0, 2, False), False),
        (Fit(8, 2, True), True),
        *(
            pytest.param(Fit(rank, rows, checkpointing), hardened, marks=pytest.mark.slow)
            for rank, rows, checkpointing in ((0, 4, False), (0, 1, True), (8, 4, False))
            for hardened in (False, True)
        ),
    ],
    ids=str,
)
def test_a_training_takes_what_its_first_steps_do(asked: Fit, hardened: bool) -> None:
    """Real tensors, and more steps: later ones hold no more than the two that are imagined."""
    model = wide_model()
    lessons = make_lessons()
    schedule = Schedule(4, rank=asked.rank, learning_rate=1e-3, hardened=hardened)

    def train(steps: int, model: Any) -> None:
        here = lessons
        if steps == planning.STEPS:
            losses = [one.loss.with_teacher(model) for one in lessons]
            pairs = zip(lessons, losses, strict=True)
            here = [replace(one, loss=loss).take(asked.rows) for one, loss in pairs]
        taught = _distill(model, here, replace(schedule, steps=steps), asked, owns_base=True)
        taught.student.settle()

    planned = measure_needed(model, lambda imagined: train(planning.STEPS, imagined))
    assert count_real(lambda: train(4, model)) == pytest.approx(planned, rel=0.02)


def test_an_attack_takes_what_its_first_steps_do() -> None:
    """Two copies are there at a time: the one that is read, and the next."""
    model = wide_model()
    rows = np.random.default_rng(0).integers(2, 250, (8, 24)).astype(np.int32)

    def attack() -> None:
        for tuned in tuning.fine_tune(model, rows, learning_rate=1e-4, steps=(2, 4)):
            assert tuned

    learned, found = tuning.plan_fine_tuning(model, rows, 1 << 60)
    assert (learned, found.rows, found.checkpointing) == ("all weights", 8, False)
    assert count_real(attack) == pytest.approx(found.needed, rel=0.02)


def list_plans(schedule: Schedule, rows: int) -> tuple[list[Fit], str]:
    """The plans for ever less room, each a byte less than the one before needs; and the error."""
    found, room, model = list[Fit](), ROOM, wide_model()
    lessons = make_lessons(rows, 1)
    while True:
        try:
            found.append(plan_training(model, lessons, schedule, room=room))
        except UnsupportedError as error:
            return found, str(error)
        assert found[-1].needed <= room
        room = found[-1].needed - 1


@pytest.mark.parametrize("rows", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_less_room_is_fewer_rows_then_checkpointing_then_adapters(rows: int) -> None:
    found, error = list_plans(Schedule(2), rows)
    assert {one.rows for one in found} <= {rows, 8, 4, 2, 1}
    ways = [(one.rank, one.checkpointing, -one.rows) for one in found]
    assert ways == sorted(set(ways))
    assert ways[0] == (0, False, -rows)
    assert {way[:2] for way in ways} >= {(0, False), (planning.RANK, False), (planning.RANK, True)}
    assert error == (
        "the weights to train do not fit into memory with the model (expected at least 0.0 GB "
        "beside it, got 0.0 GB); train it on a larger machine"
    )


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_that_is_asked_for_is_kept(rank: int) -> None:
    found, _ = list_plans(Schedule(2, rank=rank), 1)
    assert {one.rank for one in found} == {rank}


def test_the_same_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []
    real = planning.measure_needed

    def measure(model: Any, run: Any) -> int:
        measured.append(type(model).__name__)
        return real(model, run)

    monkeypatch.setattr(planning, "measure_needed", measure)

    def plan(model: Any, steps: int = 2, text: int = 4, **how: Any) -> int:
        plan_training(model, make_lessons(text), Schedule(steps, **how), room=ROOM)
        return len(measured)

    assert plan(wide_model()) == 1
    assert plan(wide_model(1)) == 1, "whatever its weights are"
    assert plan(wide_model().bfloat16()) == 2
    assert plan(wide_model(), hardened=True) == 3
    assert plan(wide_model(), rank=4) == 4
    assert plan(wide_model(), text=2) == 5
    assert plan(wide_model(), 60) == 5, "more steps need no more memory"


def test_what_was_measured_holds_no_model() -> None:
    model = wide_model()
    gone = weakref.ref(model)
    plan_training(model, make_lessons(), Schedule(2), room=ROOM)
    tuning.plan_fine_tuning(model, np.ones((4, 12), np.int32), ROOM)
    assert len(planning._MEASURED) == 2
    del model
    assert gone() is None


@pytest.mark.parametrize(
    ("rank", "hardened"), [(0, True), (4, False), pytest.param(4, True, marks=pytest.mark.slow)]
)
def test_rows_of_a_pass_change_only_the_order_of_sums(rank: int, hardened: bool) -> None:
    """Nor does checkpointing change more."""
    model = wide_model()
    before = torch.cat([one.detach().flatten() for one in model.parameters()])

    def train(rows: int, checkpointing: bool) -> tuple[list[float], torch.Tensor]:
        schedule = Schedule(3, rank=rank, learning_rate=1e-3, hardened=hardened)
        taught = _distill(model, make_lessons(), schedule, Fit(rank, rows, checkpointing))
        weights = taught.student.settle().parameters()
        return taught.losses, torch.cat([one.detach().flatten() for one in weights]) - before

    losses, update = train(4, False)
    assert float(update.norm()) > 0.01
    for rows, checkpointing in ((3, False), (1, False), (4, True), (2, True)):
        found, other = train(rows, checkpointing)
        assert found == pytest.approx(losses, rel=1e-5)
        assert float((other - update).norm() / update.norm()) < 0.02


def test_a_base_that_is_owned_becomes_the_result() -> None:
    """It is the same as one beside the base, which then stays as it was."""
    made = {}
    for owned in (False, True):
        model = wide_model()
        schedule = Schedule(2, rank=4, learning_rate=1e-2)
        taught = distill(model, make_lessons(), schedule, owns_base=owned)
        made[owned] = taught.student.settle()
        assert (made[owned] is model) == owned
        same = [
            torch.equal(a, b)
            for a, b in zip(model.parameters(), wide_model().parameters(), strict=True)
        ]
        assert all(same) != owned
    for one, other in zip(made[False].parameters(), made[True].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("width", [256, 512, 1024])
@pytest.mark.parametrize("way", ["all weights", "adapters, checkpointing", "attack"])
def test_a_process_takes_what_was_planned(width: int, way: str) -> None:
    """As Linux counts it, in a process of its own."""
    command = (sys.executable, "benchmarks/memory.py", "one", str(width), way)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **GIVEN_BACK}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    assert found["checkpointing"] == way.endswith("checkpointing")
    assert found["measured"] == pytest.approx(found["planned"], rel=0.15)
