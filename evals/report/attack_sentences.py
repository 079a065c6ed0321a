"""Says in sentences what attackers recovered, for audits and for reports."""

from __future__ import annotations

from collections.abc import Iterator

from evals.measure.attacks.names import TRAINING
from evals.measure.attacks.result import AttackResult, Audit, Reached

UNTRAINED = "no attack that trains the model was run"


def describe_attacks(audit: Audit) -> Iterator[str]:
    """What the strongest attacks recover, and which count nothing."""
    if audit.strongest is not None:
        yield _describe_strongest(audit, audit.strongest)
    for one in audit.rated:
        if one.reached is not None:
            yield f"{one.name} recovers most after {describe_setting(one.reached)}"
    if empty := [one.name for one in audit.rated if not one.edited.n]:
        yield f"no passage counts for {', '.join(empty)}"


def describe_setting(reached: Reached) -> str:
    how = f"training {reached.learned}"
    if reached.steps:
        how += f" for {reached.steps} steps at {reached.learning_rate:g}"
    return f"{how} (of {reached.tried} settings)"


def has_trained(audit: Audit | None) -> bool:
    """Whether an attack trained the model. One of your own counts if it has a curve."""
    rated = audit.rated if audit else ()
    return any(one.name in TRAINING or one.curve is not None for one in rated)


def _describe_strongest(audit: Audit, worst: AttackResult) -> str:
    after, number, tied = worst.edited, len(audit.counting), [one.name for one in audit.tied]
    ns = [one.edited.n for one in audit.tied]
    n = " to ".join(dict.fromkeys(f"{end(ns):,}" for end in (min, max)))
    share = after.told if min(ns) == max(ns) else f"{after.rate:.1%} of {n}"
    base = worst.base.told
    if not after.count and number > 1:
        text = f"none of {number} attacks recovers any of {n} passages; "
        text += f"from the base, {worst.name} recovers {base}"
    elif len(tied) > 1:
        names = " and ".join([", ".join(tied[:-1]), tied[-1]])
        text = f"the strongest of {number} attacks tie: {names} each recover {share} passages; "
        text += f"from the base, {worst.name} recovers {base}"
    else:
        only = "tried" if len(audit.rated) == 1 else "that counts any passage"
        which = f"strongest of {number} attacks" if number > 1 else f"only attack {only}"
        text = f"the {which}, {worst.name}, recovers {share} passages; from the base, {base}"
    if worst.control is not None:
        text += f"; of text never trained on, {worst.control.told}"
    return text
