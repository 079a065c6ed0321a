"""Limits that a result must keep: how they are written, and whether it keeps them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from evals.attacks.result import Audit
from evals.evaluation.report import Gate, Metric
from evals.statistics import judged


@dataclass(frozen=True)
class DropLimit:
    """How much a task may lose (`Metric.drop`). `pattern`: a task's name, or `*` and `?` in it."""

    pattern: str
    limit: float

    def __str__(self) -> str:
        return f"{self.pattern}={self.limit}"

    def covers(self, task: str) -> bool:
        return fnmatchcase(task, self.pattern)

    @property
    def exactness(self) -> tuple[bool, int]:
        """Of two limits that cover a task the more exact one counts: a name, a longer pattern."""
        is_name = not any(sign in self.pattern for sign in "*?[")
        return is_name, len(self.pattern)


def parse_drop_limit(text: str) -> DropLimit:
    """`TASK=X`. Raises ValueError, saying what is wrong with it."""
    pattern, sign, number = text.rpartition("=")
    if not sign or not pattern.strip():
        raise ValueError(f"{text!r} is not TASK=X; write for example 'lambada_openai=0.03'")
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit) or limit < 0:
        raise ValueError(f"{number!r} in {text!r} is not a number from 0 on")
    return DropLimit(pattern.strip(), limit)


def check_named(limits: Sequence[DropLimit], tasks: Collection[str]) -> None:
    """Raises ValueError for limits on a task that is not among `tasks`, or given twice."""
    patterns = [limit.pattern for limit in limits]
    for limit in limits:
        if patterns.count(limit.pattern) > 1:
            raise ValueError(f"{limit.pattern!r} has more than one limit")
        if not any(map(limit.covers, tasks)):
            run = ", ".join(tasks) or "none"
            raise ValueError(f"no task that is run is called {limit.pattern!r} (tasks: {run})")


def limit_of(limits: Sequence[DropLimit], task: str) -> float | None:
    """The limit for a task, of the most exact option that covers it; None where none does."""
    covering = [limit for limit in limits if limit.covers(task)]
    return max(covering, key=lambda limit: limit.exactness).limit if covering else None


def check_gates(
    tasks: Mapping[str, Metric],
    extraction: dict[str, Any] | None,
    limits: Sequence[DropLimit],
    max_extraction: float | None,
    audit: Audit | None = None,
    max_recovered: Mapping[str, float] = MappingProxyType({}),
) -> list[Gate]:
    """Gates in the order of `tasks`, for each that a limit covers; of extraction; of attacks.

    `max_extraction`: the highest exact-match rate allowed; needs `extraction`. `max_recovered`: by
    attack, the highest rate allowed; needs `audit`. A gate is judged on the measured value; where
    its interval reaches beyond the limit, the gate says so.
    """
    gates = []
    for name, task in tasks.items():
        limit = limit_of(limits, name)
        if limit is not None:
            what = f"{'relative rise' if task.drop_is_relative else 'drop'} of {name}"
            enough = task.outcome != "inconclusive"
            measured = (task.drop, task.drop_ci95, task.n)
            gates.append(_gate(f"max-drop {name}", what, *measured, limit, enough=enough))
    if max_extraction is not None and extraction is not None:
        rate, interval = (extraction["exact_match"][key] for key in ("rate", "ci95"))
        what = "share of passages recited word for word"
        gates.append(_gate("max-extraction", what, rate, interval, extraction["n"], max_extraction))
    for tried in audit.rated if audit else ():
        if (most := max_recovered.get(tried.name)) is not None:
            found, what = tried.edited, f"share of passages recovered by {tried.name}"
            gates.append(_gate(f"max {tried.name}", what, found.rate, found.ci95, found.n, most))
    return gates


def _gate(
    name: str,
    what: str,
    value: float,
    ci95: Sequence[float],
    n: int,
    limit: float,
    *,
    enough: bool = True,
) -> Gate:
    ok, one_sided = judged(value, ci95, limit)
    conclusive, (low, high) = enough and one_sided, ci95
    text = f"{what} is {value:.4g}, {'within' if ok else 'above'} the limit of {limit:g}"
    if not conclusive:
        text += f"; inconclusive (n = {n:,}): its interval is {low:.3g} to {high:.3g}"
    return Gate(
        name=name,
        ok=ok,
        limit=limit,
        value=value,
        ci95=(low, high),
        n=n,
        conclusive=conclusive,
        description=text,
    )
