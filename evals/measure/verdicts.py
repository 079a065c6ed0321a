"""Verdicts on limits, in three states, and what would decide those that are open.

Gates of an evaluation, limits of an audit, and the held-back verdict of a search are all `Limit`s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Context
from math import ceil
from typing import Any

from evals.data.held_back import deal_passages
from evals.data.samples import Samples
from evals.run.statistics import count_needed, scale_needed, wilson
from surgery.record.report import Limit, State

OK: dict[State | None, bool | None] = {"kept": True, "missed": False}
"""A state as `ok` in JSON. Everything else is null."""
SHARES = (0.5, 0.25, 0.2)
"""Shares of the passages to choose on, the first that leaves enough."""
TAUGHT = ", taught"
"""What the names of limits on passages that were taught end with, beside those on others."""
_MOST = 5  # names in a sentence


def judge(
    value: float, ci95: Sequence[float], limit: float, n: int, *, enough: bool = True
) -> State:
    """The state of a limit, by a value measured on `n` rows. `enough`: the interval counts."""
    if n and value > limit:
        return "missed"
    return "kept" if n and enough and ci95[1] <= limit else "undecided"


def settle(states: Iterable[State | None]) -> State | None:
    """The state of several limits together: the worst of them. None without any."""
    found = set(states)
    order: tuple[State, ...] = ("missed", "undecided", "kept")
    return next((state for state in order if state in found), None)


def check_share(
    name: str,
    what: str,
    limit: float,
    value: float,
    ci95: Sequence[float] | None,
    n: int,
    *,
    unclear: str | None = None,
) -> Limit:
    """A limit on a share of passages. `what`: the share, in words. `unclear`: why it is not decided
    even if the interval is within it. `ci95`: None for the passages that the model was taught. They
    are all there is, so the count alone decides.
    """
    if ci95 is None:
        what = f"{what}, of the {n:,} that it was taught,"
        told: dict[str, Any] = {"needed": None, "lacks": unclear or "", "enough": unclear is None}
        found = check_limit(name, what, limit, value, (value, value), n, **told)
        return found.model_copy(update={"whole": True})
    needed, alike = count_needed(limit, value), count_needed(ci95[1], value)
    if n and needed is not None and alike is not None and alike < n:
        # as wide as Wilson's of fewer rows: of those that one run counts, or wider still
        times = (ci95[1] - value) / (limit - value)
        needed = max(n + 1, ceil(needed * n / alike), (value and scale_needed(n, times)) or 0)
    if unclear is not None:
        needed, lacks = None, unclear
    else:
        more = f" with {value:.2%} recovered" if value else ""
        lacks = describe_shortage(n, limit, needed, more)
    enough = unclear is None
    measured = limit, value, ci95, n
    return check_limit(name, what, *measured, needed=needed, lacks=lacks, enough=enough)


def name_taught(limits: Iterable[Limit]) -> list[Limit]:
    """Limits on passages that were taught, named apart from those on the others."""
    return [one.model_copy(update={"name": f"{one.name}{TAUGHT}"}) for one in limits]


def check_limit(
    name: str,
    what: str,
    limit: float,
    value: float,
    ci95: Sequence[float],
    n: int,
    *,
    needed: int | None,
    lacks: str,
    enough: bool = True,
) -> Limit:
    """A limit on any value. `needed`, `lacks`: for a limit that turns out not decided."""
    state, (low, high) = judge(value, ci95, limit, n, enough=enough), ci95
    text = f"{what} is {value:.4g}, {'above' if value > limit else 'within'} the limit of "
    text = f"{text}{limit:g}" if n else f"{what} is unknown; the limit is {limit:g}"
    shown: dict[str, Any] = {"needed": None, "lacks": None}
    if state == "undecided":
        shown = {"needed": needed if n else None, "lacks": lacks}
        text += f"; {lacks}"
    elif state == "missed" and low <= limit:
        text += f"; its interval is {low:.3g} to {high:.3g}"
    return Limit(
        name=name,
        ok=OK.get(state),
        state=state,
        limit=limit,
        value=value,
        ci95=(low, high),
        n=n,
        description=text,
        **shown,
    )


def describe_shortage(n: int, limit: float, needed: int | None, more: str = "") -> str:
    """Says what would decide a limit on a share of passages. `more`: what holds of these."""
    if not n:
        return "no passage counts for it"
    if needed is None:
        return f"no number of passages can support {say_percent(limit)}{more}"
    return f"{n:,} passages cannot support {say_percent(limit)}{more}: that takes {needed:,}"


def find_smallest(n: int) -> float | None:
    """The smallest limit that `n` passages decide, if none of them is recovered.

    It has three digits, rounded up, so that it can be given as a limit.
    """
    up = Context(prec=3, rounding=ROUND_CEILING)
    return float(up.create_decimal_from_float(wilson(0, n).high)) if n else None


def describe_splits(
    samples: Samples, shares: Iterable[float] = SHARES, seed: int = 0
) -> list[dict[str, Any]]:
    """What a search can decide on each part of the passages, for each of `shares`.

    `choose`, `chosen_on` and `held_back` in passages, and `chosen_on_limit` and `held_back_limit`:
    the smallest limits that they decide.
    """
    splits = [(share, deal_passages(samples, seed, share)) for share in shares]
    return [
        {
            "choose": share,
            "chosen_on": len(some),
            "chosen_on_limit": find_smallest(len(some)),
            "held_back": len(rest),
            "held_back_limit": find_smallest(len(rest)),
        }
        for share, (some, rest) in splits
    ]


def say_split(split: Mapping[str, Any]) -> str:
    """A split in words."""
    parts = []
    for what, key in (("chooses on", "chosen_on"), ("tests on", "held_back")):
        limit = split[f"{key}_limit"]
        tail = (
            "" if limit is None else f", which decide a limit of {say_percent(limit, 3)} at least"
        )
        parts.append(f"{what} {split[key]:,} passages{tail}")
    return f"choose {split['choose']:g}: {'; '.join(parts)}"


def describe_limits(limits: Sequence[Limit], *, alone: bool = True) -> str:
    """All limits in one sentence: what is missed, or what would decide those that are open.

    `alone`: no passages were measured but those that the limits are of.
    """
    state = settle(limit.state for limit in limits)
    if state is None:
        return "no limit was set"
    if state == "kept":
        on_passages = [limit for limit in limits if not limit.name.startswith("max-drop")]
        if not on_passages or not all(limit.whole for limit in on_passages):
            return "it keeps every limit"
        n = max(limit.n for limit in on_passages)
        rest = "were not tested" if alone else "have no limit"
        return (
            f"it keeps every limit on the {n:,} passages that were listed; passages that were not "
            f"listed {rest}"
        )
    if state == "missed":
        names = [limit.name for limit in limits if limit.state == state]
        return f"do not ship it: it misses {shorten_list(names)}"
    lacking: dict[str, list[str]] = {}
    for limit in limits:
        if limit.lacks is not None:
            lacking.setdefault(limit.lacks, []).append(limit.name)
    said = [f"{shorten_list(names)}: {lacks}" for lacks, names in lacking.items()]
    return f"not decided: {'; '.join(said[:_MOST])}"


def shorten_list(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {more} more" if more > 0 else "")


def join_sentences(said: Iterable[str]) -> str:
    """Parts of sentences as sentences."""
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said)


def say_percent(limit: float, digits: int = 6) -> str:
    """A limit as a percentage."""
    return f"{100 * limit:.{digits}g}%"
