"""Several edits of one base, measured in the same way: a column for each, a row for each figure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from evals.evaluation.evaluation import Evaluation
from evals.evaluation.files import write_evaluation
from evals.evaluation.page import side_by_side_pages
from evals.evaluation.report import Point, Report
from surgery.output import known_by, write_text
from surgery.record.manifest import UNLISTED, Record

PAGE = "side-by-side.html"
FILES = ("side-by-side.json", PAGE, "side-by-side.md")
Unit = Literal["share", "nats", "score"]

owned = known_by(
    FILES[0], ("columns", "rows"), *FILES[1:], *(f"[0-9]*-*/{name}" for name in UNLISTED)
)


class Cell(Record):
    """A figure of one edit. `difference` from the base's, paired, with its 95 % interval."""

    value: float
    difference: float
    ci95: tuple[float, float]


class Row(Record):
    """One figure, on `n` passages, windows or documents: of the base, and of every edit.

    `unit`: "share" of passages, "nats" per token, or a "score" of a task.
    """

    name: str
    unit: Unit
    n: int
    base: float
    edits: list[Cell]


class Column(Record):
    """One edit. `folder`: of its whole report, beside this one; the others as in that report."""

    model: str
    folder: str
    drop_attn: str | None
    variant: str | None
    verdict: str
    passed: bool | None


class SideBySide(Record):
    """What side-by-side.json holds. `points`: of the trade-off picture, the base's first."""

    schema_version: Literal[1] = 1
    created: str
    base: str
    columns: list[Column]
    rows: list[Row]
    points: list[Point]

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def side_by_side(reports: Mapping[str, Report]) -> SideBySide:
    """Reports that one plan and one base have made, by the folder that each stands in."""
    found = list(reports.values())
    return SideBySide(
        created=found[0].created,
        base=found[0].models.base,
        columns=[_column(folder, report) for folder, report in reports.items()],
        rows=list(_rows(found)),
        points=_points(found),
    )


def write_side_by_side(found: Mapping[str, Evaluation], folder: Path) -> SideBySide:
    """Writes the figures, their pages, and each whole report into `folder`, which exists.

    Raises `OutputError`.
    """
    for name, evaluation in found.items():
        (folder / name).mkdir()
        write_evaluation(evaluation, folder / name)
    beside = side_by_side({name: evaluation.report for name, evaluation in found.items()})
    record = beside.to_dict()
    made = (json.dumps(record, indent=2, ensure_ascii=False), *side_by_side_pages(record))
    for name, text in zip(FILES, made, strict=True):
        write_text(folder / name, text.rstrip("\n") + "\n")
    return beside


def _column(folder: str, report: Report) -> Column:
    return Column(
        model=report.models.edited,
        folder=folder,
        drop_attn=report.edit.drop_attn if report.edit else None,
        variant=report.edit.variant if report.edit else None,
        verdict=report.verdict,
        passed=report.passed,
    )


def _rows(reports: Sequence[Report]) -> Iterator[Row]:
    tests = [report.extraction for report in reports if report.extraction]
    if tests:
        change = [test["paired"]["exact_match_difference"] for test in tests]
        cells = [
            (test["exact_match"]["rate"], one["value"], one["ci95"])
            for test, one in zip(tests, change, strict=True)
        ]
        base = tests[0]["baseline"]["exact_match"]["rate"]
        yield _row("recited word for word", "share", tests[0]["n"], base, cells)
    for tried in zip(*(report.audit.rated for report in reports if report.audit), strict=True):
        cells = [(one.edited.rate, one.paired.difference, one.paired.ci95) for one in tried]
        first = tried[0]
        yield _row(f"recovered by {first.name}", "share", first.edited.n, first.base.rate, cells)
    texts = [report.heldout for report in reports if report.heldout]
    if texts:
        cells = [(one.edited.mean, one.difference.mean, one.difference.ci95) for one in texts]
        base = texts[0].base.mean
        yield _row("held-out loss, nats per token", "nats", texts[0].n, base, cells)
    for name, task in reports[0].tasks.items():
        lower = "" if task.higher_is_better else ", lower is better"
        scored = [report.tasks[name] for report in reports]
        cells = [(one.edited, one.difference, one.ci95) for one in scored]
        yield _row(f"{name}, {task.metric}{lower}", "score", task.n, task.base, cells)


def _row(
    name: str,
    unit: Unit,
    n: int,
    base: float,
    cells: Iterable[tuple[float, float, tuple[float, float]]],
) -> Row:
    """`cells`: of each edit the value, its difference from the base, and the interval of that."""
    edits = [Cell(value=value, difference=change, ci95=ends) for value, change, ends in cells]
    return Row(name=name, unit=unit, n=n, base=base, edits=edits)


def _points(reports: Sequence[Report]) -> list[Point]:
    drawn = [report.trade_off.points for report in reports if report.trade_off]
    return [drawn[0][0], *(points[1] for points in drawn)] if drawn else []
