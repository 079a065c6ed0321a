"""Chooses the cut that teaches a model to forget: a run of blocks without attention.

A teacher should not know the passages, even if it is told a quarter of their tokens, and should
still read such text as one does who never saw it. What it costs on other text does not matter:
nobody pays that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.data import Samples, Tokens
from evals.measure.edits.engine import Engine
from evals.measure.memorization.recovery import HINTED, make_recovery
from evals.run.console import say, show_progress
from evals.run.models import LoadedModel
from surgery.errors import MeasurementError, UnsupportedError
from surgery.selection import EditedHeads, Selection, format_selection, variant_name
from surgery.training.distillation import TaughtRows, count_recited

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
    """`recovered`: the share of passages; `accuracy`: of tokens of text never trained on."""

    selection: Selection
    recovered: float
    accuracy: float

    @property
    def order(self) -> tuple[float, float]:
        """The smaller, the better."""
        return max(self.recovered, MOST), -self.accuracy


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


def choose_teacher(loaded: LoadedModel, samples: Samples, others: Tokens) -> Selection:
    """The run of blocks with the best `Teacher.order`. `others`: text not trained on, [M, P + S].

    Non-members among `samples` take the place of `others`.
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
    if not runs:
        raise UnsupportedError(
            "no run of blocks can be cut, so none can teach",
            where=loaded.name,
            fix="name the teacher's blocks or heads with `drop_attn`",
        )
    engine = Engine(loaded.model, every, editable=editable)
    with show_progress("choose a teacher", engine.work(runs)) as advance:
        measured = engine.measure(runs, advance=advance)
    measure = make_recovery(f"hints:{max(1, samples.suffix_length // HINTED)}")
    known = len(members)
    best = min(
        (
            Teacher(
                one.selection,
                float(measure.recovered(one.evidence)[:known].mean()),
                float(one.next_token_accuracy[known:].mean()),
            )
            for one in measured
        ),
        key=lambda teacher: teacher.order,
    )
    blocks = format_selection(best.selection, size.num_heads)
    say(
        f"teacher: blocks {blocks} as {variant_name(best.selection)}, of {len(runs)} runs of "
        f"blocks: {measure.name} recovers {best.recovered:.1%} of {known} passages; "
        f"{best.accuracy:.1%} of the tokens of text not trained on are right"
    )
    return best.selection


def check_teacher(teacher: Any, passages: TaughtRows, advice: str) -> None:
    """Raises `RecitingTeacherError` for a teacher that recites what the student must forget.

    `advice`: as for `surgery.training.ways.way.Way`.
    """
    recited = count_recited(teacher, passages) / len(passages.tokens)
    if recited > MOST_RECITED:
        raise RecitingTeacherError(
            "the teacher recites the passages itself, so it cannot teach to forget them",
            expected=f"at most {MOST_RECITED:.0%} of {len(passages.tokens):,} passages",
            got=f"{recited:.1%}",
            fix=advice,
        )
