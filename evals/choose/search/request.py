"""The request for a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from evals.measure.attacks.request import Attacking
from evals.run.request import Choosing

if TYPE_CHECKING:
    from evals.choose.search.goals import Goal


class SearchRequest(Choosing, Attacking):
    """The edit of `model` that meets one goal on `samples` at the least cost.

    - `max_extraction`: leave at most this share of the passages recovered, by `measure`; or
      `max_loss_increase`: leave as few as you can at a held-out loss of at most so many nats per
      token more.
    - `max`: attack → the highest share recovered, beside `max_extraction` or in its place.
    - `layout`: what the result must fit into. `seed`: decides which rows are held back.
    - `heal`: text to train an edit on for `heal_steps` steps. The limits then hold for the healed
      model.
    """

    max_extraction: float | None = Field(default=None, ge=0, le=1)
    max_loss_increase: float | None = Field(default=None, gt=0)
    grain: Literal["blocks", "heads", "mixed"] = "mixed"
    measure: str = "any"
    layout: Literal["auto", "stock", "compact"] = "auto"
    max_evaluations: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    heal: tuple[str, ...] = ()
    heal_steps: int = Field(default=80, ge=1)

    @model_validator(mode="after")
    def _limits_agree(self) -> SearchRequest:
        from evals.measure.attacks.names import choose_attacks

        stated = self.max_extraction is not None
        if (stated or bool(self.max)) == (self.max_loss_increase is not None):
            raise ValueError(
                "give one goal: `max_extraction` X, `max` A=X, or `max_loss_increase` Y"
            )
        if not self.heal:
            self._refuse_unused("heal", "heal_steps")
        elif self.max_loss_increase is not None:
            raise ValueError("`heal` needs a limit: give `max_extraction` or `max`")
        if stated and self.measure in self.max:
            raise ValueError(f"`max_extraction` and `max` both limit {self.measure}: give one")
        choose_attacks((), self.max)  # raises for one that cannot have a limit
        return self

    @field_validator("measure")
    @classmethod
    def _known(cls, name: str) -> str:
        from evals.measure.memorization.recovery import make_recovery

        return make_recovery(name).name

    @property
    def limits(self) -> dict[str, float]:
        """Attack → the highest share recovered. One pass decides the first, which guides a search.

        If one pass decides none of those given, the strictest also holds for `measure`.
        """
        from evals.measure.memorization.recovery import is_recovery

        stated = {} if self.max_extraction is None else {self.measure: self.max_extraction}
        given = stated | self.max
        guides = [name for name in (self.measure, *given) if name in given and is_recovery(name)]
        if given and not guides:
            return {self.measure: min(given.values()), **given}
        return {name: given[name] for name in (*guides[:1], *given)}

    @property
    def goal(self) -> Goal:
        from evals.choose.search.goals import MaxExtraction, MaxLossIncrease

        if self.max_loss_increase is not None:
            return MaxLossIncrease(self.max_loss_increase)
        return MaxExtraction(next(iter(self.limits.values())))
