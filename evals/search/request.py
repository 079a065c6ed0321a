"""The request for a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from evals.running.request import Choosing

if TYPE_CHECKING:
    from evals.search.goals import Goal


class SearchRequest(Choosing):
    """The edit of `model` that meets one goal on `samples` at the least cost.

    - `max_extraction`: leave at most this share of the passages recovered, by `measure`; or
      `max_loss_increase`: leave as few as you can at a held-out loss of at most so many nats per
      token more.
    - `layout`: what the result must fit into. `seed`: decides which rows are held back.
    """

    max_extraction: float | None = Field(default=None, ge=0, le=1)
    max_loss_increase: float | None = Field(default=None, gt=0)
    grain: Literal["blocks", "heads", "mixed"] = "mixed"
    measure: str = "any"
    layout: Literal["auto", "stock", "compact"] = "auto"
    max_evaluations: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _one_goal(cls, given: Any) -> Any:
        goals = [given.get(key) for key in ("max_extraction", "max_loss_increase")]
        if goals.count(None) != 1:
            raise ValueError("give one goal: `max_extraction` X or `max_loss_increase` Y")
        return given

    @field_validator("measure")
    @classmethod
    def _known(cls, name: str) -> str:
        from evals.memorization.recovery import make_recovery

        return make_recovery(name).name

    @property
    def goal(self) -> Goal:
        from evals.search.goals import MaxExtraction, MaxLossIncrease

        if self.max_loss_increase is not None:
            return MaxLossIncrease(self.max_loss_increase)
        assert self.max_extraction is not None
        return MaxExtraction(self.max_extraction)
