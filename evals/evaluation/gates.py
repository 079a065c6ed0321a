"""Gates: limits that a result must keep, and whether it does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from evals.attacks.result import Limit
from evals.evaluation.report import EditReport, Gate
from evals.evaluation.request import EvaluationRequest


class UnknownTaskError(ValueError):
    """A gate limits a task that is not run."""


def check_limited_tasks(limits: Mapping[str, float], tasks: Collection[str]) -> None:
    """Raises `UnknownTaskError` if a limit names none of `tasks`."""
    for pattern in limits:
        if not any(fnmatchcase(task, pattern) for task in tasks):
            run = ", ".join(tasks) or "none"
            raise UnknownTaskError(
                f"`max_drop`: no task of this run matches {pattern!r} (tasks: {run})"
            )


def find_limit(limits: Mapping[str, float], task: str) -> float | None:
    """The limit on a task: that of its name, or else of the longest pattern that matches it."""
    covering = [pattern for pattern in limits if fnmatchcase(task, pattern)]
    exact = max(covering, key=lambda one: (not set("*?[") & set(one), len(one)), default=None)
    return None if exact is None else limits[exact]


def check_gates(edit: EditReport, request: EvaluationRequest) -> list[Gate]:
    """One gate for each task that `max_drop` covers, for extraction, and for each limited attack.

    The measured value decides. A gate is inconclusive if the value's interval crosses the limit. A
    gate on no passages fails.
    """
    gates = []
    for name, task in edit.tasks.items():
        limit = find_limit(request.max_drop, name)
        if limit is not None:
            what = f"{'relative rise' if task.drop_is_relative else 'drop'} of {name}"
            enough = task.outcome != "inconclusive"
            measured = (task.drop, task.drop_ci95, task.n)
            gates.append(_make_gate(f"max-drop {name}", what, *measured, limit, enough=enough))
    if request.max_extraction is not None and (found := edit.extraction) is not None:
        rate, interval = (found["exact_match"][key] for key in ("rate", "ci95"))
        what = "share of passages recited word for word"
        limit = request.max_extraction
        gates.append(_make_gate("max-extraction", what, rate, interval, found["n"], limit))
    for tried in edit.audit.rated if edit.audit else ():
        if (limit := request.max.get(tried.name)) is not None:
            share, what = tried.edited, f"share of passages recovered by {tried.name}"
            gates.append(
                _make_gate(f"max {tried.name}", what, share.rate, share.ci95, share.n, limit)
            )
    return gates


def _make_gate(
    name: str,
    what: str,
    value: float,
    ci95: Sequence[float],
    n: int,
    limit: float,
    *,
    enough: bool = True,
) -> Gate:
    low, high = ci95
    found = Limit.of(name, limit, value, (low, high), n)
    conclusive = enough and found.conclusive
    text = f"{what} is {value:.4g}, {'within' if found.ok else 'above'} the limit of {limit:g}"
    if not n:
        text = f"{what} is unknown, as no passage counts for it; the limit is {limit:g}"
    elif not conclusive:
        text += f"; inconclusive (n = {n:,}): its interval is {low:.3g} to {high:.3g}"
    return Gate(**dict(found) | {"conclusive": conclusive}, description=text)
