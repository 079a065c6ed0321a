"""The three figures of Menta, Agrawal and Agarwal (2025), with all variants and single heads.

`result` is the JSON object of `sweep`. What was not measured is not drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import hypot
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from evals.drawing import add_legend, by_depth, draw, line_of, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Edit = Mapping[str, Any]
Value = tuple[float, float]
"""A figure, and half of its 95 % interval; 0 where it has none."""
PAPER = ("accuracy", "abilities", "tokens")
"""Names of the pictures."""
_ABILITIES = {"language": ("#000000", "o", "-"), "reasoning": ("#d55e00", "s", "--")}
_TOKENS = {
    "next_token_accuracy": (100, "token accuracy, %\n(after the true tokens)"),
    "completion_entropy": (1, "completion entropy, nats\n(after the true tokens)"),
}


def draw_paper(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws what the result has figures for; returns the files."""
    drawn: list[Path] = []
    shares = _shares(result)
    if shares:
        drawn += _draw_accuracy(result, shares, folder)
    if any(_of(result, shares, ability) for ability in _ABILITIES):
        drawn += _draw_abilities(result, shares, folder)
    if not result["exact_only"]:
        drawn += _draw_tokens(result, folder)
    return drawn


def _draw_accuracy(result: Mapping[str, Any], shares: list[str], folder: Path) -> list[Path]:
    """`accuracy.png`: exact match against the accuracy on each benchmark, a point for each block.

    A row of panels for each variant.
    """
    variants, base = _variants(result), result["base"]
    rows, columns = len(variants), len(shares)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharex="col", sharey=True, squeeze=False)
        for row, variant in zip(grid, variants, strict=True):
            for axes, task in zip(row, shares, strict=True):
                axes.errorbar(
                    100 * base["tasks"][task]["value"],
                    100 * base["exact_match"],
                    xerr=_usual_error(result, task),
                    label="unedited, and the 95 % interval of a difference from it (median)",
                    zorder=5,
                    **_STAR,
                )
                for kind, marker, label in _KINDS:
                    some = [e for e in _alone(result, kind, variant) if _known(e, task)]
                    points = by_depth(
                        axes,
                        [(100 * e["tasks"][task]["value"], 100 * e["exact_match"]) for e in some],
                        [e["blocks"][0] for e in some],
                        result["num_blocks"],
                        marker=marker,
                        label=label if some else "_nothing",
                        numbered=kind == "block",
                    )
            row[0].set_ylabel(f"{variant}\nexact match, %")
        grid[0, 0].set_ylim(-4, 104)
        for axes, task in zip(grid[-1], shares, strict=True):
            axes.set_xlabel(f"{task}, {base['tasks'][task]['metric']}, %")
        figure.colorbar(points, ax=grid, label="block", shrink=0.8 if rows > 1 else 1.0)
        add_legend(figure)

    size = (1.4 + 3.0 * columns, 1.2 + 2.3 * rows)
    return draw(paint, folder, "accuracy", title=_title(result), size=size)


def _draw_abilities(result: Mapping[str, Any], shares: list[str], folder: Path) -> list[Path]:
    """`abilities.png`: by block, how much of its accuracy the model loses, by kind of task."""
    variants = _variants(result)
    columns = min(2, len(variants))
    rows = -(-len(variants) // columns)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(variants) :]:
            axes.set_axis_off()
        for axes, variant in zip(grid.flat, variants, strict=False):
            axes.set_title(variant)
            axes.axhline(0, color="0.5", linewidth=0.8)
            for ability, (color, marker, line) in _ABILITIES.items():
                tasks = _of(result, shares, ability)
                if tasks:
                    label = f"{ability} ({', '.join(tasks)})"
                    style = {"color": color, "marker": marker, "linestyle": line, "label": label}
                    _by_block(axes, result, variant, _falls(result, tasks), style)
            whole_numbers(axes)
        for axes in grid[:, 0]:
            axes.set_ylabel("relative fall of accuracy, %\n(95 % intervals)")
        for axes in grid[-1]:
            axes.set_xlabel("block")
        add_legend(figure)

    size = (1.2 + 3.4 * columns, 1.3 + 2.2 * rows)
    return draw(paint, folder, "abilities", title=_title(result), size=size)


def _draw_tokens(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """`tokens.png`: token accuracy and completion entropy by block, a line for each variant."""
    base = result["base"]

    def paint(figure: Figure) -> None:
        grid = figure.subplots(1, 2, sharex=True)
        for axes, (key, (scale, label)) in zip(grid, _TOKENS.items(), strict=True):
            axes.axhline(scale * base[key], color="0.5", linewidth=0.8, label="unedited")

            def value(edit: Edit, key: str = key, scale: int = scale) -> Value:
                return scale * edit[key], 0.0

            for variant in _variants(result):
                _by_block(axes, result, variant, value, {**line_of(variant), "label": variant})
            axes.set(xlabel="block", ylabel=label)
            whole_numbers(axes)
        add_legend(figure)

    return draw(paint, folder, "tokens", title=_title(result), size=(8.0, 3.4))


_STAR: dict[str, Any] = {
    "marker": "*", "markersize": 13, "color": "none", "markeredgecolor": "#d55e00",
    "markeredgewidth": 1.2, "linestyle": "none",
    "ecolor": "#d55e00", "elinewidth": 0.8, "capsize": 2,
}  # fmt: skip
_KINDS = (("head", "o", "one head alone"), ("block", "s", "one block alone"))


def _by_block(
    axes: Axes,
    result: Mapping[str, Any],
    variant: str,
    value: Callable[[Edit], Value | None],
    style: dict[str, Any],
) -> None:
    """A line through the blocks, with intervals, and a small point for each head."""
    for kind, _, label in _KINDS:
        some = [(e["blocks"][0], value(e)) for e in _alone(result, kind, variant)]
        known = [(block, *found) for block, found in some if found is not None]
        if not known:
            continue
        at, values, errors = zip(*known, strict=True)
        if kind == "block":
            bars = errors if any(errors) else None
            axes.errorbar(at, values, bars, markersize=4, elinewidth=0.5, **style)
        else:
            axes.scatter(at, values, s=4, color=style["color"], alpha=0.6, label=label)


def _usual_error(result: Mapping[str, Any], task: str) -> float:
    """Half of the median interval of a difference, in percent."""
    intervals = (edit["tasks"][task]["ci95"] for edit in result["edits"])
    widths = [float(high - low) for low, high in filter(None, intervals)]
    return 50 * median(widths) if widths else 0.0


def _falls(result: Mapping[str, Any], tasks: list[str]) -> Callable[[Edit], Value | None]:
    """Edit → the mean over tasks of (base - edited) / base, in percent.

    And half of its 95 % interval, as the documents of different tasks are independent.
    """
    base = result["base"]["tasks"]

    def fall(edit: Edit) -> Value | None:
        if not all(_known(edit, task) for task in tasks):
            return None
        found = [(edit["tasks"][task], base[task]["value"]) for task in tasks]
        falls = [-100 * one["difference"] / before for one, before in found]
        halves = [50 * (one["ci95"][1] - one["ci95"][0]) / before for one, before in found]
        return float(mean(falls)), float(hypot(*halves)) / len(halves)

    return fall


def _of(result: Mapping[str, Any], shares: list[str], ability: str) -> list[str]:
    """Tasks of an ability that have something to lose."""
    return [
        task
        for task in shares
        if result["tasks"][task]["ability"] == ability
        and result["base"]["tasks"][task]["value"] > 0
    ]


def _shares(result: Mapping[str, Any]) -> list[str]:
    """Tasks whose metric is an accuracy: a share, and the higher the better."""
    tasks = result.get("tasks", {})
    return [name for name, task in tasks.items() if task["share"] and task["higher_is_better"]]


def _known(edit: Edit, task: str) -> bool:
    return edit["tasks"][task]["value"] is not None


def _alone(result: Mapping[str, Any], kind: str, variant: str) -> Iterator[Edit]:
    return (e for e in result["edits"] if e["kind"] == kind and e["variant"] == variant)


def _variants(result: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(e["variant"] for e in result["edits"] if e["kind"] == "block"))


def _title(result: Mapping[str, Any]) -> str:
    return f"{result['model']}, attention of one block replaced, {result['n']} passages"
