"""What an audit is asked for."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from evals.running.request import Measuring
from surgery.hub.embedded import find_lab


class AuditRequest(Measuring):
    """What attackers recover of `samples` from `model`, and from `baseline`.

    - `samples`, `control`: passages, and text that was not trained on. Empty: a lab model's own.
    - `attack`: names. Empty: all. `max`: by attack, the highest rate that is allowed; it
      is run, too.

    Raises `MeasurementError` for an attack that does not exist.
    """

    model: str
    baseline: str
    samples: str | None = None
    control: tuple[Path, ...] = ()
    attack: tuple[str, ...] = ()
    max: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_tried(self) -> AuditRequest:
        if self.samples is None and self.lab is None:
            raise ValueError("audit needs passages: give `samples`")
        assert self.tried
        return self

    @property
    def lab(self) -> str | None:
        """The lab model that is audited, if one is."""
        return find_lab(self.model, self.baseline)

    @property
    def passages(self) -> str:
        return self.samples or str(self.lab)

    @property
    def tried(self) -> tuple[str, ...]:
        """The names of the attacks to run."""
        from evals.attacks.names import choose_attacks

        return choose_attacks(self.attack, self.max)
