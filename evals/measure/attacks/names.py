"""Finds attacks by name. To add one, write a file here and a line in `_KINDS` and in `ALL`.

Those that only read the pass that attacks share are here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.memorization.measures import NEAR_MATCH, is_near
from evals.measure.memorization.membership import SCORES
from evals.measure.memorization.recovery import (
    NAMES,
    RECOVERIES,
    Evidence,
    Recovery,
    hint_number,
    make_named,
    name_alike,
)
from surgery import own_code
from surgery.errors import MeasurementError, UnknownNameError, suggest
from surgery.own_code import describe_failure, import_named, is_path


def _import_later(file: str, maker: str) -> Callable[..., Attack]:
    """The maker in a file here, which is imported once it is called: torch takes seconds."""

    def make(*given: Any) -> Attack:
        made: Attack = getattr(import_module(f"evals.measure.attacks.{file}"), maker)(*given)
        return made

    return make


def _make_near() -> Attack:
    return Attack(
        "near",
        f"Levenshtein similarity of {NEAR_MATCH} or more, or BLEU-4 above {NEAR_MATCH}",
        "greedy decoding after the prefix gives the suffix except for a few tokens",
        "Lee et al. 2022, arXiv 2107.06499; Ippolito et al. 2023, arXiv 2210.17546",
        "one pass and greedy decoding, shared",
        lambda target: AttackOutcome.of_all(is_near(target.seen)),
    )


def _make_membership() -> Attack:
    """Tells members from non-members: it finds out what was trained on, but recovers no text."""

    def run(target: Target) -> AttackOutcome:
        seen = target.seen
        scores = {score.name: score.of(seen) for score in SCORES if score.can(seen)}
        nothing = np.zeros(len(target.samples), dtype=np.bool_)
        return replace(AttackOutcome.of_all(nothing), scores=scores)

    return Attack(
        "membership",
        "all scores of extract",
        "area under the ROC curve of each score for members against non-members; 0.5 is chance",
        "; ".join(score.source for score in SCORES),
        "one pass, shared",
        run,
        tells_members=True,
    )


_KINDS: dict[str, Callable[..., Attack | Recovery]] = {
    **RECOVERIES,
    "near": _make_near,
    "near-beams": _import_later("near_beams", "make_near_beams"),
    "perturbed": _import_later("perturbed", "make_perturbed"),
    "early-exit": _import_later("early_exit", "make_early_exit"),
    "graft": _import_later("graft", "make_graft"),
    "guided": _import_later("guided", "make_guided"),
    "quantized:BITS": _import_later("quantized", "make_quantized"),
    "quantized:nf4": _import_later("quantized", "make_nf4"),
    "relearn": _import_later("relearn", "make_relearn"),
    "relearn-alike": _import_later("relearn", "make_relearn_alike"),
    "relearn-benign": _import_later("relearn", "make_relearn_benign"),
    "relearn-strongest": _import_later("relearn_strongest", "make_relearn_strongest"),
    "revive": _import_later("revive", "make_revive"),
    "soft-prompt": _import_later("soft_prompt", "make_soft_prompt"),
    "membership": _make_membership,
}
CHEAP = NAMES
"""The attacks that need only one pass."""
DEFAULT = (
    *CHEAP, "near", "perturbed", "guided", "quantized:4", "graft", "revive", "relearn",
    "membership",
)  # fmt: skip
"""What is tried unless you name attacks: strong ones that take little time. Groups do without
`graft` where there is no sibling."""
ALL = (
    *CHEAP, "near", "near-beams", "early-exit", "perturbed", "guided", "quantized:8",
    "quantized:4", "quantized:nf4", "graft", "soft-prompt", "revive", "relearn-benign",
    "relearn-alike", "relearn-strongest", "relearn", "membership",
)  # fmt: skip
"""From the cheapest to those that train on passages; `membership`, which recovers none, is last."""
TRAINING = ("relearn", "relearn-alike", "relearn-benign", "relearn-strongest", "revive")
"""Those that train the model itself."""
ASKS, OWN = "asks the model", "runs an attack of your own"
ATTACKERS: dict[str, tuple[str, ...]] = {
    ASKS: (),
    "has its files and does not train": ("quantized", "early-exit"),
    "trains it further": ("relearn", "relearn-alike", "relearn-benign", "relearn-strongest"),
    "trains a prompt for it, and not the model": ("soft-prompt",),
    "trains the parts that were cut": ("revive",),
    "holds a related model (the public one that it was trained from, or an earlier version)": (
        *("graft", "guided"),
    ),
}
"""What someone does, and the attacks that do it. All others ask the model, but for your own."""
GROUPS = {"all": ALL, "default": DEFAULT, "cheap": (*CHEAP, "graft")}
TRAINED = ("relearn", "relearn-benign", "hints:8", "quantized:4")
"""The attacks that every audit of an erased or healed model tries: training may have hidden what it
knows."""


def find_attack(name: str) -> Attack:
    """The attack of this name, or your own at `package.module:ATTACK`. That runs its code.

    Raises `UnknownNameError` if there is none, and `MeasurementError` if that code fails.
    """
    return _import_attack(name) if is_own(name) else make_attack(name)


def is_own(name: str) -> bool:
    """Whether it names an attack of your own, at `package.module:ATTACK`."""
    kinds = {form.partition(":")[0] for form in _KINDS}
    return is_path(name) and name.partition(":")[0] not in kinds


def hash_code(name: str) -> str:
    """As `surgery.own_code.hash_code`, of an attack of your own, which runs when it is imported."""
    _import_attack(name)
    return own_code.hash_code(name)


def make_attack(name: str) -> Attack:
    """Makes the attack of this name, and imports nothing of yours.

    Raises `UnknownNameError` for an unknown name.
    """
    try:
        found = make_named(name, _KINDS)
    except ValueError:
        hint = hint_number(name, DEFAULT) or suggest(name, name_alike(name, (*_KINDS, *GROUPS)))
        expected = ", ".join(_KINDS)
        raise UnknownNameError(f"no attack {name!r}", expected=expected, fix=hint) from None
    if isinstance(found, Attack):
        return found
    recovered = found.recovered
    return Attack(
        found.name,
        "greedy or known tokens",
        found.definition,
        found.source,
        "one pass, shared",
        lambda target: AttackOutcome.of_all(recovered(Evidence.of(target.seen))),
    )


def _import_attack(path: str) -> Attack:
    """The attack at `path`, which becomes its name. Python looks in the current folder last."""
    found = import_named(path, Attack, "an attack", MeasurementError)

    def run(target: Target) -> AttackOutcome:
        try:
            outcome = found.run(target)
        except Exception as error:
            raise describe_failure(path, error, MeasurementError) from error
        shape = (len(target.samples),)
        for flags in (getattr(outcome, "recovered", None), getattr(outcome, "tried", None)):
            if not (isinstance(flags, np.ndarray) and (flags.dtype, flags.shape) == (bool, shape)):
                raise MeasurementError(
                    "gives no outcome of every passage",
                    where=path,
                    expected=f"recovered and tried, NumPy bool [{len(target.samples)}]",
                    got=f"{type(flags).__name__} {getattr(flags, 'dtype', '')} "
                    f"{list(getattr(flags, 'shape', ()))}",
                )
        return outcome

    return replace(found, name=path, run=run)


def find_attacker(attack: str) -> str:
    """What someone does who runs this attack: a key of `ATTACKERS`, or `OWN`."""
    if is_own(attack):
        return OWN
    kind = attack.partition(":")[0]
    return next((who for who, kinds in ATTACKERS.items() if kind in kinds), ASKS)


def choose_attacks(
    named: Sequence[str], limited: Collection[str] = (), *, sibling: bool = False
) -> tuple[str, ...]:
    """The attacks to run, each once: the `named` ones (by default `DEFAULT`) and those limited.

    `sibling`: whether there is one; without it, groups do without the attack that needs it.
    Raises as `find_attack`, and for a limit on what is not the share of one attack.
    """
    for name in limited:
        if name in GROUPS:
            what = f"{name} stands for several attacks, and a limit is on one"
            some = ", ".join(one for one in GROUPS[name] if one in ALL[:-1])  # all but membership
            raise UnknownNameError(what, fix=f"limit one of {some}")
        if name not in ALL[:-1] and find_attack(name).tells_members:
            what = f"{name} has a limit and is not a share of passages"
            raise UnknownNameError(what, fix="leave out the limit")
    every = [*(named or ("default",)), *limited]
    groups = list_groups(sibling=sibling)
    found = dict.fromkeys(name for given in every for name in groups.get(given, (given,)))
    for name in found:
        if name not in ALL:
            find_attack(name)
    return tuple(found)


def list_groups(*, sibling: bool) -> dict[str, tuple[str, ...]]:
    """The attacks that each name of several stands for."""
    return {
        group: tuple(name for name in attacks if sibling or name != "graft")
        for group, attacks in GROUPS.items()
    }


def list_untried(names: Collection[str]) -> list[str]:
    """The names of attacks that were not tried, those that train first, as they recover most.

    `any` stands for all cheap attacks. A number makes no difference: with quantized:4 tried,
    quantized:8 is not listed.
    """
    tried = set(map(_cut_number, names))
    order = (*ALL[-2 : len(CHEAP) - 1 : -1], "any", ALL[-1])
    return [name for name in order if _cut_number(name) not in tried]


def _cut_number(name: str) -> str:
    return re.sub(r":\d+$", "", name)


def shorten_names(names: Sequence[str], *, sibling: bool = False) -> list[str]:
    """The shortest names that `choose_attacks` turns into these: groups replace their attacks."""
    left, found = list(names), []
    for group, attacks in list_groups(sibling=sibling).items():
        if set(attacks) <= set(left):
            found.append(group)
            left = [name for name in left if name not in attacks]
    return found + left
