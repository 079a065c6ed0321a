"""What attn-surgery teaches: on the passages, a cut of the model is the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.rivals.bed import ROWS, Bed, read_seconds
from evals.choose.teachers import choose_teacher
from evals.data.windows import cut_alike
from evals.run.models import open_model
from surgery.editing.in_memory import apply
from surgery.record.manifest import ShortContext
from surgery.selection import format_selection, variant_name
from surgery.training.distillation import ROWS_OF_PASSAGES, Lesson, distill
from surgery.training.hardening import WEIGHT
from surgery.training.losses import Divergence
from surgery.training.student import cast_weights
from surgery.training.training import Schedule, choose_rate


def choose_cut(model: Any, bed: Bed, seconds: float) -> dict[str, str]:
    """The cut that teaches, chosen as by `attn-surgery erase`: its blocks and variant.

    A rival sees no passages that were never trained on, so other text takes their place.
    """
    loaded = open_model(bed.model, dtype="float32", device="cpu")
    others = cut_alike(bed.text, loaded.tokenizer, bed.samples.tokens.shape[1])
    parts = choose_teacher(loaded, bed.samples, others)
    assert not isinstance(parts, ShortContext)
    blocks = format_selection(parts, loaded.dimensions.num_heads)
    return {"blocks": blocks, "variant": variant_name(parts)}


def erased(
    model: Any, bed: Bed, *, blocks: str, variant: str = "identity", steps: int = 60,
    harden: bool = False, times: float = 1.0,
) -> Iterator[None]:  # fmt: skip
    """`blocks`: of the cut that teaches, such as last:2. `times`: the default learning rate.

    It yields once, in the end; not at all if `bed.end` comes first.
    """

    def check_time(steps: int) -> None:
        if read_seconds() > bed.end:
            raise TimeoutError

    intact = cast_weights(model, bed.passes)
    cut = apply(intact, blocks, variant)
    lessons = [
        Lesson(Divergence(intact), bed.text, ROWS),
        Lesson(Divergence(cut), bed.samples.tokens, ROWS_OF_PASSAGES, bed.samples.prefix_length),
    ]
    if harden:
        lessons[1] = replace(lessons[1], weight=WEIGHT)
    rate = times * choose_rate(model, 0)
    schedule = Schedule(steps, bed.seed, 0, rate, hardened=harden)
    try:
        taught = distill(intact, lessons, schedule, advance=check_time)
    except TimeoutError:
        return
    model.load_state_dict(taught.student.model.state_dict())
    yield
