"""Outcomes of attacks as JSON, so that an audit that was stopped goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evals.measure.attacks.attack import AttackOutcome, Setting
from evals.measure.attacks.names import is_own
from evals.run.journal import arrays_as_json, arrays_from_json


@dataclass(frozen=True)
class Tried:
    """What one attack found on one model: on the passages and on the control, if it ran there."""

    passages: AttackOutcome | None
    control: AttackOutcome | None
    seconds: float

    def can_be_stored(self, name: str) -> bool:
        """Whether JSON can hold it: not what `guided` keeps of the base. Nor an attack of your own,
        whose code may be another when the audit goes on."""
        both = (self.passages, self.control)
        return all(one is None or one.kept is None for one in both) and not is_own(name)


def tried_as_json(name: str, tried: Tried) -> dict[str, Any]:
    return {
        "attack": name,
        "passages": tried.passages and _outcome_as_json(tried.passages),
        "control": tried.control and _outcome_as_json(tried.control),
        "seconds": tried.seconds,
    }


def tried_from_json(stored: dict[str, Any]) -> tuple[str, Tried]:
    """The inverse of `tried_as_json`."""
    outcomes = (stored[part] for part in ("passages", "control"))
    passages, control = (one and _outcome_from_json(one) for one in outcomes)
    return stored["attack"], Tried(passages, control, stored["seconds"])


def _outcome_as_json(outcome: AttackOutcome) -> dict[str, Any]:
    return {
        "flags": arrays_as_json({"recovered": outcome.recovered, "tried": outcome.tried}),
        "curve": arrays_as_json(outcome.curve),
        "scores": arrays_as_json(outcome.scores),
        "variants": [vars(one) for one in outcome.variants],
        "each": arrays_as_json({str(at): one for at, one in enumerate(outcome.variants.values())}),
        "left_out": outcome.left_out,
        "left": [[*training, share] for training, share in outcome.left.items()],
    }


def _outcome_from_json(stored: dict[str, Any]) -> AttackOutcome:
    variants = (Setting(**one) for one in stored["variants"])
    return AttackOutcome(
        **arrays_from_json(stored["flags"]),
        curve=arrays_from_json(stored["curve"]),
        scores=arrays_from_json(stored["scores"]),
        variants=dict(zip(variants, arrays_from_json(stored["each"]).values(), strict=True)),
        left_out=stored["left_out"],
        left={(learned, rate): share for learned, rate, share in stored["left"]},
    )
