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
        what, share = "share of passages recited word for word", test["exact_match"]
        gates["recited"] = check_share(
            "max-extraction",
            what,
            request.max_extraction,
            {**share, "n": test["n"]},
            base=test["baseline"]["exact_match"]["rate"],
            unclear=found.void,
        )
    for one in found.audit.check_limits(request.max, found.void) if found.audit else ():
        named = one.model_copy(update={"name": f"max {one.name}"})
        gates[f"recovered.{one.name}"] = named
    for name, task in found.tasks.items():
        limit = find_limit(request.max_drop, name)
        if limit is not None:
            gates[f"task.{name}"] = check_drop(name, task, limit, found.void)
    return gates
