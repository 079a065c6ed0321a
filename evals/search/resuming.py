"""A measured edit as JSON: what a search goes on from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evals.memorization.recovery import NAMES
from evals.search.front import Point
from surgery.selection import Part


def point_as_json(point: Point) -> dict[str, Any]:
    return asdict(point)


def point_from_json(stored: Any) -> Point:
    """Raises what `guard` catches."""
    parts = tuple(
        Part(int(part["block"]), tuple(map(int, part["heads"])), str(part["variant"]))
        for part in stored["selection"]
    )
    numbers = {k: float(v) for k, v in stored.items() if k not in ("selection", "rates")}
    rates = [float(value) for _, value in zip(NAMES, stored["rates"], strict=True)]
    return Point(parts, rates=tuple(rates), **numbers)
