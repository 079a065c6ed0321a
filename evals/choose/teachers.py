"""Chooses what teaches a model to forget: a run of blocks without attention, or a short context.

A teacher should not know the passages, even if it is told a quarter of their tokens, and should
still read such text as one does who never saw it. What it costs on other text does not matter:
nobody pays that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evals.data import Samples, Tokens, measure_lengths
from evals.measure.edits.engine import Engine
from evals.measure.memorization.recovery import HINTED, Evidence, make_recovery
from evals.run.console import say, show_progress
from evals.run.models import LoadedModel
from surgery.errors import MeasurementError, UnsupportedError
from surgery.record.manifest import ShortContext
from surgery.selection import EditedHeads, Selection, format_selection, variant_name
from surgery.training.distillation import TaughtRows, count_recited
from surgery.training.losses import read_logits
from surgery.training.ways.context import ByContext

MOST = 0.01
"""Recovered passages up to this share do not count in a choice."""
MOST_RECITED = 0.05
"""The largest share of the passages that a teacher may recite, whoever named it."""
VARIANTS = ("identity", "zero")
ROWS = 24
"""Passages, and as many rows that were never trained on, to measure a teacher on."""


class RecitingTeacherError(MeasurementError):
    """The teacher recites what the student must forget."""


@dataclass(frozen=True)
class Teacher:
    """`taught_by`: the blocks that are cut, or the context. `recovered`: the share of passages;
    `accuracy`: of tokens of text never trained on."""

    taught_by: Selection | ShortContext
    recovered: float
    accuracy: float

    @property
    def order(self) -> tuple[float, float]:
        """The smaller, the better."""
        return max(self.recovered, MOST), -self.accuracy

    def describe(self, num_heads: int) -> str:
        if isinstance(self.taught_by, ShortContext):
            few = self.taught_by.context
            return f"a context of {few:,} token{'s' if few > 1 else ''}"
        blocks = format_selection(self.taught_by, num_heads)
        return f"blocks {blocks} as {variant_name(self.taught_by)}"

    def compare(self, other: Teacher, num_heads: int) -> str:
        """Why it is chosen, and the other is not."""
        knows_less = self.order[0] < other.order[0]
        why = "knows fewer passages" if knows_less else "reads new text no worse"
        figures = f"{other.recovered:.1%}, {other.accuracy:.1%}"
        return f"{why} than {other.describe(num_heads)} ({figures})"


def list_runs(num_blocks: int, num_heads: int) -> list[Selection]:
    """Runs of an eighth, a quarter, and half of the blocks, side by side."""
    sizes = {max(1, num_blocks // share) for share in (8, 4, 2)}
    heads = tuple(range(num_heads))
    return [
        tuple(EditedHeads(block, heads, variant) for block in range(begin, begin + size))
        for variant in VARIANTS
        for size in sorted(sizes)
        for begin in range(0, num_blocks - size + 1, size)
    ]


def choose_teacher(
    loaded: LoadedModel, samples: Samples, others: Tokens, context: int | None = None
) -> Selection | ShortContext:
    """The run of blocks, or the context of so many tokens, with the best `Teacher.order`.

    `others`: text not trained on, [M, P + S]. Non-members among `samples` take its place. Raises
    `UnsupportedError` if nothing can teach.
    """
    members = samples.spread(samples.trained_on, ROWS)
    never = ~samples.trained_on
    apart = samples.spread(never, ROWS).tokens if never.any() else others[:ROWS]
    rows = np.concatenate([members.tokens, apart])
    names = tuple(map(str, range(len(rows))))
    every = Samples(rows, samples.prefix_length, names, samples.source)
    size, editable = loaded.dimensions, loaded.editable
    runs = [
        one
        for one in list_runs(size.num_blocks, size.num_heads)
        if editable.find_refusal(one) is None
    ]
    if not (runs or context):
        raise UnsupportedError(
            "no run of blocks can be cut, so none can teach",
            where=loaded.name,
            fix="name the teacher's blocks or heads with `drop_attn`",
        )
    measure = make_recovery(f"hints:{max(1, samples.suffix_length // HINTED)}")
    known = len(members)

    def measure_teacher(taught_by: Selection | ShortContext, evidence: Evidence) -> Teacher:
        recovered = float(measure.recovered(evidence)[:known].mean())
        lengths = measure_lengths(every.suffixes)
        wrong = (~evidence.right).sum(axis=1) / lengths
        return Teacher(taught_by, recovered, float(1 - wrong[known:].mean()))

    tried = list[Teacher]()
    if runs:
        engine = Engine(loaded.model, every, editable=editable)
        with show_progress("choose a teacher", engine.work(runs)) as advance:
            measured = engine.measure(runs, advance=advance)
        tried.append(_find_best(measure_teacher(one.selection, one.evidence) for one in measured))
    if context is not None:
        evidence = _see_little(loaded.model, every, context)
        tried.append(measure_teacher(ShortContext(context=context), evidence))
    best = _find_best(tried)
    looked = f"{len(runs)} runs of blocks" + ("" if context is None else " and a short context")
    told = f"teacher: {best.describe(size.num_heads)}, of {looked}: {measure.name} recovers "
    told += f"{best.recovered:.1%} of {known} passages; {best.accuracy:.1%} of the tokens of text "
    told += "not trained on are right"
    for other in tried:
        told += "" if other is best else f". It {best.compare(other, size.num_heads)}"
    say(told)
    return best.taught_by


def _find_best(teachers: Iterable[Teacher]) -> Teacher:
    return min(teachers, key=lambda teacher: teacher.order)


def _see_little(model: Any, samples: Samples, context: int) -> Evidence:
    """What a model predicts that sees so many tokens. No probability is measured."""
    right = list[npt.NDArray[np.bool_]]()
    with torch.inference_mode(), ByContext(context).open(model) as loss:
        for begin in range(0, len(samples), ROWS):
            rows = samples.tokens[begin : begin + ROWS]
            made = read_logits(loss.teacher, rows, samples.prefix_length).argmax(-1).cpu().numpy()
            true = rows[:, samples.prefix_length :]
            right.append((made == true) | (true < 0))
    none = np.zeros(len(samples))
    return Evidence(np.concatenate(right), none, measure_lengths(samples.suffixes))


def check_teacher(teacher: Any, passages: TaughtRows, advice: str) -> None:
    """Raises `RecitingTeacherError` for a teacher that recites what the student must forget.

    `advice`: as for `surgery.training.ways.way.Way`.
    """
    recited = count_recited(teacher, passages) / len(passages.tokens)
    if recited > MOST_RECITED:
        raise RecitingTeacherError(
            "the teacher recites the passages itself, so it cannot teach to erase them",
            expected=f"at most {MOST_RECITED:.0%} of {len(passages.tokens):,} passages",
            got=f"{recited:.1%}",
            fix=advice,
        )
