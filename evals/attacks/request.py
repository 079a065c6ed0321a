"""The request for an audit."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from evals.running.request import Measuring
from surgery.hub.embedded import find_lab


class AuditRequest(Measuring):
    """Measures what attackers recover of `samples` from `model` and from `baseline`.

    - `samples`, `control`: passages, and text that no model was trained on. Empty: a lab model's
      own.
    - `attack`: names; empty: the default set. `max`: attack → the highest share allowed. Attacks
      with a limit also run.
    - `draws`: runs of each attack that trains; None: five, or fewer where one takes long.
    - `twin`: a model that never saw the passages. Results also say how far the edit goes from the
      base toward it.

    Raises `UnknownNameError` for an unknown attack.
    """

    model: str
    baseline: str
    samples: str | None = None
    control: tuple[Path, ...] = ()
    attack: tuple[str, ...] = ()
    max: dict[str, float] = Field(default_factory=dict)
    draws: int | None = Field(default=None, ge=1)
    twin: str | None = None

    @model_validator(mode="after")
    def _can_be_tried(self) -> AuditRequest:
        if self.samples is None and self.lab is None:
            raise ValueError("audit needs passages: give `samples`")
        assert self.tried
        return self

    @property
    def lab(self) -> str | None:
        """The lab model among the two, if any."""
        return find_lab(self.model, self.baseline)

    @property
    def tried(self) -> tuple[str, ...]:
        """The names of the attacks to run."""
        from evals.attacks.names import choose_attacks

        return choose_attacks(self.attack, self.max)
