"""What was measured, on disk: what a search goes on from that was stopped or gets more budget."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.memorization.recovery import NAMES
from evals.search.front import Point
from surgery.checkpoint.foreign import guard
from surgery.checkpoint.source import read_json
from surgery.errors import SamplesError
from surgery.selection import Part, Selection


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


def measured_before(folder: Path, question: Mapping[str, Any]) -> dict[Selection, Point]:
    """The points of an earlier search in `folder`. Raises `SamplesError` where it was another."""
    path = folder / "search.json"
    result = read_json(path)
    if result.get("question") != json.loads(json.dumps(question)):
        raise SamplesError(
            "holds the search of another model, goal, text or choice",
            where=path,
            fix="give the same options, or choose another `output`",
        )
    with guard(SamplesError, "is damaged", path, fix="search anew with `overwrite=True`"):
        points = [point_from_json(stored) for stored in result["measured"]]
    return {point.selection: point for point in points}
