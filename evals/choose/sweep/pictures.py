"""Draws a sweep.

`accuracy`, `abilities`, and `tokens` are the three figures of Menta, Agrawal, and Agarwal (2025),
with all variants and single heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import hypot
from pathlib import Path
from statistics import mean, median

from evals.choose.grid import GridEdit
from evals.choose.sweep.report import SweepResult
from evals.table.charts.chart import Chart
from evals.table.charts.front import BlockPoint, FrontPanel, draw_front
from evals.table.charts.lines import LinePanel, draw_lines
from evals.table.charts.panels import Point, Series
from surgery.record.measured import BASE, Change

Value = Callable[[str], Sequence[float]]
"""An edit, by name → a figure, and both ends of its interval if it has one; nothing if it has no
figure."""
PICTURES = ("sweep", "accuracy", "abilities", "tokens")
_ABILITIES = ("language", "reasoning")
_ALONE = ("block", "group", "head")
_TOKENS = {
    "next_token_accuracy": (100, "token accuracy, %\n(after the true tokens)"),
    "completion_entropy": (1, "completion entropy, nats\n(after the true tokens)"),
}


def draw_pictures(result: SweepResult, folder: Path) -> list[Path]:
    """Draws everything that the result has figures for. Returns the files."""
    charts: dict[str, Chart | None] = {"sweep": chart_sweep(result)}
    tasks = list_accuracy_tasks(result)
    if tasks:
        charts["accuracy"] = chart_accuracy(result, tasks)
    if any(_list_rated(result, tasks, ability) for ability in _ABILITIES):
        charts["abilities"] = chart_abilities(result, tasks)
    charts["tokens"] = chart_tokens(result)
    return [path for name, one in charts.items() if one for path in one.save(folder, name)]


def chart_sweep(result: SweepResult) -> Chart:
    """Extraction and the rise of the held-out loss, of one block alone and of the last ones."""
    edits, last = result.edits, result.num_blocks - 1
    columns = {"one block alone": [edit for edit in edits if edit.kind == "block"]}
    if any(edit.kind == "last" for edit in edits):
        ends = [one for one in edits if one.kind in ("block", "last")]
        columns["the last blocks together, how many"] = [e for e in ends if e.blocks[-1] == last]
    rows: dict[str, Value] = {
        "recited word for word, %": lambda of: [100 * (result.read("recited", of) or 0.0)],
        "rise of held-out loss,\nnats per token": lambda of: [result.rise(of)],
    }
    panels = [
        [
            LinePanel(
                xlabel,
                ylabel,
                _list_series(some, value, place=len if "many" in xlabel else min),
                level=value(BASE)[0],
                whole=ylabel.endswith("%"),
            )
            for xlabel, some in columns.items()
        ]
        for ylabel, value in rows.items()
    ]
    variants = ", ".join(dict.fromkeys(edit.variant for edit in edits))
    title = f"{result.model.name}, attention replaced ({variants}), n = {result.n}"
    return draw_lines(title, panels)


def chart_accuracy(result: SweepResult, tasks: Sequence[str]) -> Chart:
    """Exact match against the accuracy on each benchmark, a point for each block.

    A row of panels for each variant.
    """

    def read(name: str, of: str) -> float:
        return 100 * (result.read(name, of) or 0.0)

    def make_panel(variant: str, task: str) -> FrontPanel:
        name = f"task.{task}"
        blocks = [
            BlockPoint(
                str(edit.kind), edit.blocks[0], read(name, edit.of), read("recited", edit.of)
            )
            for edit in _list_alone(result, variant)
            if result.read(name, edit.of) is not None
        ]
        x, half = read(name, BASE), _find_usual_error(result, task)
        there = Point(x, read("recited", BASE), (x - half, x + half) if half else ())
        label = "unedited; bar: the median 95 %\ninterval of a difference from it"
        before, metric = Series(label, [there], "chosen"), result.tasks[task]["metric"]
        ylabel = f"{variant}\nexact match, %"
        return FrontPanel(f"{task}, {metric}, %", ylabel, [before], blocks=blocks)

    rows = [[make_panel(variant, task) for task in tasks] for variant in _list_variants(result)]
    return draw_front(_write_title(result), rows, num_blocks=result.num_blocks)


def chart_abilities(result: SweepResult, tasks: Sequence[str]) -> Chart:
    """By block, how much of its accuracy the model loses, by kind of task."""
    panels, ylabel = [], "relative fall of accuracy, %\n(95 % intervals)"
    for variant in _list_variants(result):
        series: list[Series] = []
        for ability in _ABILITIES:
            if rated := _list_rated(result, tasks, ability):
                fall, label = _make_fall(result, rated), f"{ability} ({', '.join(rated)})"
                series += _list_series(_list_alone(result, variant), fall, label)
        panels.append(LinePanel("block", ylabel, series, title=variant, level=0.0))
    return draw_lines(
        _write_title(result), [panels[at : at + 2] for at in range(0, len(panels), 2)]
    )


def chart_tokens(result: SweepResult) -> Chart:
    """Token accuracy and completion entropy by block, a line for each variant."""
    alone, panels = _list_alone(result), []
    for key, (scale, label) in _TOKENS.items():

        def value(of: str, key: str = key, scale: int = scale) -> list[float]:
            return [scale * (result.read(key, of) or 0.0)]

        (level,) = value(BASE)
        panels.append(LinePanel("block", label, _list_series(alone, value), level=level))
    return draw_lines(_write_title(result), [panels])


def list_accuracy_tasks(result: SweepResult) -> list[str]:
    """Tasks whose metric is an accuracy: a share, and the higher the better."""
    return [
        name for name, task in result.tasks.items() if task["share"] and task["higher_is_better"]
    ]


def _list_alone(result: SweepResult, variant: str = "") -> list[GridEdit]:
    """The edits of one block, group, or head; in a variant, if you name one."""
    alone = [edit for edit in result.edits if edit.kind in _ALONE]
    return [edit for edit in alone if variant in ("", edit.variant)]


def _list_series(
    edits: Sequence[GridEdit],
    value: Value,
    label: str = "",
    place: Callable[[Sequence[int]], int] = min,
) -> list[Series]:
    """A series for each variant, of blocks, of groups, and of heads. `place`: blocks → x."""
    found: dict[tuple[str, str], list[Point]] = {}
    for edit in sorted(edits, key=lambda edit: place(edit.blocks)):
        some = edit.variant, str(edit.kind) if edit.kind in _ALONE else "block"
        for middle, *ends in filter(None, [value(edit.of)]):
            found.setdefault(some, []).append(Point(place(edit.blocks), middle, (), ends))
    return [Series(label or name, points, kind=kind) for (name, kind), points in found.items()]


def _find_usual_error(result: SweepResult, task: str) -> float:
    """Half of the median interval of a difference, in percent."""
    changes = [_find_change(result, task, edit.of) for edit in result.edits]
    widths = [
        change.ci95[1] - change.ci95[0] for change in changes if change is not None and change.ci95
    ]
    return 50 * median(widths) if widths else 0.0


def _make_fall(result: SweepResult, tasks: list[str]) -> Value:
    """Edit → the mean over tasks of (base - edited) / base, in percent, and its 95 % interval.

    The documents of different tasks are independent.
    """

    def fall(of: str) -> list[float]:
        changes = [_find_change(result, task, of) for task in tasks]
        before = [result.read(f"task.{task}", BASE) or 1.0 for task in tasks]
        moved, halves = [], []
        for one, value in zip(changes, before, strict=True):
            if one is None or one.ci95 is None:
                return []
            moved.append(-100 * one.difference / value)
            halves.append(50 * (one.ci95[1] - one.ci95[0]) / value)
        middle, half = mean(moved), hypot(*halves) / len(halves)
        return [middle, middle - half, middle + half]

    return fall


def _find_change(result: SweepResult, task: str, of: str) -> Change | None:
    row = result.find(f"task.{task}", of)
    return None if row is None else row.change


def _list_rated(result: SweepResult, tasks: Sequence[str], ability: str) -> list[str]:
    """Tasks of an ability that have something to lose."""
    some = [task for task in tasks if result.tasks[task]["ability"] == ability]
    return [task for task in some if (result.read(f"task.{task}", BASE) or 0.0) > 0]


def _list_variants(result: SweepResult) -> list[str]:
    return list(dict.fromkeys(e.variant for e in result.edits if e.kind == "block"))


def _write_title(result: SweepResult) -> str:
    return f"{result.model.name}, attention of one block replaced, {result.n} passages"
