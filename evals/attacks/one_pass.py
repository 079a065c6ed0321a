"""Attacks that one teacher-forced pass decides."""

from __future__ import annotations

from evals.attacks.attack import Attack, Attacked, Outcome
from evals.memorization.recovery import Evidence, recovery_of


def one_pass(name: str) -> Attack:
    """The attack by that measure. Raises `ValueError` for an unknown name."""
    measure = recovery_of(name)

    def run(attacked: Attacked) -> Outcome:
        return Outcome.of_all(measure.recovered(Evidence.of(attacked.seen)))

    return Attack(
        name, "greedy or known tokens", measure.definition, measure.source, "one pass, shared", run
    )
