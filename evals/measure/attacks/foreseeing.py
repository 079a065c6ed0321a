"""Says, before a long run, whether the passages are enough to decide the limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from evals.measure.attacks.attack import count_held
from evals.measure.attacks.names import find_attack
from evals.run.statistics import count_needed
from evals.table.limits import count_passages, describe_shortage, say_percent


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
