"""Verdicts on limits, in three states, and what would decide those that are open.

Gates of an evaluation, limits of an audit, and the held-back verdict of a search are all `Limit`s.
A limit is a one-sided claim, "at most so much". It is kept only by a test that could have shown
more: one that finds no more than the limit in the base, too, shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Context
from math import ceil, log
from typing import Any

from evals.data.held_back import deal_passages
from evals.data.samples import Samples
from evals.run.statistics import bound_share, count_needed, scale_needed
from surgery.card.percent import format_percent
from surgery.record.report import Limit, State

OK: dict[State | None, bool | None] = {"kept": True, "missed": False}
"""A state as `ok` in JSON. Everything else is null."""
SHARES = (0.5, 0.25, 0.2)
"""Shares of the passages to choose on, the first that leaves enough."""
TAUGHT = ", taught"
"""What the names of limits on passages that were taught end with, beside those on others."""
_GUESS = 0.99
"""The share of a blind guess's loss from which on a model counts as guessing."""
_MOST = 5  # names in a sentence


def judge(value: float, bound: float, limit: float, n: int, *, enough: bool = True) -> State:
    """The state of a limit, by a value measured on `n` rows, and by the most that it may be.

    `enough`: the bound counts.
    """
    if n and value > limit:
        return "missed"
    return "kept" if n and enough and bound <= limit else "undecided"


def settle(states: Iterable[State | None]) -> State | None:
    """The state of several limits together: the worst of them. None without any."""
    found = set(states)
    order: tuple[State, ...] = ("missed", "undecided", "kept")
    return next((state for state in order if state in found), None)


def check_share(
    name: str,
    what: str,
    limit: float,
    share: Mapping[str, Any],
    *,
    base: float | None,
    unclear: str | None = None,
) -> Limit:
    """A limit on a share of passages.

    - `what`: the share, in words. `share`: its `n`, and what `rate_draws` gives; a `ci95` of None
      for the passages that the model was taught. They are all there is, so the count alone decides.
    - `base`: the share that the same test finds in the base, on the same passages; None without a
      base.
    - `unclear`: why it is not decided, whatever the test finds.
    """
    value, bound, n = share["rate"], share["bound"], share["n"]
    # that nothing counts says more than what else is unclear
    unclear = (unclear or _find_blind(base, limit)) if n else None
    if share["ci95"] is None:
        what = f"{what}, of the {n:,} that it was taught,"
        told: Any = {"needed": None, "lacks": unclear or "", "enough": unclear is None}
        found = check_limit(name, what, limit, value, (value, value), n, bound=value, **told)
        return found.model_copy(update={"whole": True})
    needed, alike = count_needed(limit, value), count_needed(bound, value)
    if n and needed is not None and alike is not None and alike < n:
        # as far off as that of fewer rows: of those that one run counts, or farther still
        times = (bound - value) / (limit - value)
        needed = max(n + 1, ceil(needed * n / alike), (value and scale_needed(n, times)) or 0)
    if unclear is not None:
        needed, lacks = None, unclear
    else:
        more = f" with {value:.2%} recovered" if value else ""
        lacks = describe_shortage(n, limit, needed, more)
    enough = unclear is None
    measured: Any = limit, value, share["ci95"], n
    said: Any = {"bound": bound, "needed": needed, "lacks": lacks, "enough": enough}
    return check_limit(name, what, *measured, **said)


def _find_blind(base: float | None, limit: float) -> str | None:
    """Why a test shows nothing, if it finds no more than the limit in the base."""
    if base is None:
        return "no base shows that this test can find anything: name the model before the edit"
    if base > limit:
        return None
    if not base:
        found = "the same test finds nothing in the base, so it shows nothing of the edit: "
        return f"{found}test passages that the base gives away"
    return (
        f"the same test finds {format_percent(base)}% in the base, which is within the limit, too, "
        "so it shows nothing of the edit: test passages that the base gives away, or set a lower "
        "limit"
    )


def find_void(
    vocabulary: int,
    text: tuple[float, float] | None,
    passages: tuple[float, float] | None = None,
    *,
    same: bool = False,
) -> str | None:
    """Why no limit is decided, whatever is measured; None if nothing speaks against it.

    - `vocabulary`: how many tokens the models know.
    - `text`: the losses of the base and of the edited model, in nats per token, on text that
      neither was trained on. `passages`: the same on passages, which count without such text.
    - `same`: both models have the same weights.
    """
    if same:
        return "the base has the same weights as the model, so no edit is judged"
    guess, what, losses = log(vocabulary), "held-out text", text
    if losses is None:
        what, losses = "the passages", passages
    if losses is None or not losses[0] < _GUESS * guess <= losses[1]:
        return None
    if text is None and losses[1] > guess / _GUESS:
        return None  # what is forgotten may be less likely than by a guess
    return (
        f"the model predicts nothing: its loss on {what}, {losses[1]:.3g} nats per token, is no "
        f"better than that of a guess among its {vocabulary:,} tokens"
    )


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
    bound: float | None = None,
    enough: bool = True,
) -> Limit:
    """A limit on any value. `needed`, `lacks`: for a limit that turns out not decided. `bound`: the
    most that the value may be; by default the upper end of its interval."""
    low, high = ci95
    bound = high if bound is None else bound
    state = judge(value, bound, limit, n, enough=enough)
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
        bound=bound,
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
    some = count_passages(n)
    return f"{some} cannot support {say_percent(limit)}{more}: that takes {needed:,}"


def count_passages(n: int) -> str:
    return "1 passage" if n == 1 else f"{n:,} passages"


def find_smallest(n: int) -> float | None:
    """The smallest limit that `n` passages decide, if none of them is recovered.

    It has three digits, rounded up, so that it can be given as a limit.
    """
    up = Context(prec=3, rounding=ROUND_CEILING)
    return float(up.create_decimal_from_float(bound_share(0, n))) if n else None


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
        parts.append(f"{what} {count_passages(split[key])}{tail}")
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
