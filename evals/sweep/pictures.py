"""Pictures of what a sweep and a search found. `result` is the JSON object of either command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.drawing import add_legend, draw, line_of, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Edit = Mapping[str, Any]
_TITLES = {"block": "one block alone", "last": "the last blocks together"}
_EXACT = "recited word for word, %"
_LINEAR = 0.01  # nats: below, the axis is linear, so that it holds 0 as well
_KL = "KL divergence on held-out text, nats per token"
_RISE = "rise of held-out loss,\nnats per token"


def draw_sweep(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Extraction, and held-out loss where it was measured, by block: `sweep.png`, `sweep.svg`.

    The figure of Menta, Agrawal and Agarwal (2025), with a line for every variant; beside it the
    same for the last blocks together.
    """
    base, edits = result["base"], result["edits"]
    variants = list(dict.fromkeys(edit["variant"] for edit in edits))
    columns = {"block": [edit for edit in edits if edit["kind"] == "block"]}
    if any(edit["kind"] == "last" for edit in edits):
        columns["last"] = _last(edits, result["num_blocks"])
    rows = 1 if base["heldout_loss"] is None else 2

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, len(columns), sharex="col", sharey="row", squeeze=False)
        for axes, (kind, some) in zip(grid.T, columns.items(), strict=True):
            axes[0].set_title(_TITLES[kind])
            axes[0].axhline(100 * base["exact_match"], color="0.5", linewidth=0.8, label="unedited")
            for variant in variants:
                chosen = [edit for edit in some if edit["variant"] == variant]
                at = [
                    edit["blocks"][0] if kind == "block" else len(edit["blocks"]) for edit in chosen
                ]
                exact = [100 * edit["exact_match"] for edit in chosen]
                axes[0].plot(at, exact, label=variant, **line_of(variant))
                if rows == 2:
                    axes[1].plot(at, [_rise(edit, base) for edit in chosen], **line_of(variant))
            axes[-1].set_xlabel("block" if kind == "block" else "number of blocks")
            whole_numbers(axes[-1])
        grid[0, 0].set(ylabel=_EXACT, ylim=(-3, 103))
        if rows == 2:
            grid[1, 0].set_ylabel(_RISE)
            grid[1, 0].set_ylim(bottom=0 if min(_rise(e, base) for e in edits) >= 0 else None)
        add_legend(figure)

    title = f"{result['model']}, attention replaced ({', '.join(variants)}), n = {result['n']}"
    size = (1 + 3.25 * len(columns), 1.6 + 2.1 * rows)
    return draw(paint, folder, "sweep", title=title, size=size)


def draw_front(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """The Pareto front of a search: `front.png`, `front.svg`.

    With the chosen edit, where there is one, and that of the deepest blocks: filled as measured on
    the half that was searched, hollow on the half that was held back. What an edit costs is what
    the goal counts: KL divergence under --max-extraction, the rise of held-out loss otherwise.
    """
    base, deep, selected = (result[key] for key in ("base", "deep_blocks", "selected"))
    measure = result["measure"]
    by_kl = "max_extraction" in result["goal"]

    def at(edit: Edit, before: Edit) -> tuple[float, float]:
        cost = float(edit["heldout_kl"]) if by_kl else _rise(edit, before)
        return cost, 100 * edit["recovered"][measure]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for variant in dict.fromkeys(edit["variant"] for edit in result["front"]):
            some = [edit for edit in result["front"] if edit["variant"] == variant]
            cheap, exact = zip(*(at(edit, base) for edit in some), strict=True)
            style = {**line_of(variant), "linestyle": "none"}
            axes.plot(cheap, exact, label=f"Pareto front, {variant}", **style)
        begin = (0.0, 100 * base["recovered"][measure])
        steps = [begin, *(at(edit, base) for edit in result["front"])]
        axes.plot(*zip(*steps, strict=True), drawstyle="steps-post", color="0.6", zorder=1)
        base_back = base["held_back"]
        if deep is not None:
            there = at(deep["held_back"], base_back)
            _pair(axes, at(deep, base), there, "X", f"deep blocks: {_short(deep['spec'])}")
        if selected is not None:
            there = at(result["held_back"], base_back)
            _pair(axes, at(selected, base), there, "*", f"chosen: {_short(selected['spec'])}")
        (limit,) = result["goal"].values()
        style = {"color": "0.4", "linestyle": (0, (4, 3)), "linewidth": 0.8, "label": "goal"}
        if by_kl:
            axes.axhline(100 * limit, **style)
        else:
            axes.axvline(limit, **style)
        axes.set_xscale("symlog", linthresh=_LINEAR)
        axes.autoscale()
        left, right = axes.dataLim.intervalx
        axes.set_xlim(min(left, 0) - _LINEAR / 10, 1.3 * right)
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.set_xlabel(_KL if by_kl else _RISE.replace("\n", " "))
        recovered = _EXACT if measure == "greedy" else f"recovered ({measure}), %"
        axes.set(ylabel=recovered, ylim=(-3, 103))
        axes.legend(loc="upper right")

    names = ", ".join(result["variants"])
    title = f"{result['model']}, search over {result['grain']} ({names}), n = {result['n']}"
    return draw(paint, folder, "front", title=title, size=(7.5, 4.0))


def _pair(
    axes: Axes, here: tuple[float, float], back: tuple[float, float], marker: str, label: str
) -> None:
    """One edit on both halves."""
    style: Any = {"color": "black", "marker": marker, "linestyle": "none", "markersize": 11}
    axes.plot(*here, label=label, zorder=4, **style)
    axes.plot(*back, markerfacecolor="none", label="  on the other half", zorder=5, **style)


def _last(edits: Sequence[Edit], num_blocks: int) -> list[Edit]:
    """The edits of the last k blocks, k ascending; the last one alone is of kind block."""
    ends = [
        edit
        for edit in edits
        if edit["kind"] in ("block", "last") and edit["blocks"][-1] == num_blocks - 1
    ]
    return sorted(ends, key=lambda edit: len(edit["blocks"]))


def _rise(edit: Edit, base: Edit) -> float:
    return float(edit["heldout_loss"] - base["heldout_loss"])


def _short(spec: str) -> str:
    return spec if len(spec) <= 24 else spec[:23] + "…"
