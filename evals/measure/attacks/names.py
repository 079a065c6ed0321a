"""Finds attacks by name. To add one, write a file here that lists it in `ATTACKS`.

`ATTACKS` is a literal: name → the fields of `Listed`. It is read without importing the file, so
that names are known before torch is there, which takes seconds. In the file, `make_NAME` makes the
attack, with underscores for all but letters and digits.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.memorization.recovery import (
    NAMES,
    RECOVERIES,
    Evidence,
    Recovery,
    hint_number,
    make_named,
    name_alike,
)
from surgery.errors import MeasurementError, UnknownNameError, suggest

_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")

WHO = {
    "asks": "asks the model",
    "files": "has its files and does not train",
    "tunes": "trains it further",
    "cut": "trains the parts that were cut",
    "related": "holds a related model (the public one that it was trained from, or an earlier "
    "version)",
}
"""What someone does who runs an attack, by the word that stands for it in `ATTACKS`."""
ASKS, OWN = WHO["asks"], "runs an attack of your own"
ATTACKERS = tuple(WHO.values())


@dataclass(frozen=True)
class Listed:
    """What is known of an attack before its file is imported.

    - `rank`: orders attacks from the cheapest to the strongest. `who`: a key of `WHO`.
    - `groups`: any of "all", "default" (strong and fast), "cheap" (one pass), and "trained" (what
      every audit of an erased or healed model tries: training may have hidden what it knows).
    - `sibling`: groups have it only where there is one. `tells_members`: as `Attack`.
    """

    name: str
    rank: int
    file: str = "recovery"
    who: str = "asks"
    groups: str = "all"
    sibling: bool = False
    tells_members: bool = False

    def make(self) -> Attack:
        name = re.sub(r"\W", "_", self.name)
        made: Attack = getattr(import_module(f"{__package__}.{self.file}"), f"make_{name}")()
        return replace(made, tells_members=self.tells_members)


def _list_attacks() -> Iterator[Listed]:
    """What one pass decides, and what the files here list."""
    for name in NAMES:
        yield Listed(name, 0, groups="all default cheap")
    yield Listed("hints:8", 75, groups="all default trained")
    for file in sorted(Path(__file__).parent.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.parse(text).body if "\nATTACKS = " in text else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ATTACKS":
                for name, facts in ast.literal_eval(node.value).items():
                    yield Listed(name, file=file.stem, **facts)


def _make_from(make: Callable[..., Recovery], *number: int) -> Attack:
    """The attack that counts what one pass decides."""
    found = make(*number)
    return Attack(
        found.name,
        "greedy or known tokens",
        found.definition,
        found.source,
        "one pass, shared",
        lambda target: AttackOutcome.of_all(found.recovered(Evidence.of(target.seen))),
    )


_LISTED = {one.name: one for one in sorted(_list_attacks(), key=lambda one: one.rank)}
FORMS: dict[str, Callable[..., Attack]] = {
    **{form: partial(_make_from, make) for form, make in RECOVERIES.items()},
    **{one.name: one.make for one in _LISTED.values() if one.file != "recovery"},
}
"""The names of all attacks, with a letter for a number, and what makes each."""
ALL, DEFAULT, _CHEAP, _TRAINED = (
    tuple(name for name, one in _LISTED.items() if group in one.groups.split())
    for group in ("all", "default", "cheap", "trained")
)
"""From the cheapest to the strongest; `membership`, which recovers no passage, is last."""
RATED = tuple(name for name in ALL if not _LISTED[name].tells_members)
"""Those that recover passages."""
GROUPS = {"all": ALL, "default": DEFAULT, "cheap": _CHEAP}
CHEAP = tuple(name for name in _CHEAP if not _LISTED[name].sibling)
"""The attacks that need only one pass."""
TRAINED = _TRAINED[::-1]
"""What every audit of a trained model tries, the strongest first."""
TRAINING = tuple(name for name, one in _LISTED.items() if one.who in ("tunes", "cut"))
"""Those that train the model itself."""


def find_attack(name: str) -> Attack:
    """The attack of this name, or your own at `package.module:ATTACK`. That runs its code.

    Raises `UnknownNameError` if there is none, and `MeasurementError` if that code fails.
    """
    return _import_attack(name) if is_own(name) else make_attack(name)


def is_own(name: str) -> bool:
    """Whether it names an attack of your own, at `package.module:ATTACK`."""
    kinds = {form.partition(":")[0] for form in FORMS}
    return _OWN.fullmatch(name) is not None and name.partition(":")[0] not in kinds


def hash_code(name: str) -> str:
    """SHA-256 of the file of an attack of your own, which runs when it is imported."""
    file = import_module(_import_attack(name).name.partition(":")[0]).__file__
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()


def make_attack(name: str) -> Attack:
    """Makes the attack of this name, and imports nothing of yours.

    Raises `UnknownNameError` for an unknown name.
    """
    try:
        return make_named(name, FORMS)
    except ValueError:
        hint = hint_number(name, DEFAULT) or suggest(name, name_alike(name, (*FORMS, *GROUPS)))
        expected = ", ".join(FORMS)
        raise UnknownNameError(f"no attack {name!r}", expected=expected, fix=hint) from None


def _import_attack(path: str) -> Attack:
    """The attack at `path`, which becomes its name. Python looks in the current folder last."""
    module, _, attribute = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), attribute, None)
    except Exception as error:
        raise _describe_failure(path, error) from error
    if not isinstance(found, Attack):
        got = "no such name" if found is None else type(found).__name__
        expected = f"{attribute} to be an {Attack.__module__}.{Attack.__qualname__}"
        raise MeasurementError("is not an attack", where=path, expected=expected, got=got)

    def run(target: Target) -> AttackOutcome:
        try:
            outcome = found.run(target)
        except Exception as error:
            raise _describe_failure(path, error) from error
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


def _describe_failure(path: str, failure: Exception) -> MeasurementError:
    what = f"its code fails: {type(failure).__name__}: {failure}"
    return MeasurementError(what, where=path)


def find_attacker(attack: str) -> str:
    """What someone does who runs this attack: one of `ATTACKERS`, or `OWN`."""
    if is_own(attack):
        return OWN
    kinds = {name.partition(":")[0]: one.who for name, one in _LISTED.items()}
    return WHO[kinds.get(attack.partition(":")[0], "asks")]


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
            some = ", ".join(one for one in GROUPS[name] if one in RATED)
            raise UnknownNameError(what, fix=f"limit one of {some}")
        if name not in RATED and find_attack(name).tells_members:
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
        group: tuple(name for name in attacks if sibling or not _LISTED[name].sibling)
        for group, attacks in GROUPS.items()
    }


def list_untried(names: Collection[str]) -> list[str]:
    """The names of attacks that were not tried, those that train first, as they recover most.

    `any` stands for all cheap attacks. A number makes no difference: with hints:3 tried, hints:8 is
    not listed.
    """
    tried = set(map(_cut_number, names))
    strong = (name for name in reversed(RATED) if name not in CHEAP)
    order = (*strong, "any", *(name for name in ALL if name not in RATED))
    return [name for name in order if _cut_number(name) not in tried]


def _cut_number(name: str) -> str:
    return re.sub(r":\d+$", "", name)
