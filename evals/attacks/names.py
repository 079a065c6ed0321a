"""Finds attacks by name. To add one, write a file here and a line in `_KINDS` and in `ALL`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from evals.attacks.attack import Attack, AttackOutcome
from evals.attacks.membership import make_membership
from evals.attacks.near import make_near
from evals.attacks.perturbed import make_perturbed
from evals.attacks.quantized import make_quantized
from evals.attacks.relearn import make_relearn, make_relearn_benign
from evals.memorization.recovery import (
    NAMES,
    RECOVERIES,
    Evidence,
    Recovery,
    hint_number,
    make_named,
)
from surgery.errors import MeasurementError

_KINDS: dict[str, Callable[..., Attack | Recovery]] = {
    **RECOVERIES,
    "near": make_near,
    "perturbed": make_perturbed,
    "quantized:BITS": make_quantized,
    "relearn": make_relearn,
    "relearn-benign": make_relearn_benign,
    "membership": make_membership,
}
CHEAP = NAMES
"""The attacks that need only one pass."""
ALL = (
    *CHEAP, "near", "perturbed", "quantized:8", "quantized:4", "relearn", "relearn-benign",
    "membership",
)  # fmt: skip
GROUPS = {"all": ALL, "cheap": CHEAP}
HEALED = ("relearn", "relearn-benign", "hints:8", "quantized:4")
"""The attacks that every audit of a healed model tries: training may have hidden what it knows."""


def make_attack(name: str) -> Attack:
    """Makes the attack of this name. Raises `MeasurementError` for an unknown name."""
    try:
        found = make_named(name, _KINDS)
    except ValueError:
        raise MeasurementError(
            f"no attack {name!r}", expected=", ".join(_KINDS), fix=hint_number(name, ALL)
        ) from None
    return _wrap_recovery(found) if isinstance(found, Recovery) else found


def _wrap_recovery(measure: Recovery) -> Attack:
    return Attack(
        measure.name,
        "greedy or known tokens",
        measure.definition,
        measure.source,
        "one pass, shared",
        lambda target: AttackOutcome.of_all(measure.recovered(Evidence.of(target.seen))),
    )


def choose_attacks(named: Sequence[str], limited: Collection[str] = ()) -> tuple[str, ...]:
    """The attacks to run, each once: the `named` ones (by default all) and those with a limit.

    Raises `MeasurementError` for an unknown name.
    """
    every = [*(named or ("all",)), *limited]
    found = dict.fromkeys(name for given in every for name in GROUPS.get(given, (given,)))
    for name in found:
        make_attack(name)
    return tuple(found)


def list_untried(names: Collection[str]) -> list[str]:
    """Attacks that were not tried, fine-tuning first. `any` stands for all cheap attacks."""
    kinds = {name.partition(":")[0] for name in names}
    left = [name for name in ("any", *ALL[len(CHEAP) :]) if name.partition(":")[0] not in kinds]
    tuning = [name for name in left if name.startswith("relearn")]
    rest = [name for name in left if name not in tuning]
    return [*([f"fine-tuning ({', '.join(tuning)})"] if tuning else []), *rest]


def shorten_names(names: Sequence[str]) -> list[str]:
    """The shortest names that `choose_attacks` turns into these: groups replace their attacks."""
    left, found = list(names), []
    for group, attacks in GROUPS.items():
        if set(attacks) <= set(left):
            found.append(group)
            left = [name for name in left if name not in attacks]
    return found + left
