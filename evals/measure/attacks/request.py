"""What every request that names attacks shares."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from evals.measure.attacks.names import FORMS
from evals.measure.memorization.recovery import name_plainly
from evals.run.request import Count, Fraction, Option, Request

Limits = dict[str, Fraction]
"""Attack → the highest share of the passages that it may recover."""


class Attacking(Request):
    """Attacks by name, here or in `attack` of those that have it. `graft:MODEL` among the attacks
    names the sibling, too.
    """

    max: Annotated[
        Limits,
        "Limit: attack A may recover at most the share X of the passages. A runs even if "
        "`attack` does not name it.",
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


class Auditing(Attacking):
    """The attacks to try, how often, and a yardstick."""

    attack: Annotated[
        tuple[str, ...],
        f"Attack to try (docs/threat-model.md explains each): {', '.join(FORMS)}, or one of your "
        "own at package.module:ATTACK, whose code then runs. leak@N is sampling:N; graft:MODEL "
        "names the sibling, too. cheap stands for all that need only one pass, default for strong "
        "ones that are fast, all for all of ours; each of these includes graft if there is a "
        "sibling.",
        Option("measure", "A", "default"),
    ] = ()
    draws: Annotated[
        Count | None,
        "Runs of each attack that trains, each on other passages or in another order. The rate "
        "is their mean.",
        Option("measure", default="5, fewer where a run takes over a minute"),
    ] = None
    twin: Annotated[
        str | None,
        "A model that never saw the passages, as a yardstick: results say how far the edit "
        "goes from the base toward it.",
        Option("input", "MODEL"),
    ] = None
