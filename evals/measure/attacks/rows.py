"""Passage by passage: which attack recovers which, where an audit gives shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from evals.data.held_back import HeldBack
from evals.measure.attacks.attack import AttackOutcome
from evals.measure.attacks.trying import AttackPlan, AuditedModel
from evals.measure.memorization.measures import Flags


def list_recovered(
    plan: AttackPlan, models: Mapping[str, AuditedModel], left: HeldBack
) -> Iterator[dict[str, Any]]:
    """One record per passage that a model was trained on, without its text.

    - `id`, as it was given, and `hash`. `counted`: the figures are of these, none of which a search
      saw. `listed`: it was not left out. `taught`: the base or the edited model was trained on it,
      to forget it or to keep it from coming back.
    - `recovered_by`: the attacks that recover it from the edited model.
    - `recovered`: attack → model → whether the attack recovers it in any of its draws, under the
      setting that the figures are of. None where it does not count for the attack, as where the
      attacker held it.
    """
    samples, members = plan.passages, plan.samples.trained_on
    counted, unlisted, taught = (
        flags[members] for flags in (left.passages, left.unlisted, left.learned)
    )
    attacks = [one.name for one in plan.tried if not one.tells_members]
    found = {
        attack: {key: _take(one, models["edited"], attack, counted) for key, one in models.items()}
        for attack in attacks
    }
    for at, name in enumerate(samples.ids):
        recovered = {
            attack: {key: _tell(one, at) for key, one in outcomes.items()}
            for attack, outcomes in found.items()
        }
        yield {
            "id": name,
            "hash": samples.hashes[at],
            "counted": bool(counted[at]),
            "listed": not unlisted[at],
            "taught": bool(taught[at]),
            "recovered_by": [attack for attack, by in recovered.items() if by["edited"]],
            "recovered": recovered,
        }


def _take(model: AuditedModel, edited: AuditedModel, attack: str, counted: Flags) -> AttackOutcome:
    """An outcome, of several variants that of the strongest on the passages of the figures."""
    outcome, control = model.passages[attack], edited.control.get(attack)
    if not outcome.variants:
        return outcome
    counts = control if control is not None and control.tried.any() else None
    best, _ = outcome.select(counted).take_strongest(counts)
    return replace(outcome, recovered=outcome.variants[best])


def _tell(outcome: AttackOutcome, at: int) -> bool | None:
    recovered, tried = (flags[:, at] for flags in outcome.by_draw)
    return bool((recovered & tried).any()) if tried.any() else None
