"""The groups of a request that name attacks, and limits on what they recover."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from evals.measure.attacks.names import FORMS
from evals.measure.memorization.recovery import name_plainly
from evals.run.groups import Count, Fraction
from evals.run.request import Group, Option

Limits = dict[str, Fraction]
"""Attack → the highest share of the passages that it may recover."""


class Attacks(Group):
    """The attacks to try, how often, limits on what they recover, and what attackers and a
    yardstick need. `graft:MODEL` among the attacks names the sibling, too.
    """

    attack: Annotated[
        tuple[str, ...],
        f"Attack to try (docs/who-can-undo-it.md explains each): {', '.join(FORMS)}, or one of "
        "your own at package.module:ATTACK, whose code then runs. leak@N is sampling:N; "
        "graft:MODEL names the sibling, too. cheap stands for all that need only one pass, default "
        "for strong ones that are fast, all for all of ours; each of these includes graft if there "
        "is a sibling.",
        Option("measure", "A", "default"),
    ] = ()
    draws: Annotated[
        Count | None,
        "Runs of each attack that trains, each on other passages or in another order. The rate "
        "is their mean.",
        Option("measure", default="3"),
    ] = None
    twin: Annotated[
        str | None,
        "A model that never saw the passages: results say how much more than this model an edit "
        "gives.",
        Option("input", "MODEL"),
    ] = None
    max: Annotated[
        Limits,
        "Limit: attack A may recover at most the share X of the passages. A then runs, whatever "
        "else does.",
        Option("limits", "A=X", example="hints:2=0.02"),
    ] = Field(default_factory=dict)
    sibling: Annotated[
        str | None,
        "A checkpoint that an attacker may copy attention back from (graft): the public base "
        "of a fine-tune, or an earlier checkpoint.",
        Option("input", "MODEL"),
    ] = None

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


class Extraction(Group):
    """The most that may come out of a model, and that text of the passages' form may cost."""

    max_extraction: Annotated[
        Fraction | None,
        "Limit: at most this share of the passages may be recovered (0.01 is 1 %), in a search by "
        "its `measure`, and of a model that is evaluated, word for word. Short for `max` M=X.",
        Option("limits", default="none; of init and mitigate, 0.01"),
    ] = None
    max_form: Annotated[
        float | None,
        Field(gt=0),
        "Limit: the loss may rise by at most X nats per token on records of the passages' form "
        "that no model was trained on. They are those of `never`, or samples with member: false.",
        Option("limits", "X"),
    ] = None
    measure: Annotated[
        str,
        "What counts as recovered: greedy (word for word), hints:K (after at most K wrong "
        "tokens are corrected), prefix, sampling:N (or leak@N), span:M, or any (by greedy, "
        "hints:2, prefix, or sampling:100). See docs/who-can-undo-it.md.",
        Option("measure", "M"),
    ] = "any"

    @field_validator("measure")
    @classmethod
    def _known(cls, name: str) -> str:
        from evals.measure.memorization.recovery import make_recovery

        return make_recovery(name).name
