"""The request for a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from evals.measure.attacks.request import Attacking, Limits
from evals.run.lm_eval.request import Drops, Limiting
from evals.run.request import Choosing, Count, Fraction, Healing, Listing, Option
from surgery.plan import LayoutChoice

if TYPE_CHECKING:
    from evals.choose.search.goal import Goal


class SearchRequest(Choosing, Limiting, Attacking, Healing, Listing):
    """The edit of `model` that keeps limits on `samples` at the least cost. With `heal`, the
    limits hold for the healed model.
    """

    max_extraction: Annotated[
        Fraction | None,
        "Leave at most this share of the passages recovered (0.01 is 1 %), at the least "
        "cost. Short for `max` M=X, with M from `measure`.",
        Option("limits"),
    ] = None
    max: Annotated[
        Limits,
        "Leave at most the share X of the passages to attack A, any attack of audit but "
        "membership, at the least cost. Every limit must hold. Attacks that need more than "
        "one pass (graft, relearn, near…) are tried on few edits, the cheapest first.",
        Option("limits", "A=X", example="hints:2=0.02"),
    ] = Field(default_factory=dict)
    max_drop: Annotated[
        Drops,
        "Limit: the benchmark TASK, or every task that a pattern such as '*' matches, may lose at "
        "most X. Measured only on sets that keep the other limits, the cheapest first.",
        Option("limits", "TASK=X", example="lambada_openai=0.03"),
    ] = Field(default_factory=dict)
    grain: Annotated[
        Literal["blocks", "heads", "mixed"],
        "Choose whole blocks, single heads, or both.",
        Option("edit"),
    ] = "mixed"
    measure: Annotated[
        str,
        "What counts as recovered: greedy (word for word), hints:K (after at most K wrong "
        "tokens are corrected), prefix, sampling:N (or leak@N), span:M, or any (by greedy, "
        "hints:2, prefix, or sampling:100). See docs/threat-model.md.",
        Option("measure", "M"),
    ] = "any"
    layout: Annotated[
        LayoutChoice,
        "Choose only edits that this layout can hold. stock: loads in the library's own class. "
        "compact: smaller, but needs its modeling file. auto: either.",
        Option("edit"),
    ] = "auto"
    max_evaluations: Annotated[
        Count,
        "Measure at most this many edits. If fewer are possible, all are measured. Otherwise, "
        "estimates choose which.",
        Option("measure"),
    ] = 64
    choose: Annotated[
        float,
        Field(gt=0, lt=1),
        "Choose on this share of the passages, and test on the others. A smaller one leaves more "
        "to support a limit.",
        Option("measure"),
    ] = 0.5
    seed: Annotated[
        int, Field(ge=0), "Decides which passages and windows are held back.", Option("measure")
    ] = 0

    @model_validator(mode="after")
    def _limits_agree(self) -> SearchRequest:
        from evals.measure.attacks.names import choose_attacks

        if self.max_extraction is None and not self.max:
            raise ValueError("give a limit: `max_extraction` X or `max` A=X")
        if self.max_extraction is not None and self.measure in self.max:
            raise ValueError(f"`max_extraction` and `max` both limit {self.measure}: give one")
        choose_attacks((), self.max)  # raises for one that cannot have a limit
        default = type(self).model_fields["measure"].default
        if self.measure not in (default, *self.limits):
            raise ValueError(f"`measure` {self.measure} has no limit: give `max` {self.measure}=X")
        return self

    @model_validator(mode="after")
    def _tasks_are_limited(self) -> SearchRequest:
        if not self.max_drop:
            self._refuse_unused("max_drop", *set(Limiting.model_fields) - {"max_drop"})
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
        if not guides:
            return {self.measure: min(given.values()), **given}
        return {name: given[name] for name in (*guides[:1], *given)}

    @property
    def goal(self) -> Goal:
        from evals.choose.search.goal import Goal

        return Goal(next(iter(self.limits.values())))
