"""Draws a sweep. `result` is the JSON object of `sweep --json`.

`accuracy`, `abilities`, and `tokens` are the three figures of Menta, Agrawal, and Agarwal (2025),
with all variants and single heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import hypot
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from evals.bounds.pictures import draw_divergence
from evals.drawing import ALONE, LINES, add_block_colors, draw, scatter_by_block
from evals.model_map import draw_map, make_map
from evals.sweep.report import find_best_edits, find_front
from surgery.selection import Selection, parse_selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Edit = Mapping[str, Any]
Value = tuple[float, float]
"""A figure, and half of its 95 % interval, 0 if it has none; or x and y."""
Point = tuple[str, int, float, float]
"""Kind of an edit, its block or number of blocks, and a value."""
PICTURES = ("sweep", "accuracy", "abilities", "tokens", "bounds", "propagation", "model")
_ABILITIES = {
    "language": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "reasoning": {"color": "#d55e00", "marker": "s", "linestyle": "--"},
}
_BEFORE: dict[str, Any] = {"color": "0.5", "linewidth": 0.8}
_TOKENS = {
    "next_token_accuracy": (100, "token accuracy, %\n(after the true tokens)"),
    "completion_entropy": (1, "completion entropy, nats\n(after the true tokens)"),
}
_STAR: dict[str, Any] = {
    "marker": "*", "markersize": 13, "color": "none", "markeredgecolor": "#d55e00",
    "markeredgewidth": 1.2, "linestyle": "none",
    "ecolor": "#d55e00", "elinewidth": 0.8, "capsize": 2,
}  # fmt: skip


def draw_pictures(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws everything that the result has figures for. Returns the files."""
    drawn = draw_sweep(result, folder)
    tasks = list_accuracy_tasks(result)
    if tasks:
        drawn += draw_accuracy(result, tasks, folder)
    if any(_list_rated(result, tasks, ability) for ability in _ABILITIES):
        drawn += draw_abilities(result, tasks, folder)
    if not result["exact_only"]:
        drawn += draw_tokens(result, folder)
    drawn += draw_units(result, folder)
    if "bounds" in result:
        drawn += draw_divergence(result["bounds"], folder, model=result["model"])
    return drawn


def draw_sweep(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """`sweep`: extraction, and held-out loss if it was measured, of one block alone.

    Beside it the same for the last blocks together.
    """
    base, edits, last = result["base"], result["edits"], result["num_blocks"] - 1
    alone = [(edit["blocks"][0], edit) for edit in edits if edit["kind"] == "block"]
    columns = {"block": ("one block alone", alone)}
    if any(edit["kind"] == "last" for edit in edits):
        kinds = ("block", "last")
        ends = [e for e in edits if e["kind"] in kinds and e["blocks"][-1] == last]
        some = sorted(((len(e["blocks"]), e) for e in ends), key=lambda pair: pair[0])
        columns["number of blocks"] = "the last blocks together", some
    figures: dict[str, Callable[[Edit], float]]
    figures = {"recited word for word, %": lambda edit: 100 * edit["exact_match"]}
    if base["heldout_loss"] is not None:
        label = "rise of held-out loss,\nnats per token"
        figures[label] = lambda edit: edit["heldout_loss"] - base["heldout_loss"]
    variants = list(dict.fromkeys(edit["variant"] for edit in edits))

    def paint(figure: Figure) -> None:
        shape = len(figures), len(columns)
        grid = figure.subplots(*shape, sharex="col", sharey="row", squeeze=False)
        for row, (ylabel, value) in zip(grid, figures.items(), strict=True):
            for axes, (xlabel, (_, some)) in zip(row, columns.items(), strict=True):
                axes.axhline(value(base), label="unedited", **_BEFORE)
                for variant in variants:
                    points = [("block", x, value(e), 0) for x, e in some if e["variant"] == variant]
                    _draw_line(axes, points, {"label": variant, **LINES[variant]})
                axes.set(xlabel=xlabel, ylabel=ylabel)
                axes.label_outer()
        for axes, (title, _) in zip(grid[0], columns.values(), strict=True):
            axes.set(title=title, ylim=(-3, 103))

    title = f"{result['model']}, attention replaced ({', '.join(variants)}), n = {result['n']}"
    size = (1 + 3.25 * len(columns), 1.6 + 2.1 * len(figures))
    return draw(paint, folder, "sweep", title=title, size=size)


def draw_accuracy(result: Mapping[str, Any], tasks: Sequence[str], folder: Path) -> list[Path]:
    """`accuracy`: exact match against the accuracy on each benchmark, a point for each block.

    A row of panels for each variant.
    """
    variants, base, blocks = _list_variants(result), result["base"], result["num_blocks"]
    shape = len(variants), len(tasks)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(*shape, sharex="col", sharey=True, squeeze=False)
        for row, variant in zip(grid, variants, strict=True):
            for axes, task in zip(row, tasks, strict=True):
                axes.errorbar(
                    100 * base["tasks"][task]["value"],
                    100 * base["exact_match"],
                    xerr=_find_usual_error(result, task),
                    label="unedited; bar: the median 95 %\ninterval of a difference from it",
                    zorder=5,
                    **_STAR,
                )

                def place(edit: Edit, task: str = task) -> Value | None:
                    value = edit["tasks"][task]["value"]
                    return None if value is None else (100 * value, 100 * edit["exact_match"])

                points = _list_points(result, variant, place)
                for kind in ALONE:
                    some = [(x, y, block) for found, block, x, y in points if found == kind]
                    scatter_by_block(axes, some, blocks, kind)
                metric = base["tasks"][task]["metric"]
                axes.set(xlabel=f"{task}, {metric}, %", ylabel=f"{variant}\nexact match, %")
                axes.label_outer()
        grid[0, 0].set_ylim(-4, 104)
        add_block_colors(figure, grid.flat, blocks)

    size = (1.4 + 3.0 * len(tasks), 1.2 + 2.3 * len(variants))
    return draw(paint, folder, "accuracy", title=_write_title(result), size=size)


def draw_abilities(result: Mapping[str, Any], tasks: Sequence[str], folder: Path) -> list[Path]:
    """`abilities`: by block, how much of its accuracy the model loses, by kind of task."""
    ylabel = "relative fall of accuracy, %\n(95 % intervals)"
    variants = _list_variants(result)
    columns, rows = min(2, len(variants)), -(-len(variants) // 2)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(variants) :]:
            axes.set_axis_off()
        for variant, axes in zip(variants, grid.flat, strict=False):
            axes.set(title=variant, xlabel="block", ylabel=ylabel)
            axes.label_outer()
            axes.axhline(0, **_BEFORE)
            for ability, style in _ABILITIES.items():
                rated = _list_rated(result, tasks, ability)
                if rated:
                    label = f"{ability} ({', '.join(rated)})"
                    points = _list_points(result, variant, _make_fall(result, rated))
                    _draw_line(axes, points, {"label": label, **style})

    size = (1.2 + 3.4 * columns, 1.3 + 2.2 * rows)
    return draw(paint, folder, "abilities", title=_write_title(result), size=size)


def draw_tokens(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """`tokens`: token accuracy and completion entropy by block, a line for each variant."""

    def paint(figure: Figure) -> None:
        grid = figure.subplots(1, 2, sharex=True)
        for axes, (key, (scale, label)) in zip(grid, _TOKENS.items(), strict=True):
            axes.axhline(scale * result["base"][key], label="unedited", **_BEFORE)

            def value(edit: Edit, key: str = key, scale: int = scale) -> Value:
                return scale * edit[key], 0.0

            for variant in _list_variants(result):
                points = _list_points(result, variant, value)
                _draw_line(axes, points, {"label": variant, **LINES[variant]})
            axes.set(xlabel="block", ylabel=label)

    return draw(paint, folder, "tokens", title=_write_title(result), size=(8.0, 3.4))


def draw_units(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """`model`: what every head is worth and costs, as estimated or else as measured.

    The front of the estimates is outlined, or the best measured edit. Draws nothing where only
    whole blocks were measured, which `sweep` shows.
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
        alone = [edit for edit in result["edits"] if edit["kind"] in ALONE]
        if result["exact_only"] or all(edit["kind"] == "block" for edit in alone):
            return []
        units = {
            parse(one)[0]: (100 * (base["exact_match"] - one["exact_match"]), one["heldout_kl"])
            for one in alone
        }
        chosen = [part for one in find_best_edits(result) for part in parse(one)]
        text = f"{result['n']} passages; outlined: the best edit"
    found = make_map(units, *size, measured="estimates" not in result)
    assert found is not None
    return draw_map(found, chosen, folder, f"{result['model']}, one edit at a time, {text}")


def list_accuracy_tasks(result: Mapping[str, Any]) -> list[str]:
    """Tasks whose metric is an accuracy: a share, and the higher the better."""
    tasks = result.get("tasks", {})
    return [name for name, task in tasks.items() if task["share"] and task["higher_is_better"]]


def _list_points(
    result: Mapping[str, Any], variant: str, value: Callable[[Edit], Value | None]
) -> list[Point]:
    """The edits of one block, group, or head in a variant that have the value."""
    some = [e for e in result["edits"] if e["kind"] in ALONE and e["variant"] == variant]
    found = ((e["kind"], e["blocks"][0], value(e)) for e in some)
    return [(kind, block, *pair) for kind, block, pair in found if pair is not None]


def _draw_line(axes: Axes, points: Sequence[Point], style: dict[str, Any]) -> None:
    """A line through the blocks, with intervals, and a small point for each group and head."""
    for kind, label in ALONE.items():
        some = [point for point in points if point[0] == kind]
        if not some:
            continue
        _, at, values, errors = zip(*some, strict=True)
        if kind == "block":
            bars = errors if any(errors) else None
            axes.errorbar(at, values, bars, **{"markersize": 4, "elinewidth": 0.5, **style})
        else:
            mark = {"s": 4} if kind == "head" else {"s": 8, "marker": "D"}
            axes.scatter(at, values, label=label, color=style["color"], alpha=0.6, **mark)
    axes.locator_params(axis="x", integer=True)


def _find_usual_error(result: Mapping[str, Any], task: str) -> float:
    """Half of the median interval of a difference, in percent."""
    intervals = (edit["tasks"][task]["ci95"] for edit in result["edits"])
    widths = [float(high - low) for low, high in filter(None, intervals)]
    return 50 * median(widths) if widths else 0.0


def _make_fall(result: Mapping[str, Any], tasks: list[str]) -> Callable[[Edit], Value | None]:
    """Edit → the mean over tasks of (base - edited) / base, in percent.

    And half of its 95 % interval: the documents of different tasks are independent.
    """
    base = result["base"]["tasks"]

    def fall(edit: Edit) -> Value | None:
        found = [(edit["tasks"][task], base[task]["value"]) for task in tasks]
        if any(one["value"] is None for one, _ in found):
            return None
        falls = [-100 * one["difference"] / before for one, before in found]
        halves = [50 * (one["ci95"][1] - one["ci95"][0]) / before for one, before in found]
        return float(mean(falls)), float(hypot(*halves)) / len(halves)

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
