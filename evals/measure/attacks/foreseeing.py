"""Says, before a long run, whether the passages are enough to decide the limits, and how long
attacks take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from evals.measure.attacks.attack import Attack, count_held
from evals.measure.attacks.draws import DRAWS
from evals.measure.attacks.names import find_attack
from evals.run.statistics import count_needed
from evals.table.limits import count_passages, describe_shortage, say_percent

TRAININGS = 2
"""How many trainings an attack is taken to make that looks for its best setting."""
BACK = 3
"""A row of training takes about as long as so many rows of a pass."""
SHORT = 30.0
"""Seconds of all attacks below which nothing needs to be said of them."""


def foresee(limits: Iterable[tuple[str, float]], n: int, of: int | None = None) -> Iterator[str]:
    """Says whether `n` passages can decide each limit (attack, share), the lowest first.

    `of`: as for `Target`. Passages that overlap those that an attack learns are not known yet, and
    do not count either.
    """
    counted = {(most, _count(attack, n, of), attack) for attack, most in limits}
    told: dict[tuple[float, int], list[str]] = {}
    for most, left, attack in sorted(counted):
        told.setdefault((most, left), []).append(attack)
    for (most, left), attacks in told.items():
        names, verb = " and ".join(attacks), "hold" if len(attacks) > 1 else "holds"
        more = f" ({names} {verb} the other {n - left:,})" if left < n else ""
        needed = count_needed(most)
        if needed is None or left < needed:
            found = describe_shortage(left, most, needed, more)
            yield f'{found}; unless the limit is missed, the verdict will be "not decided"'
        else:
            takes = f"{needed:,} with none recovered"
            some, limit = count_passages(left), say_percent(most)
            yield f"{some} can support {limit}{more}: that takes {takes}"


def _count(attack: str, n: int, of: int | None) -> int:
    """How many of `n` passages count at most, once the attacker holds some."""
    share = find_attack(attack).share
    return n - count_held(n, share, of) if share else n


def foresee_times(
    attacks: Sequence[Attack], sizes: Iterable[tuple[int, int]], row: float, draws: int | None
) -> str | None:
    """Says how long each attack takes, the longest first; None if all take little.

    `sizes`: how many passages it is tried on, and windows of other text; then the same of the
    control, if there is one. `row`: seconds of a pass for each of its rows.
    """
    every = list(sizes)
    took = {
        attack.name: sum(time_attack(attack, size, row, draws) for size in every)
        for attack in attacks
    }
    total = sum(took.values())
    if total < SHORT:
        return None
    long = sorted((name for name in took if took[name] >= 0.05 * total), key=lambda n: -took[n])
    told = [f"{name} {_say_time(took[name])}" for name in long]
    if rest := total - sum(took[name] for name in long):
        told.append(f"all others {_say_time(rest)}")
    return f"attacks take about {_say_time(total)}: {', '.join(told)}"


def _say_time(seconds: float) -> str:
    return str(timedelta(seconds=max(1, round(seconds))))


def time_attack(attack: Attack, size: tuple[int, int], row: float, draws: int | None) -> float:
    """About how many seconds an attack takes on a model, in all its draws. Arguments: as for
    `foresee_times`."""
    once = count_rows(attack.name, *size) * row
    return once * ((draws or DRAWS) if attack.in_draws else 1)


def count_rows(
    name: str, passages: int, windows: int, trainings: int = TRAININGS, of: int | None = None
) -> int:
    """About how many rows of a pass an attack takes. `trainings`: how many it makes. `of`: in a
    search, the number of all passages, a share of which the attacker holds."""
    attack = find_attack(name)
    decoded = 2 * max(0, len(attack.stages) - 1) * passages
    trained = attack.count_trained(of or passages, windows) if attack.count_trained else 0
    return passages * attack.passes + trainings * (BACK * trained + decoded)
