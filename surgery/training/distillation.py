"""Distillation: a student learns to predict, on each kind of rows, what the teacher of it predicts.

The loss of a lesson is KL(teacher || student), the mean over the tokens that count, in nats (Hinton
et al. 2015, arXiv 1503.02531, at temperature 1).

Shape letters: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from surgery.card.facts import make_printable
from surgery.errors import SamplesError
from surgery.families import Dimensions
from surgery.fitting.calibration import Calibration
from surgery.record.manifest import LONGEST, PassagesRecord
from surgery.training.hardening import WEIGHT, draw_rehearsals, harden
from surgery.training.training import ROWS, Flags, Schedule, measure_loss, train

ROWS_OF_PASSAGES = 24
"""Passages of a step."""
MOST_LOGITS = 2**27
"""Logits that a pass makes at a time: 0.5 GB in float32, several times over. With a vocabulary of
262,144, a step of text makes four times as many."""

Rows = npt.NDArray[np.int32]
Chosen = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Passages:
    """Passages in tokens, int32 [n, P + S], and the `prefix_length` P. Rows that are shorter end
    with negative numbers.

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
    """Rows to learn from, and the model whose predictions are learned there.

    - `rows`: int32 [n, T], negative after the end of a shorter one; `per_step`: how many of them a
      step takes, in shuffled order.
    - `first`: the first token whose prediction counts: the length of a prefix.
    - `weight`: of this lesson's loss in the sum of all.
    """

    teacher: Any
    rows: Rows
    per_step: int
    first: int = 1
    weight: float = 1.0

    def draw(self, steps: int, seed: int) -> Rows:
        """The rows of all steps, int32 [steps, B, T]. Each comes once before any comes again."""
        order, needed = np.random.default_rng(seed), steps * self.per_step
        rounds = [order.permutation(len(self.rows)) for _ in range(-(-needed // len(self.rows)))]
        drawn = np.concatenate(rounds)[:needed]
        return self.rows[drawn].reshape(steps, self.per_step, -1)


def teach(
    student: Any,
    intact: Any,
    cut: Any,
    text: Calibration,
    passages: Passages | None,
    schedule: Schedule,
    **options: Any,
) -> list[float]:
    """Trains a float32 `student` in place: on `text` by `intact`, on `passages` by `cut`.

    `options` and the result: as for `distill`.
    """
    lessons = [Lesson(intact, text.windows, ROWS)]
    if passages is not None:
        first, weight = passages.prefix_length, WEIGHT if schedule.hardened else 1.0
        lessons.append(Lesson(cut, passages.tokens, ROWS_OF_PASSAGES, first, weight))
    return distill(student, lessons, schedule, **options)


def distill(
    student: Any,
    lessons: Sequence[Lesson],
    schedule: Schedule,
    *,
    passes: torch.dtype = torch.float32,
    constants: Mapping[str, Flags] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[float]:
    """Trains a float32 model in place. Returns the loss before each step, in nats.

    A hardened schedule rehearses training on the rows of the last lesson: passages.

    `passes`: the dtype of the student's passes; bfloat16 ones take a third of the time on a CPU.
    Teachers run as they are loaded. `constants`, `advance`, and errors: as for `train`.
    """
    drawn = [one.draw(schedule.steps, schedule.seed + at) for at, one in enumerate(lessons)]
    told: dict[str, Any] = {"constants": constants, "advance": advance}

    def measure(step: int) -> Iterator[torch.Tensor]:
        for lesson, rows in zip(lessons, drawn, strict=True):
            for some in _split(rows[step], lesson.first, student):
                share = len(some) / lesson.per_step
                yield share * _measure_lesson(student, lesson, some, passes)

    if schedule.hardened:
        schedule = schedule.settle(student)
        told["adjust"] = _make_hardening(student, lessons[-1], schedule, passes)
    return train(student, measure, schedule, **told)


def _make_hardening(
    student: Any, lesson: Lesson, schedule: Schedule, passes: torch.dtype
) -> Callable[[int, list[torch.nn.Parameter]], None]:
    """Returns what hardens each step of `lesson` against training on its rows."""
    drawn = draw_rehearsals(len(lesson.rows), lesson.per_step, schedule.steps, schedule.seed)

    def split(chosen: Chosen, first: int) -> Iterator[tuple[float, Rows]]:
        for rows in _split(lesson.rows[chosen], first, student):
            yield len(rows) / len(chosen), rows

    def relearn(chosen: Chosen) -> Iterator[torch.Tensor]:
        for share, rows in split(chosen, 1):
            tokens = _to_tokens(rows, student)
            with torch.autocast(tokens.device.type, passes, enabled=passes is torch.bfloat16):
                loss: torch.Tensor = measure_loss(student, tokens)
            yield share * loss

    def forget(chosen: Chosen) -> Iterator[torch.Tensor]:
        for share, rows in split(chosen, lesson.first):
            yield share * _measure_lesson(student, lesson, rows, passes)

    def adjust(step: int, learned: list[torch.nn.Parameter]) -> None:
        assert schedule.learning_rate is not None
        harden(learned, drawn[step], schedule.learning_rate, relearn, forget)

    return adjust


def _split(rows: Rows, first: int, model: Any) -> Iterator[Rows]:
    """Parts of rows [B, T] of which a pass makes at most `MOST_LOGITS` logits.

    Of each row, it makes those from token `first` on, or all if the model cannot do less.
    """
    made = rows.shape[1] - (first if _keeps_few(model) else 1)
    size = max(1, MOST_LOGITS // (model.config.vocab_size * made))
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


def _measure_lesson(student: Any, lesson: Lesson, rows: Rows, passes: torch.dtype) -> torch.Tensor:
    """The student's loss on rows of a lesson, int32 [B, T], times its weight."""
    tokens = _to_tokens(rows, student)
    with torch.no_grad():
        taught = _predict(lesson.teacher, tokens, lesson.first)
    with torch.autocast(tokens.device.type, passes, enabled=passes is torch.bfloat16):
        learned = _predict(student, tokens, lesson.first)
    loss = functional.kl_div(learned, taught, log_target=True, reduction="batchmean")
    return lesson.weight * loss


def _keeps_few(model: Any) -> bool:
    """Whether a model can make the logits of the last tokens alone."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def _to_tokens(rows: Rows, model: Any) -> torch.Tensor:
    return torch.from_numpy(rows.astype(np.int64)).to(model.device)


def _predict(model: Any, tokens: torch.Tensor, first: int) -> torch.Tensor:
    """Log-probabilities from token `first` on: int64 [B, T] → float32 [B (T - first), V], without
    those of negative tokens, which stand after the end of a row."""
    ids, ended = tokens[:, :-1].clamp(min=0), (tokens[:, first:] < 0).flatten()
    number = tokens.shape[1] - first
    told = {"logits_to_keep": number} if _keeps_few(model) else {}
    logits = model(input_ids=ids, use_cache=False, **told).logits[:, -number:].flatten(0, 1)
    if ended.any():
        logits = logits[~ended]
    return functional.log_softmax(logits.float(), dim=-1)
