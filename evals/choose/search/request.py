"""The request for a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from evals.measure.attacks.request import Attacks, Extraction
from evals.run.groups import (
    HEAL_STEPS,
    TEXT_FORMS,
    Count,
    Layout,
    Passages,
    Revision,
    Run,
    Seed,
    Texts,
    Training,
    Variants,
    list_variants,
)
from evals.run.lm_eval.request import Tasks
from evals.run.request import Group, Option, Request, Use, refuse_unused
from surgery.lab import find_lab

if TYPE_CHECKING:
    from evals.choose.search.goal import Goal

HealText = Annotated[
    tuple[str, ...],
    "Also heal the edited model: train it on this text, which may hold none of the passages: "
    f"{TEXT_FORMS}.",
    Option("edit", "TEXT", "no training", decides=False),
]
HEALING = Use(without=("text",), named={"steps": "heal_steps"})
"""How a search uses `Training`: for healing, on the text of the field `heal`."""


class Choice(Group):
    """What a search chooses from, and how."""

    variant: Variants = ()
    grain: Annotated[
        Literal["blocks", "heads", "mixed"],
        "Choose whole blocks, single heads, or both.",
        Option("edit"),
    ] = "mixed"
    layout: Layout = "auto"
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
    judge_steps: Annotated[
        int,
        Field(ge=0),
        "Heal the best edits for this many steps, and choose the one that then costs least. 0: "
        "choose without healing.",
        Option("measure"),
    ] = 20
    seed: Seed = 0

    def list_variants(self, *, fits: bool) -> tuple[str, ...]:
        """As `evals.run.groups.list_variants`."""
        return list_variants(self.variant, fits=fits)


class SearchRequest(Request):
    """The edit of `model` that meets one goal on passages at the least cost. With `heal`, the
    limits hold for the healed model.
    """

    typed = (
        "samples heldout calibration prefix_length suffix_length secret skip_short revision "
        "sibling variant grain layout heal measure choose max_extraction max "
        "max_drop device"
    )

    model: str
    revision: Revision = None
    passages: Passages = Passages()
    texts: Texts = Texts()
    extraction: Annotated[Extraction, Use(without=("max_form",))] = Extraction()
    attacks: Annotated[Attacks, Use(without=("attack", "draws", "twin"))] = Attacks()
    benchmarks: Tasks = Tasks()
    choice: Choice = Choice()
    heal: HealText = ()
    healing: Annotated[Training, HEALING] = Training()
    run: Run = Run()

    @model_validator(mode="after")
    def _has_inputs(self) -> SearchRequest:
        if not (self.passages.samples or find_lab(self.model)):
            raise ValueError(f"{self.model} brings no passages of its own: give `samples`")
        if not self.heal and self.healing.steps not in (None, HEAL_STEPS):
            raise ValueError("`heal_steps` needs `heal`")
        return self

    @model_validator(mode="after")
    def _limits_agree(self) -> SearchRequest:
        from evals.measure.attacks.names import choose_attacks

        measure, most = self.extraction.measure, self.attacks.max
        stated = self.extraction.max_extraction is not None
        if not (stated or most):
            raise ValueError("give a limit: `max_extraction` X or `max` A=X")
        if stated and measure in most:
            raise ValueError(f"`max_extraction` and `max` both limit {measure}: give one")
        choose_attacks((), most)  # raises for one that cannot have a limit
        if measure not in (Extraction().measure, *self.limits):
            raise ValueError(f"`measure` {measure} has no limit: give `max` {measure}=X")
        return self

    @model_validator(mode="after")
    def _tasks_are_limited(self) -> SearchRequest:
        if not self.benchmarks.max_drop:
            refuse_unused(self.benchmarks, "max_drop", *set(Tasks.model_fields) - {"max_drop"})
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Attack → the highest share recovered. One pass decides the first, which guides a search.

        If one pass decides none of those given, the strictest also holds for `measure`.
        """
        from evals.measure.memorization.recovery import is_recovery

        measure, most = self.extraction.measure, self.extraction.max_extraction
        given = ({} if most is None else {measure: most}) | self.attacks.max
        guides = [name for name in (measure, *given) if name in given and is_recovery(name)]
        if not guides:
            return {measure: min(given.values()), **given}
        return {name: given[name] for name in (*guides[:1], *given)}

    @property
    def goal(self) -> Goal:
        from evals.choose.search.goal import Goal

        return Goal(next(iter(self.limits.values())))
