"""Gates: limits that a result must keep, and whether it does."""

from __future__ import annotations

from evals.measure.drops import check_drop, find_limit
from evals.measure.verdicts import check_share, name_taught
from evals.report.figures import AllPassages, Finding
from evals.report.request import EvaluationRequest
from surgery.record.report import Limit


def check_gates(found: Finding, request: EvaluationRequest) -> dict[str, Limit]:
    """The limits that `request` sets, by the keys of the figures that they limit.

    Without a passage or document that counts, a gate is not decided. What was taught must keep the
    same limits as what was not.
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
    if found.taught is not None and found.chose.includes(found.taught.n):
        gates |= _check_taught(found.taught, request, found.void)
    for name, task in found.tasks.items():
        limit = find_limit(request.max_drop, name)
        if limit is not None:
            gates[f"task.{name}"] = check_drop(name, task, limit, found.void)
    return gates


def _check_taught(
    taught: AllPassages, request: EvaluationRequest, void: str | None
) -> dict[str, Limit]:
    """The limits on passages that the edit was taught, by the keys of their figures.

    `void`: why none is decided, if so.
    """
    asked = {f"recovered.{name}": (f"max {name}", most) for name, most in request.max.items()}
    shares = {f"recovered.{name}": pair for name, pair in taught.recovered.items()}
    if request.max_extraction is not None:
        asked["recited"] = "max-extraction", request.max_extraction
        shares["recited"] = taught.recited
    found: dict[str, Limit] = {}
    for key in asked.keys() & shares.keys():
        (name, most), pair = asked[key], shares[key]
        what = "share of passages recited word for word"
        if key != "recited":
            what = f"share of passages recovered by {key.removeprefix('recovered.')}"
        share = pair.edited.model_dump()
        limit = check_share(
            name, what, most, share, base=pair.base.rate if pair.base else None, unclear=void
        )
        (limit,) = name_taught([limit])
        found[f"taught.{key}"] = limit
    return found
