"""What attn-surgery teaches: on the passages, a cut of the model is the teacher."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from benchmarks.rivals.bed import ROWS, Bed
from surgery.editing.in_memory import apply
from surgery.training.distillation import ROWS_OF_PASSAGES, Lesson, distill
from surgery.training.training import Schedule


def erased(
    model: Any, bed: Bed, *, blocks: str, variant: str = "identity", steps: int = 60
) -> Iterator[None]:
    """`blocks`: of the cut that teaches, such as last:2."""
    intact = copy.deepcopy(model).requires_grad_(False)
    cut = apply(intact, blocks, variant)
    lessons = [
        Lesson(intact, bed.text, ROWS),
        Lesson(cut, bed.samples.tokens, ROWS_OF_PASSAGES, bed.samples.prefix_length),
    ]
    distill(model, lessons, Schedule(steps).settle(model))
    yield
