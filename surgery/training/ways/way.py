"""What every way to make a model forget has."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from surgery.record.manifest import CalibrationRecord, Teacher
from surgery.training.losses import Loss


class Way(Protocol):
    """A way to make a model forget passages. A model that does not know them teaches, or none does.

    `advice`: what to do if the teacher recites the passages. `calibration`: the text that the
    teacher was fitted on.
    """

    @property
    def advice(self) -> str: ...

    @property
    def record(self) -> Teacher: ...

    @property
    def calibration(self) -> CalibrationRecord | None: ...

    def open(self, model: Any) -> AbstractContextManager[Loss]:
        """The loss on the passages for a student of a loaded `model`, which stays as it is. A
        teacher makes logits as a model of the library does."""
