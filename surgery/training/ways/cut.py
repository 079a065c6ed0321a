"""`cut`: the model without the attention of some blocks or heads teaches.

A cut still predicts ordinary text, but recites few passages. The closest work smooths attention in
the teacher (Zare Zade et al. 2026, arXiv 2603.01285).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from surgery.in_memory import Editable
from surgery.preparing import Fitting, Prepared
from surgery.record.manifest import CalibrationRecord
from surgery.selection import EditedHeads
from surgery.training.losses import Divergence
from surgery.training.student import copy_sharing


@dataclass(frozen=True)
class ByCut:
    """`prepared`: the model, and the plan of the cut that teaches; `fitting`: of that cut."""

    prepared: Prepared
    fitting: Fitting = field(default_factory=Fitting)
    advice = "cut more blocks, or earlier ones"

    @property
    def record(self) -> list[EditedHeads]:
        return list(self.prepared.plan.selection)

    @property
    def calibration(self) -> CalibrationRecord | None:
        return self.fitting.record

    @contextmanager
    def open(self, model: Any) -> Iterator[Divergence]:
        """As for `Way`. The cut shares its tensors with the model."""
        plan, cut = self.prepared.plan, copy_sharing(model)
        editable = Editable(cut, stored_dtype=plan.dtype)
        with editable.make_replacements(plan, self.fitting.fits).activate():
            yield Divergence(cut)
