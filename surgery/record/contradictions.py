"""What no report of a measurement says: figures that contradict themselves, or each other.

A report can be invented, and nothing here proves that it is not. Whoever changes one figure, such
as a verdict, and leaves the others as they were is found out. What is checked holds whatever
interval or bound decides a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.record.measured import Limit, Measured, State
    from surgery.record.report import Report

WORST: tuple[State, ...] = ("missed", "undecided", "kept")
"""States of a limit. The first that any limit has is that of all together."""
_ROUNDING = 1e-9


def list_contradictions(report: Report) -> Iterator[str]:
    """Yields what is contradictory in a report, in words."""
    for figure in report.figures:
        yield from _check_figure(figure, f"the figure {figure.name}")
    for limit in report.limits:
        yield from _check_limit(limit, report)
    for edit in report.edits:
        found = {limit.state for limit in report.list_limits(edit.of)}
        state = next((one for one in WORST if one in found), None)
        if state and edit.edit is not None and edit.edit.missed_alone:
            state = "missed"  # by the search that chose it
        if edit.state != state:
            yield f"the state of {edit.name} is {edit.state}, and that of its limits is {state}"


def _check_limit(limit: Limit, report: Report) -> Iterator[str]:
    named = f"the limit on {limit.name}"
    if limit.n is None or limit.n < 0:
        yield f"{named} is on {limit.n} passages or documents"
    if limit.value is not None:
        if limit.state == "missed" and limit.value < limit.limit - _ROUNDING:
            yield f"{named} is missed, and {limit.value:g} is within {limit.limit:g}"
        if limit.state == "kept" and limit.value > limit.limit + _ROUNDING:
            yield f"{named} is kept, and {limit.value:g} is above {limit.limit:g}"
    if limit.state != "undecided" and not limit.n:
        yield f"{named} is {limit.state}, and nothing was measured for it"
    figure = report.find(limit.name, limit.of, limit.on)
    if figure is None:
        yield f"{named} is on a figure that the report does not have"
    elif limit.what != "task":  # whose limit is on what it loses
        yield from _check_same(limit, figure)
    yield from _check_figure(limit, named)


def _check_same(limit: Limit, figure: Measured) -> Iterator[str]:
    """Whether a limit is on what was measured."""
    if (limit.value, limit.n) != (figure.value, figure.n):
        yield (
            f"the figure {figure.name} is {figure.value} (n = {figure.n}), and its limit is on "
            f"{limit.value} (n = {limit.n})"
        )


def _check_figure(figure: Measured, named: str) -> Iterator[str]:
    """Whether an interval has its value in it, whether both can be shares, if they are some, and
    whether a count of passages fits."""
    is_share = figure.unit == "share"
    if figure.n is not None and figure.n < 0:
        yield f"{named} is of {figure.n} rows"
    value, (low, high) = figure.value, figure.ci95 or (figure.value, figure.value)
    if is_share and any(one is not None and not 0 <= one <= 1 for one in (value, low, high)):
        yield f"{named} is a share, and not from 0 to 1"
    if is_share:
        yield from _check_count(figure, named)
    if value is None or low is None or high is None:
        return
    if low > high or (is_share and not low - _ROUNDING <= value <= high + _ROUNDING):
        yield f"{named} is {value:g}, and its interval is {low:g} to {high:g}"


def _check_count(figure: Measured, named: str) -> Iterator[str]:
    """Whether a count of passages fits the share."""
    count, of = figure.details.get("count"), figure.n
    if type(count) is not int or of is None:
        return
    if not 0 <= count <= of:
        yield f"{named} counts {count} of {of} passages"
    single = figure.runs in (None, 1)
    if single and figure.value is not None and abs(figure.value * of - count) > 1e-6 * of:
        yield f"{named} is {figure.value:g}, and it counts {count} of {of} passages"
