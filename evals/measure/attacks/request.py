"""What every request that names attacks shares."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from evals.measure.memorization.recovery import name_plainly
from evals.run.request import Request


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
