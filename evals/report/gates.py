"""Gates: limits that a result must keep, and whether it does."""

from __future__ import annotations

from evals.measure.drops import check_drop, find_limit
from evals.measure.verdicts import check_share
from evals.report.figures import Finding
from evals.report.request import EvaluationRequest
from surgery.record.report import Limit


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
            gates[f"task.{name}"] = check_drop(name, task, limit)
    return gates
