"""Distillation: on each kind of rows, a student minimizes the loss of a lesson.

On text, that is KL(teacher || student), the mean over the tokens that count, in nats (Hinton et al.
2015, arXiv 1503.02531, at temperature 1). On passages, it may be another one.

Shape letters: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from surgery.card.facts import make_printable
from surgery.errors import SamplesError
from surgery.families import Dimensions
from surgery.fitting.calibration import Calibration
from surgery.reading.corpus import close_up
from surgery.record.manifest import LONGEST, Look, PassagesRecord, Recital
from surgery.training.hardening import WEIGHT, draw_rehearsals, harden
from surgery.training.loop import LARGEST_GRADIENT, LossPart, descend, fall
from surgery.training.losses import (
    Divergence,
    Loss,
    Rows,
    divide,
    find_recited,
    measure_loss,
    to_tokens,
)
from surgery.training.student import Flags, Student, make_student
from surgery.training.training import ROWS, Schedule, choose_rate

ROWS_OF_PASSAGES = 24
"""Passages of a step."""
LOOK = 10
"""Steps between two looks at what is recited."""
MOST_LOOKED_AT = 96
"""Passages of a look, evenly spread: they take a twentieth of the time of the steps between two."""

Chosen = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class TaughtRows:
    """Passages in tokens, int32 [n, P + S], and the `prefix_length` P. Negative numbers stand
    before a shorter prefix, and after a shorter suffix.

    `name`, `sha256`, and `leave_out`: as records hold them.
    """

    tokens: Rows
    prefix_length: int
    name: str
    sha256: str
    leave_out: float | None = None

    def check_length(self, dimensions: Dimensions) -> None:
        """Raises `SamplesError` if they are longer than a model's context, or have no two parts."""
        if not 0 < self.prefix_length < self.tokens.shape[1]:
            raise SamplesError(
                "wrong prefix length",
                where=self.name,
                expected=f"1 to {self.tokens.shape[1] - 1} of {self.tokens.shape[1]} tokens",
                got=self.prefix_length,
            )
        if (length := self.tokens.shape[1]) > dimensions.max_positions:
            raise SamplesError(
                "the passages are longer than the model's context",
                where=self.name,
                expected=f"at most {dimensions.max_positions:,} tokens",
                got=f"{length:,}",
                fix="give a shorter `prefix_length` or `suffix_length`",
            )

    def tell(self, model: Any, by_teacher: int | None) -> Recital:
        """How many of them a model recites; `by_teacher`: how many its teacher does, if any."""
        recited = count_recited(model, self)
        return Recital(passages=len(self.tokens), recited=recited, by_teacher=by_teacher)

    @property
    def record(self) -> PassagesRecord:
        return PassagesRecord(
            name=make_printable(self.name)[:LONGEST],
            sha256=self.sha256,
            number=len(self.tokens),
            prefix_length=self.prefix_length,
            suffix_length=self.tokens.shape[1] - self.prefix_length,
            rows=ROWS_OF_PASSAGES,
            leave_out=self.leave_out,
        )


@dataclass(frozen=True, eq=False)
class Lesson:
    """Rows to learn from, and the loss to minimize there.

    - `rows`: int32 [n, T], negative after the end of a shorter one; `per_step`: how many of them a
      step takes, in shuffled order.
    - `first`: the first token whose prediction counts: the length of a prefix.
    - `weight`: of this lesson's loss in the sum of all.
    """

    loss: Loss
    rows: Rows
    per_step: int
    first: int = 1
    weight: float = 1.0

    def spread(self, most: int) -> Lesson:
        """The same on at most so many rows, evenly spread over all."""
        return replace(self, rows=self.rows[:: max(1, -(-len(self.rows) // most))])

    def draw(self, steps: int, seed: int) -> Rows:
        """The rows of all steps, int32 [steps, B, T]. Each comes once before any comes again."""
        order, needed = np.random.default_rng(seed), steps * self.per_step
        rounds = [order.permutation(len(self.rows)) for _ in range(-(-needed // len(self.rows)))]
        drawn = np.concatenate(rounds)[:needed]
        return self.rows[drawn].reshape(steps, self.per_step, -1)


@dataclass(frozen=True, eq=False)
class Taught:
    """A student at the end of its training. `schedule`: as it was settled. `losses`: before each
    step, in nats. `looks`: what it recited of the passages meanwhile."""

    student: Student
    schedule: Schedule
    losses: list[float]
    looks: list[Look]


def teach(
    base: Any,
    intact: Any,
    loss: Loss,
    text: Calibration,
    passages: TaughtRows | None,
    schedule: Schedule,
    *,
    kept: TaughtRows | None = None,
    **options: Any,
) -> Taught:
    """Trains a student of `base`: on `text` and on the rows `kept` by `intact`, on `passages` by a
    loss.

    `options` and errors: as for `distill`.
    """
    lessons = list_lessons(intact, loss, text.windows, passages, schedule)
    if kept is not None:  # the passages stay last
        lessons.insert(1, Lesson(Divergence(intact), close_up(kept.tokens), ROWS_OF_PASSAGES))
    return distill(base, lessons, schedule, **options)


def list_lessons(
    intact: Any, loss: Loss, windows: Rows, passages: TaughtRows | None, schedule: Schedule
) -> list[Lesson]:
    """What `intact` teaches on `windows` of text, int32 [n, T], and a loss on passages."""
    lessons = [Lesson(Divergence(intact), windows, ROWS)]
    if passages is not None:
        first, weight = passages.prefix_length, WEIGHT if schedule.hardened else 1.0
        lessons.append(Lesson(loss, passages.tokens, ROWS_OF_PASSAGES, first, weight))
    return lessons


def distill(
    base: Any,
    lessons: Sequence[Lesson],
    schedule: Schedule,
    *,
    constants: Mapping[str, Flags] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
    owns_base: bool = False,
) -> Taught:
    """Trains a student of `base`, which does not change. The last of several lessons is on
    passages.

    It looks at what the student recites of them, and keeps the weights of the best look: the last
    one of those where it recites least. A hardened schedule rehearses training on their rows.

    `constants`: parameter → which of its numbers stay; `advance` counts steps; `owns_base`: as for
    `Student`. Passes are in the dtype of `base`, and teachers run as they are loaded. Raises
    `NotFiniteError`.
    """
    rank = schedule.rank or 0
    if (rate := schedule.learning_rate) is None:
        rate = choose_rate(base, rank)
    schedule = replace(schedule, rank=rank, learning_rate=rate)
    steps, seed = schedule.steps, schedule.seed
    student = make_student(base, rank=rank, seed=seed, constants=constants, owns_base=owns_base)
    drawn = [(one, one.draw(steps, seed + at)) for at, one in enumerate(lessons)]
    told: dict[str, Any] = {"clip": LARGEST_GRADIENT, "scale": student.scale}
    if schedule.hardened:
        told["begin"] = _make_hardening(student, *drawn.pop(), schedule)

    def measure(step: int) -> list[LossPart]:
        return [part for lesson, rows in drawn for part in _list_parts(student, lesson, rows[step])]

    losses, looks, best = list[float](), list[Look](), _Best(student.learned)
    passages = lessons[-1].spread(MOST_LOOKED_AT) if len(lessons) > 1 else None
    for loss in descend(student.learned, measure, fall(rate, steps), **told):
        losses.append(round(loss, 6))
        advance(1)
        if passages is not None and (len(losses) % LOOK == 0 or len(losses) == steps):
            with student.cast():
                given = passages.rows, passages.first, ROWS_OF_PASSAGES
                recited = find_recited(student.model, *given)
            looks.append(Look(step=len(losses), passages=len(recited), recited=int(recited.sum())))
            best.see(looks[-1].recited)
    best.put_back()
    return Taught(student, schedule, losses, looks)


class _Best:
    """The numbers of tensors at the best look: the last one with the fewest passages recited."""

    def __init__(self, learned: Sequence[torch.Tensor]) -> None:
        self._learned, self._fewest = learned, math.inf
        self._kept: list[torch.Tensor] | None = None

    def see(self, recited: int) -> None:
        if recited > self._fewest:
            return
        self._fewest = recited
        self._kept = [one.detach().to("cpu", copy=True) for one in self._learned]

    def put_back(self) -> None:
        with torch.no_grad():
            for one, numbers in zip(self._learned, self._kept or (), strict=False):
                one.copy_(numbers)


def _make_hardening(
    student: Student, lesson: Lesson, taken: Rows, schedule: Schedule
) -> Callable[[int], float]:
    """Returns what begins each step with a lesson that is hardened against training on its rows.

    `taken`: the rows of all steps, int32 [steps, B, T].
    """
    drawn = draw_rehearsals(len(lesson.rows), lesson.per_step, schedule.steps, schedule.seed)

    def relearn(share: float, rows: Rows) -> torch.Tensor:
        with student.cast():
            return share * measure_loss(student.model, to_tokens(close_up(rows), student.model))

    def list_relearned(chosen: Chosen) -> list[LossPart]:
        return [partial(relearn, *some) for some in divide(lesson.rows[chosen], 1)]

    def list_forgotten(chosen: Chosen) -> list[LossPart]:
        return _list_parts(student, lesson, lesson.rows[chosen])

    def begin(step: int) -> float:
        assert schedule.learning_rate is not None
        parts = list_relearned, list_forgotten, _list_parts(student, lesson, taken[step])
        how = schedule.learning_rate, *parts, student.scale
        return harden(student.learned, drawn[step], *how)

    return begin


def _list_parts(student: Student, lesson: Lesson, rows: Rows) -> list[LossPart]:
    """The loss on rows of a lesson, int32 [B, T], one part for each process."""
    parts = divide(rows, lesson.first)
    return [partial(_measure_lesson, student, lesson, *some) for some in parts]


def _measure_lesson(student: Student, lesson: Lesson, share: float, rows: Rows) -> torch.Tensor:
    """A share of the student's loss on rows of a lesson, int32 [B, T], times its weight."""
    return share * lesson.weight * lesson.loss(student.model, rows, lesson.first, student.cast())


def count_recited(model: Any, passages: TaughtRows) -> int:
    """How many passages a model recites, greedily."""
    given = passages.tokens, passages.prefix_length, ROWS_OF_PASSAGES
    return int(find_recited(model, *given).sum())


def record_training(text: Calibration, taught: Taught, kept: float) -> dict[str, Any]:
    """Returns the fields of a `TrainingRecord`. `kept`: of what was learned, after rounding."""
    schedule, base = taught.schedule, taught.student.base
    return {
        **dict(text.record_text()),
        "steps": schedule.steps,
        "rows": ROWS,
        "learning_rate": schedule.learning_rate,
        "seed": schedule.seed,
        "rank": schedule.rank or 0,
        "device": base.device.type,
        "dtype": str(base.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "losses": taught.losses,
        "looks": taught.looks,
        "kept": kept,
    }
