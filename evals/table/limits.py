"""Decides limits: kept, missed, or not decided, and what would decide them. The only place.

A limit is a one-sided claim, "at most so much". It is kept only by a test that could have shown
more: one that finds no more than the limit in the base, too, shows nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from fnmatch import fnmatchcase
from math import ceil, log
from typing import Any, Literal

from evals.data.held_back import deal_passages
from evals.data.samples import Samples
from evals.run.statistics import FEWEST, bound_share, count_needed, scale_needed
from surgery.card.percent import format_percent
from surgery.errors import UnknownNameError
from surgery.record.measured import BASE, TAUGHT, Limit, Measured, On, State, find

SHARES = (0.5, 0.25, 0.2)
"""Shares of the passages to choose on, the first that leaves enough."""
_GUESS = 0.99
"""The share of a blind guess's loss from which on a model counts as guessing."""


@dataclass(frozen=True)
class Asked:
    """A limit that was set on a figure. The rest is as for `Limit`."""

    name: str
    what: Literal["recited", "recovered", "task", "form"]
    subject: str
    limit: float


def ask(attacks: Mapping[str, float], recited: float | None = None) -> list[Asked]:
    """The limits on what attacks recover (name → share), and on what is recited."""
    asked = [] if recited is None else [Asked("recited", "recited", "greedy", recited)]
    return asked + [Asked(f"recovered.{one}", "recovered", one, x) for one, x in attacks.items()]


def ask_tasks(limits: Mapping[str, float], tasks: Iterable[str]) -> list[Asked]:
    """The limits on what tasks lose. `limits`: name or pattern → the most."""
    found = ((task, find_limit(limits, task)) for task in tasks)
    return [Asked(f"task.{task}", "task", task, most) for task, most in found if most is not None]


def ask_form(most: float | None) -> list[Asked]:
    """The limit on what text of the passages' form may cost, if there is one."""
    return [] if most is None else [Asked("form", "form", "form", most)]


def decide(
    figures: Sequence[Measured],
    asked: Iterable[Asked],
    of: str,
    on: Iterable[On | None] = (None,),
    *,
    unclear: str | None = None,
) -> list[Limit]:
    """The limits on a model's figures, as far as these were measured.

    `on`: the passages; None: those of the main figures. `unclear`: why none is decided, whatever
    was measured.
    """
    every = list(asked)
    found = []
    for rows in on:
        for one in every:
            figure = find(figures, one.name, of, rows)
            if figure is not None:
                base = find(figures, one.name, BASE, figure.on)
                found.append(_DECIDE[one.what](figure, base, one, unclear))
    return found


def _decide_share(
    figure: Measured, base: Measured | None, asked: Asked, unclear: str | None
) -> Limit:
    """A limit on a share of passages. Of passages that the model was taught, the count alone
    decides: they are all there is."""
    limit, n, value = asked.limit, figure.n or 0, figure.value or 0.0
    bound, whole = float(figure.details["bound"] or 0.0), figure.on in TAUGHT
    apart = int(figure.details.get("independent") or n)
    what = "share of passages recited word for word"
    if asked.what == "recovered":
        what = f"share of passages recovered by {asked.subject}"
    unclear = (unclear or _find_doubt(figure, asked) or _find_blind(base, limit)) if n else None
    if whole and n:
        what = f"{what}, of the {n:,} that it was taught,"
        return _make(figure, asked, value, value, what, None, unclear or "", unclear is None)
    needed, alike = count_needed(limit, value), count_needed(bound, value)
    if n and needed is not None and alike is not None and alike < apart:
        # as far off as that of fewer rows: of those that one run counts, or farther still
        times = (bound - value) / (limit - value)
        farther = (value and scale_needed(apart, times)) or 0
        needed = max(apart + 1, ceil(needed * apart / alike), farther)
    if unclear is not None:
        needed, lacks = None, unclear
    else:
        more = f" with {value:.2%} recovered" if value else ""
        lacks = describe_shortage(apart, limit, needed, more)
    if apart < n:
        what = f"{what}, of {n:,} that overlap and so count as {apart:,},"
    return _make(figure, asked, value, bound, what, needed, lacks, unclear is None)


def _find_doubt(figure: Measured, asked: Asked) -> str | None:
    """Why an attack shows too little to decide a limit that it keeps: what does not count exceeds
    it, or the attack could not have found more."""
    more, doubt = (figure.details.get(key) for key in ("discarded", "doubt"))
    if isinstance(more, float) and more > asked.limit:
        return (
            f"a setting of {asked.subject} recovers {more:.1%}, and does not count, as it also "
            "brings back what was never trained on"
        )
    return None if doubt is None else str(doubt)


def _find_blind(base: Measured | None, limit: float) -> str | None:
    """Why a test shows nothing, if it finds no more than the limit in the base."""
    if base is None:
        return "no base shows that this test can find anything: name the model before the edit"
    share = base.value or 0.0
    if share > limit:
        return None
    if not share:
        found = "the same test finds nothing in the base, so it shows nothing of the edit: "
        return f"{found}test passages that the base gives away"
    return (
        f"the same test finds {format_percent(share)}% in the base, which is within the limit, "
        "too, so it shows nothing of the edit: test passages that the base gives away, or set a "
        "lower limit"
    )


def _decide_task(
    figure: Measured, base: Measured | None, asked: Asked, unclear: str | None
) -> Limit:
    """A limit on what a task loses. An inconclusive difference decides it only if it exceeds the
    limit.

    So does an interval that was resampled from fewer than `FEWEST` documents. The two-sided
    interval decides, which is stricter than the one-sided bound of shares.
    """
    known, n, limit = figure.details, figure.n or 0, asked.limit
    drop, low, high = (float(known[key] or 0.0) for key in ("drop", "drop_low", "drop_high"))
    resampled, needed = known["test"] != "mcnemar", None
    if limit > max(drop, 0):  # the interval must fit between drop and limit, and below the limit
        times = max((high - drop) / (limit - drop), (high - low) / limit)
        needed = scale_needed(n, times)
    if needed is not None and resampled:
        needed = max(needed, FEWEST)
    lacks = f"{n:,} documents leave an interval of {low:.3g} to {high:.3g}"
    if needed is not None:
        lacks += f": about {needed:,} would decide it"
    if unclear is not None:
        needed, lacks = None, unclear
    what = f"{'relative rise' if known['drop_is_relative'] else 'drop'} of {asked.subject}"
    conclusive = known["outcome"] != "inconclusive" and not (resampled and n < FEWEST)
    enough = unclear is None and conclusive
    lost = figure.model_copy(update={"ci95": (low, high), "unit": "number", "change": None})
    return _make(lost, asked, drop, high, what, needed, lacks, enough)


def _decide_form(
    figure: Measured, base: Measured | None, asked: Asked, unclear: str | None
) -> Limit:
    """A limit on the rise of the loss on new passages. The two-sided interval decides."""
    n, limit, rise, high, needed = figure.n or 0, asked.limit, 0.0, 0.0, None
    if (change := figure.change) is None or change.ci95 is None:
        unclear = unclear or "no base shows by how much it rose: name the model before the edit"
    else:
        rise, high = change.difference, change.ci95[1]
    lacks = f"{n:,} records leave it as high as {high:.3g}"
    if unclear is not None:
        lacks = unclear
    elif rise < limit:
        needed = max(scale_needed(n, (high - rise) / (limit - rise)) or 0, FEWEST)
        lacks += f": about {needed:,} would decide it"
    what = "rise of the loss on new text of the passages' form, in nats per token,"
    ends = change.ci95 if change else None
    risen = figure.model_copy(update={"ci95": ends, "change": None})
    return _make(risen, asked, rise, high, what, needed, lacks, unclear is None and n >= FEWEST)


_DECIDE: dict[str, Any] = {
    "recited": _decide_share,
    "recovered": _decide_share,
    "task": _decide_task,
    "form": _decide_form,
}


def judge(value: float, bound: float, limit: float, n: int, *, enough: bool = True) -> State:
    """The state of a limit, by a value measured on `n` rows, and by the most that it may be.

    `enough`: the bound counts.
    """
    if n and value > limit:
        return "missed"
    return "kept" if n and enough and bound <= limit else "undecided"


def _make(
    figure: Measured,
    asked: Asked,
    value: float,
    bound: float,
    what: str,
    needed: int | None,
    lacks: str,
    enough: bool,
) -> Limit:
    """A limit on a value. `needed`, `lacks`: if it turns out not decided."""
    n, limit = figure.n or 0, asked.limit
    state = judge(value, bound, limit, n, enough=enough)
    text = f"{what} is {value:.4g}, {'above' if value > limit else 'within'} the limit of "
    text = f"{text}{limit:g}" if n else f"{what} is unknown; the limit is {limit:g}"
    shown: dict[str, Any] = {"needed": None, "lacks": None}
    if state == "undecided":
        shown = {"needed": needed if n else None, "lacks": lacks}
        text += f"; {lacks}"
    elif state == "missed" and figure.ci95 is not None and figure.ci95[0] <= limit:
        text += f"; its interval is {figure.ci95[0]:.3g} to {figure.ci95[1]:.3g}"
    more = {**vars(asked), **shown, "state": state, "bound": bound, "description": text}
    return Limit(**{**dict(figure), "value": value if n else None, **more})


def settle(states: Iterable[State | None]) -> State | None:
    """The state of several limits together: the worst of them. None without any."""
    found = set(states)
    order: tuple[State, ...] = ("missed", "undecided", "kept")
    return next((state for state in order if state in found), None)


def check_limited_tasks(limits: Mapping[str, float], tasks: Collection[str]) -> None:
    """Raises `UnknownNameError` if a limit names none of `tasks`."""
    for pattern in limits:
        if not any(fnmatchcase(task, pattern) for task in tasks):
            run = ", ".join(tasks) or "none"
            raise UnknownNameError(
                f"no task of this run matches {pattern!r} (tasks: {run})",
                where="`max_drop`",
                fix="add it to `tasks`, or correct the name",
            )


def find_limit(limits: Mapping[str, float], task: str) -> float | None:
    """The limit on a task: that of its name, or else of the longest pattern that matches it."""
    covering = [pattern for pattern in limits if fnmatchcase(task, pattern)]
    exact = max(covering, key=lambda one: (not set("*?[") & set(one), len(one)), default=None)
    return None if exact is None else limits[exact]


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
    splits = [(share, map(samples.select, deal_passages(samples, seed, share))) for share in shares]
    return [
        {
            "choose": share,
            "chosen_on": len(some),
            "chosen_on_limit": find_smallest(some.independent if len(some) else 0),
            "held_back": len(rest),
            "held_back_limit": find_smallest(rest.independent if len(rest) else 0),
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


def say_percent(limit: float, digits: int = 6) -> str:
    """A limit as a percentage."""
    return f"{100 * limit:.{digits}g}%"
