"""Gates: limits that a result must keep, and whether it does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from evals.measure.differences import Metric
from evals.measure.verdicts import check_limit, check_share
from evals.report.figures import Finding
from evals.report.request import EvaluationRequest
from evals.run.statistics import FEWEST, scale_needed
from surgery.errors import UnknownNameError
from surgery.record.report import Limit


def check_limited_tasks(limits: Mapping[str, float], tasks: Collection[str]) -> None:
    """Raises `UnknownNameError` if a limit names none of `tasks`."""
    for pattern in limits:
        if not any(fnmatchcase(task, pattern) for task in tasks):
            run = ", ".join(tasks) or "none"
            raise UnknownNameError(
                f"no task of this run matches {pattern!r} (tasks: {run})", where="`max_drop`"
            )


def find_limit(limits: Mapping[str, float], task: str) -> float | None:
    """The limit on a task: that of its name, or else of the longest pattern that matches it."""
    covering = [pattern for pattern in limits if fnmatchcase(task, pattern)]
    exact = max(covering, key=lambda one: (not set("*?[") & set(one), len(one)), default=None)
    return None if exact is None else limits[exact]


def check_gates(found: Finding, request: EvaluationRequest) -> dict[str, Limit]:
    """The limits that `request` sets, by the keys of the figures that they limit.

    Without a passage or document that counts, a gate is not decided.
    """
    gates: dict[str, Limit] = {}
    if request.max_extraction is not None and (test := found.extraction) is not None:
        rate, interval = (test["exact_match"][key] for key in ("rate", "ci95"))
        what = "share of passages recited word for word"
        measured = (request.max_extraction, rate, interval, test["n"])
        gates["recited"] = check_share("max-extraction", what, *measured)
    for one in found.audit.check_limits(request.max) if found.audit else ():
        named = one.model_copy(update={"name": f"max {one.name}"})
        gates[f"recovered.{one.name}"] = named
    for name, task in found.tasks.items():
        limit = find_limit(request.max_drop, name)
        if limit is not None:
            gates[f"task.{name}"] = _check_drop(name, task, limit)
    return gates


def _check_drop(name: str, task: Metric, limit: float) -> Limit:
    """The gate of one task. An inconclusive difference decides it only if it is above the limit."""
    (low, high), n = task.drop_ci95, task.n
    needed = None
    if limit > max(task.drop, 0):  # as narrow as the way to the limit, and as conclusive
        times = max((high - task.drop) / (limit - task.drop), (high - low) / limit)
        needed = scale_needed(n, times)
    if needed is not None and task.test != "mcnemar":
        needed = max(needed, FEWEST)
    lacks = f"{n:,} documents leave an interval of {low:.3g} to {high:.3g}"
    if needed is not None:
        lacks += f": about {needed:,} would decide it"
    return check_limit(
        f"max-drop {name}",
        f"{'relative rise' if task.drop_is_relative else 'drop'} of {name}",
        limit,
        task.drop,
        (low, high),
        n,
        needed=needed,
        lacks=lacks,
        enough=task.outcome != "inconclusive",
    )
