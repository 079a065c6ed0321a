"""Makes values of figures from statistics, and figures that short tables leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.measure.attacks.result import Share
from surgery.record.report import EditValue, Figure, Form, Value


def make_minor(
    key: str,
    label: str,
    form: Form,
    n: int | None,
    base: Value | None,
    edits: Sequence[EditValue | None],
    *,
    table: str = "recited",
    **more: Any,
) -> Figure:
    """A figure that short tables leave out."""
    shown: dict[str, Any] = {"table": table, "main": False, **more}
    return Figure(key=key, label=label, form=form, n=n, base=base, edits=list(edits), **shown)


def make_mean(figure: Mapping[str, Any]) -> EditValue:
    middle = next(figure[key] for key in ("mean", "rate", "value") if key in figure)
    return EditValue(value=middle, ci95=figure["ci95"])


def make_share(share: Share) -> EditValue:
    """A share of no passages has no value, so it says that none counts."""
    if not share.n:
        return EditValue(value=None, note="none counts")
    known = {"count": share.count, "draws": share.draws}
    return EditValue(value=share.rate, ci95=share.ci95, details=known)


def describe_way(way: float | None) -> str:
    """How far an edit goes from the base to the twin; empty where these are equal."""
    return "" if way is None else f"{way:.0%} of the way to it"


def format_p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"
