"""Several edits of one base, measured in the same way: a column for each, a row for each figure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from evals.evaluation.evaluation import Evaluation
from evals.evaluation.files import write_evaluation
from evals.evaluation.page import side_by_side_pages
from evals.evaluation.report import Point, Report
from surgery.output import known_by, write_lines
from surgery.record.manifest import UNLISTED, Record

PAGE = "side-by-side.html"
FILES = ("side-by-side.json", PAGE, "side-by-side.md")
SCHEMA: Literal[1] = 1
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

    schema_version: Literal[1] = SCHEMA
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
        write_lines(folder / name, text.splitlines())
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
    first = reports[0]
    tests = [report.extraction for report in reports if report.extraction]
    if tests:
        yield Row(
            name="recited word for word",
            unit="share",
            n=tests[0]["n"],
            base=tests[0]["baseline"]["exact_match"]["rate"],
            edits=[
                Cell(
                    value=test["exact_match"]["rate"],
                    difference=test["paired"]["exact_match_difference"]["value"],
                    ci95=test["paired"]["exact_match_difference"]["ci95"],
                )
                for test in tests
            ],
        )
    audits = [report.audit.rated for report in reports if report.audit]
    for tried in zip(*audits, strict=True):
        yield Row(
            name=f"recovered by {tried[0].name}",
            unit="share",
            n=tried[0].edited.n,
            base=tried[0].base.rate,
            edits=[
                Cell(value=one.edited.rate, difference=one.paired.difference, ci95=one.paired.ci95)
                for one in tried
            ],
        )
    texts = [report.heldout for report in reports if report.heldout]
    if texts:
        yield Row(
            name="held-out loss, nats per token",
            unit="nats",
            n=texts[0].n,
            base=texts[0].base.mean,
            edits=[
                Cell(
                    value=one.edited.mean, difference=one.difference.mean, ci95=one.difference.ci95
                )
                for one in texts
            ],
        )
    for name, task in first.tasks.items():
        lower = "" if task.higher_is_better else ", lower is better"
        yield Row(
            name=f"{name}, {task.metric}{lower}",
            unit="score",
            n=task.n,
            base=task.base,
            edits=[
                Cell(value=one.edited, difference=one.difference, ci95=one.ci95)
                for one in (report.tasks[name] for report in reports)
            ],
        )


def _points(reports: Sequence[Report]) -> list[Point]:
    drawn = [report.trade_off.points for report in reports if report.trade_off]
    return [drawn[0][0], *(points[1] for points in drawn)] if drawn else []
