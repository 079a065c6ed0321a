"""What every way to make a model forget has."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from surgery.record.manifest import CalibrationRecord, Teacher


class Way(Protocol):
    """A way to make a model forget passages: another model, which does not know them, teaches.

    `advice`: what to do if the teacher recites the passages. `calibration`: the text that the
    teacher was fitted on.
    """

    @property
    def advice(self) -> str: ...

    @property
    def record(self) -> Teacher: ...

    @property
    def calibration(self) -> CalibrationRecord | None: ...

    def open(self, model: Any) -> AbstractContextManager[Any]:
        """The teacher of a loaded `model`, which it leaves as it is. It makes logits as a model of
        the library does."""
