"""The request for an audit, and what every request that names attacks shares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from evals.memorization.recovery import name_plainly
from evals.running.request import Measuring, Request
from surgery.hub.embedded import find_lab


class Attacking(Request):
    """Attacks by name, here or in `attack` of those that have it.

    - `max`: attack → the highest share that it may recover.
    - `sibling`: a checkpoint to copy attention from, such as the public base of a fine-tune.
      `graft:MODEL` among the attacks names it, too.
    """

    max: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    sibling: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_plainly(cls, given: Any) -> Any:
        """Gives attacks the names that results use. Raises `ValueError` for two siblings."""
        found, siblings = dict(given), []
        if given.get("sibling") is not None:
            siblings.append(given["sibling"])

        def rename(name: str) -> str:
            kind, colon, model = name.partition(":")
            if kind != "graft" or not colon:
                return name_plainly(name)
            if not model:
                raise ValueError("`graft:` names no model: write graft:MODEL")
            if model not in siblings:
                siblings.append(model)
            return kind

        if isinstance(limits := given.get("max"), dict):
            found["max"] = {rename(name): most for name, most in limits.items()}
            if len(found["max"]) < len(limits):
                raise ValueError("`max` limits one attack twice, by two of its names")
        if isinstance(names := given.get("attack"), list | tuple):
            plain = (rename(name) if isinstance(name, str) else name for name in names)
            found["attack"] = tuple(plain)
        if len(siblings) > 1:
            raise ValueError(f"give one sibling, not {' and '.join(map(str, siblings))}")
        if siblings:
            (found["sibling"],) = siblings
        return found


class AuditRequest(Measuring, Attacking):
    """Measures what attackers recover of `samples` from `model` and from `baseline`.

    - `samples`, `control`: passages, and text that no model was trained on. Empty: a lab model's
      own.
    - `attack`: names; empty: the default set. Attacks with a limit in `max` also run.
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

        return choose_attacks(self.attack, self.max, sibling=self.sibling is not None)
