"""Draws a sweep. `result` is the JSON object of `sweep --json`.

`accuracy`, `abilities`, and `tokens` are the three figures of Menta, Agrawal, and Agarwal (2025),
with all variants and single heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import hypot
from pathlib import Path
from statistics import mean, median
from typing import Any

from evals.report.charts.chart import Chart
from evals.report.charts.front import BlockPoint, FrontPanel, draw_front
from evals.report.charts.lines import LinePanel, draw_lines
from evals.report.charts.panels import Point, Series
from evals.report.model_map import chart_map, make_map
from evals.report.sweep import find_best_edits, find_front
from surgery.selection import Selection, parse_selection

Edit = Mapping[str, Any]
Value = Callable[[Edit], Sequence[float]]
"""Edit → a figure, and both ends of its interval if it has one; nothing if it has no figure."""
PICTURES = ("sweep", "accuracy", "abilities", "tokens", "model")
_ABILITIES = ("language", "reasoning")
_ALONE = ("block", "group", "head")
_TOKENS = {
    "next_token_accuracy": (100, "token accuracy, %\n(after the true tokens)"),
    "completion_entropy": (1, "completion entropy, nats\n(after the true tokens)"),
}


def draw_pictures(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws everything that the result has figures for. Returns the files."""
    charts: dict[str, Chart | None] = {"sweep": chart_sweep(result)}
    tasks = list_accuracy_tasks(result)
    if tasks:
        charts["accuracy"] = chart_accuracy(result, tasks)
    if any(_list_rated(result, tasks, ability) for ability in _ABILITIES):
        charts["abilities"] = chart_abilities(result, tasks)
    if not result["exact_only"]:
        charts["tokens"] = chart_tokens(result)
    charts["model"] = chart_units(result)
    return [path for name, one in charts.items() if one for path in one.save(folder, name)]


def chart_sweep(result: Mapping[str, Any]) -> Chart:
    """Extraction, and held-out loss if measured, of one block alone and of the last ones."""
    base, edits, last = result["base"], result["edits"], result["num_blocks"] - 1
    columns = {"one block alone": [edit for edit in edits if edit["kind"] == "block"]}
    if any(edit["kind"] == "last" for edit in edits):
        ends = [one for one in edits if one["kind"] in ("block", "last")]
        columns["the last blocks together, how many"] = [e for e in ends if e["blocks"][-1] == last]
    rows: dict[str, Value] = {"recited word for word, %": lambda edit: [100 * edit["exact_match"]]}
    if base["heldout_loss"] is not None:
        before, label = base["heldout_loss"], "rise of held-out loss,\nnats per token"
        rows[label] = lambda edit: [edit["heldout_loss"] - before]
    panels = [
        [
            LinePanel(
                xlabel,
                ylabel,
                _list_series(some, value, place=len if "many" in xlabel else min),
                level=value(base)[0],
                whole=ylabel.endswith("%"),
            )
            for xlabel, some in columns.items()
        ]
        for ylabel, value in rows.items()
    ]
    variants = ", ".join(dict.fromkeys(edit["variant"] for edit in edits))
    title = f"{result['model']}, attention replaced ({variants}), n = {result['n']}"
    return draw_lines(title, panels)


def chart_accuracy(result: Mapping[str, Any], tasks: Sequence[str]) -> Chart:
    """Exact match against the accuracy on each benchmark, a point for each block.

    A row of panels for each variant.
    """
    base = result["base"]

    def make_panel(variant: str, task: str) -> FrontPanel:
        blocks = [
            BlockPoint(edit["kind"], edit["blocks"][0], 100 * value, 100 * edit["exact_match"])
            for edit in _list_alone(result, variant)
            if (value := edit["tasks"][task]["value"]) is not None
        ]
        x, half = 100 * base["tasks"][task]["value"], _find_usual_error(result, task)
        there = Point(x, 100 * base["exact_match"], (x - half, x + half) if half else ())
        label = "unedited; bar: the median 95 %\ninterval of a difference from it"
        before, metric = Series(label, [there], "chosen"), base["tasks"][task]["metric"]
        ylabel = f"{variant}\nexact match, %"
        return FrontPanel(f"{task}, {metric}, %", ylabel, [before], blocks=blocks)

    rows = [[make_panel(variant, task) for task in tasks] for variant in _list_variants(result)]
    return draw_front(_write_title(result), rows, num_blocks=result["num_blocks"])


def chart_abilities(result: Mapping[str, Any], tasks: Sequence[str]) -> Chart:
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


def chart_tokens(result: Mapping[str, Any]) -> Chart:
    """Token accuracy and completion entropy by block, a line for each variant."""
    alone, panels = _list_alone(result), []
    for key, (scale, label) in _TOKENS.items():

        def value(edit: Edit, key: str = key, scale: int = scale) -> list[float]:
            return [scale * edit[key]]

        level = scale * result["base"][key]
        panels.append(LinePanel("block", label, _list_series(alone, value), level=level))
    return draw_lines(_write_title(result), [panels])


def chart_units(result: Mapping[str, Any]) -> Chart | None:
    """What every head is worth and costs, as estimated or else as measured.

    The front of the estimates is outlined, or the best measured edit. None where only whole blocks
    were measured, which `chart_sweep` shows.
    """
    base, size = result["base"], (result["num_blocks"], result["num_heads"])

    def parse(edit: Edit) -> Selection:
        return parse_selection(edit["spec"], edit["variant"], *size)

    if "estimates" in result:
        units = {parse(one)[0]: (one["margin"], one["kl"]) for one in result["estimates"]}
        chosen = [part for one in find_front(result["estimates"]) for part in parse(one)]
        on = result["estimated_on"]
        text = f"{on['windows']} windows and {on['passages']} passages; outlined: the front"
    else:
        alone = [edit for edit in result["edits"] if edit["kind"] in _ALONE]
        if result["exact_only"] or all(edit["kind"] == "block" for edit in alone):
            return None
        units = {
            parse(one)[0]: (100 * (base["exact_match"] - one["exact_match"]), one["heldout_kl"])
            for one in alone
        }
        chosen = [part for one in find_best_edits(result) for part in parse(one)]
        text = f"{result['n']} passages; outlined: the best edit"
    found = make_map(units, *size, measured="estimates" not in result)
    assert found is not None
    return chart_map(found, chosen, f"{result['model']}, one edit at a time, {text}")


def list_accuracy_tasks(result: Mapping[str, Any]) -> list[str]:
    """Tasks whose metric is an accuracy: a share, and the higher the better."""
    tasks = result.get("tasks", {})
    return [name for name, task in tasks.items() if task["share"] and task["higher_is_better"]]


def _list_alone(result: Mapping[str, Any], variant: str = "") -> list[Edit]:
    """The edits of one block, group, or head; in a variant, if you name one."""
    alone = [edit for edit in result["edits"] if edit["kind"] in _ALONE]
    return [edit for edit in alone if variant in ("", edit["variant"])]


def _list_series(
    edits: Sequence[Edit],
    value: Value,
    label: str = "",
    place: Callable[[Sequence[int]], int] = min,
) -> list[Series]:
    """A series for each variant, of blocks, of groups, and of heads. `place`: blocks → x."""
    found: dict[tuple[str, str], list[Point]] = {}
    for edit in sorted(edits, key=lambda edit: place(edit["blocks"])):
        some = edit["variant"], edit["kind"] if edit["kind"] in _ALONE else "block"
        for middle, *ends in filter(None, [value(edit)]):
            found.setdefault(some, []).append(Point(place(edit["blocks"]), middle, (), ends))
    return [Series(label or name, points, kind=kind) for (name, kind), points in found.items()]


def _find_usual_error(result: Mapping[str, Any], task: str) -> float:
    """Half of the median interval of a difference, in percent."""
    intervals = (edit["tasks"][task]["ci95"] for edit in result["edits"])
    widths = [float(high - low) for low, high in filter(None, intervals)]
    return 50 * median(widths) if widths else 0.0


def _make_fall(result: Mapping[str, Any], tasks: list[str]) -> Value:
    """Edit → the mean over tasks of (base - edited) / base, in percent, and its 95 % interval.

    The documents of different tasks are independent.
    """
    base = result["base"]["tasks"]

    def fall(edit: Edit) -> list[float]:
        found = [(edit["tasks"][task], base[task]["value"]) for task in tasks]
        if any(one["value"] is None for one, _ in found):
            return []
        middle = mean(-100 * one["difference"] / before for one, before in found)
        halves = [50 * (one["ci95"][1] - one["ci95"][0]) / before for one, before in found]
        half = hypot(*halves) / len(halves)
        return [middle, middle - half, middle + half]

    return fall


def _list_rated(result: Mapping[str, Any], tasks: Sequence[str], ability: str) -> list[str]:
    """Tasks of an ability that have something to lose."""
    base = result["base"].get("tasks", {})
    some = [task for task in tasks if result["tasks"][task]["ability"] == ability]
    return [task for task in some if base[task]["value"] > 0]


def _list_variants(result: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(e["variant"] for e in result["edits"] if e["kind"] == "block"))


def _write_title(result: Mapping[str, Any]) -> str:
    return f"{result['model']}, attention of one block replaced, {result['n']} passages"
