"""Makes figures of a report, and their values, from statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evals.measure.attacks.result import Share
from surgery.record.report import EditValue, Figure, Form, Scalar, Value

Ends = Sequence[float] | None
Paired = tuple[float, Ends, float]
"""A change, its interval, and its p-value."""


def make_figure(
    table: str | None,
    key: str,
    label: str,
    form: Form,
    n: int | None,
    base: Value | None,
    edits: Sequence[EditValue | None],
    *,
    main: bool = False,
    hint: str = "",
    **details: Scalar,
) -> Figure:
    """A figure in a table; with `main`, also in short ones."""
    named: dict[str, Any] = {"key": key, "label": label, "hint": hint, "main": main, "form": form}
    return Figure(table=table, n=n, base=base, edits=edits, details=details, **named)


def make_value(
    value: float | None,
    ci95: Ends = None,
    change: Paired | None = None,
    note: str = "",
    **details: Scalar,
) -> EditValue:
    """A value of the base, or, with its `change` from that, of an edit.

    None also for what is not finite, such as the loss of a token that a model cannot write.
    """
    if value is not None and not math.isfinite(value):
        return EditValue(value=None, note="not finite")
    found: dict[str, Any] = {"value": value, "ci95": ci95, "note": note, "details": details}
    if change is not None:
        value, ends, p_value = change
        found["change"] = {"value": value, "ci95": ends, "p_value": p_value}
    return EditValue.model_validate(found)


def make_mean(figure: Mapping[str, Any]) -> EditValue:
    middle = next(figure[key] for key in ("mean", "rate", "value") if key in figure)
    return make_value(middle, figure["ci95"])


def make_share(
    share: Share, change: Paired | None = None, note: str = "", **more: Any
) -> EditValue:
    """A share of no passages has no value, so it says that none counts."""
    if not share.n:
        return make_value(None, note="none counts")
    known = {"count": share.count, "draws": share.draws, "n": share.n, "bound": share.bound}
    return make_value(share.rate, share.ci95, change, note, **known, **more)


def describe_way(way: float | None) -> str:
    """How far an edit goes from the base to the twin; empty where these are equal."""
    return "" if way is None else f"{way:.0%} of the way to it"


def format_p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"
