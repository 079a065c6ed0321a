"""What no report of a measurement says: figures that contradict themselves, or each other.

A report can be invented, and nothing here proves that it is not. Whoever changes one figure, such
as a verdict, and leaves the others as they were is found out. What is checked holds whatever
interval or bound decides a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.record.report import Ends, Figure, Limit, Report, State, Value

WORST: tuple[State, ...] = ("missed", "undecided", "kept")
"""States of a limit. The first that any limit has is that of all together."""
_ROUNDING = 1e-9


def list_contradictions(report: Report) -> Iterator[str]:
    """Yields what is contradictory in a report, in words."""
    for figure in report.figures:
        yield from _check_figure(figure)
    for place, edit in enumerate(report.edits):
        limits = report.list_limits(place)
        for limit in limits:
            yield from _check_limit(limit)
        found = {limit.state for limit in limits}
        state = next((one for one in WORST if one in found), None)
        if state and edit.edit is not None and edit.edit.missed_alone:
            state = "missed"  # by the search that chose it
        if edit.state != state:
            yield f"the state of {edit.name} is {edit.state}, and that of its limits is {state}"
        if edit.passed is not _say_ok(edit.state):
            yield f"{edit.name} is {edit.state}, and passed is {edit.passed}"


def _say_ok(state: State | None) -> bool | None:
    return {"kept": True, "missed": False}.get(state or "")


def _check_limit(limit: Limit) -> Iterator[str]:
    named = f"the limit {limit.name}"
    if limit.n < 0:
        yield f"{named} is on {limit.n} passages or documents"
    if limit.state == "missed" and limit.value < limit.limit - _ROUNDING:
        yield f"{named} is missed, and {limit.value:g} is within {limit.limit:g}"
    if limit.state == "kept" and limit.value > limit.limit + _ROUNDING:
        yield f"{named} is kept, and {limit.value:g} is above {limit.limit:g}"
    if limit.state != "undecided" and not limit.n:
        yield f"{named} is {limit.state}, and nothing was measured for it"
    if limit.ok is not _say_ok(limit.state):
        yield f"{named} is {limit.state}, and ok is {limit.ok}"
    if limit.ci95[0] > limit.ci95[1]:
        yield f"the interval of {named} ends before it begins"


def _check_figure(figure: Figure) -> Iterator[str]:
    named, is_share = f"the figure {figure.key}", figure.form == "share"
    if figure.n is not None and figure.n < 0:
        yield f"{named} is of {figure.n} rows"
    for value in filter(None, (figure.base, *figure.edits)):
        yield from _check_ends(named, value.value, value.ci95, is_share)
        if is_share:
            yield from _check_count(named, value, figure.n)
    for edit in filter(None, figure.edits):
        limit, shown = edit.limit, edit.value
        if limit is None or not is_share or not figure.key.startswith(("recited", "recovered.")):
            continue
        n = edit.details.get("n", figure.n)
        if shown is not None and limit.value < shown - _ROUNDING:
            yield f"{named} is {shown:g}, and its limit is on {limit.value:g}"
        if shown is not None and limit.n != n:
            yield f"{named} is of {n} passages, and its limit is on {limit.n}"
        yield from _check_ends(f"the limit {limit.name}", limit.value, limit.ci95, is_share)


def _check_ends(
    named: str, value: float | None, ends: Ends | None, is_share: bool
) -> Iterator[str]:
    """Whether an interval has its value in it, and whether both can be shares, if they are some."""
    low, high = ends or (value, value)
    if is_share and any(one is not None and not 0 <= one <= 1 for one in (value, low, high)):
        yield f"{named} is a share, and not from 0 to 1"
    if value is None or low is None or high is None:
        return
    if low > high or (is_share and not low - _ROUNDING <= value <= high + _ROUNDING):
        yield f"{named} is {value:g}, and its interval is {low:g} to {high:g}"


def _check_count(named: str, value: Value, n: int | None) -> Iterator[str]:
    """Whether a count of passages fits the share. `draws`: of how many runs the share is a mean."""
    count, of = value.details.get("count"), value.details.get("n", n)
    if type(count) is not int or type(of) is not int:
        return
    if not 0 <= count <= of:
        yield f"{named} counts {count} of {of} passages"
    single = value.details.get("draws") in (None, 1)
    if single and value.value is not None and abs(value.value * of - count) > 1e-6 * of:
        yield f"{named} is {value.value:g}, and it counts {count} of {of} passages"
