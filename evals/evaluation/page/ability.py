"""What the models can do, as it is shown: benchmarks and held-out loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evals.evaluation.page.drawings import Axis, Whisker, nice_axis
from evals.evaluation.page.figures import Figure, Interval, Node


@dataclass(frozen=True)
class TaskRow:
    """One line of the benchmark table. `whisker` is None where the scale is the task's own."""

    name: str
    metric: Figure
    n: Figure
    base: Figure
    edited: Figure
    difference: Interval
    p_value: Figure
    verdict: Figure
    outcome: str
    whisker: Whisker | None
    lower_is_better: bool


def digits_of(task: Node) -> int:
    """Decimals that show a difference of the size that matters, for scores and perplexities."""
    largest = max(abs(task.value["base"]), abs(task.value["edited"]))
    return next((digits for digits, high in ((3, 10), (2, 100), (1, 1_000)) if largest < high), 0)


def tasks_of(tasks: Node) -> dict[str, Any]:
    """`tasks`: the report's, at least one. Accuracies share one picture; others have none."""
    values = [task.value for _, task in tasks.items()]
    drawn = [number for task in values if not _own_scale(task) for number in task["ci95"]]
    axis = nice_axis(drawn, about=0.0, margin=8) if drawn else None
    return {
        "rows": [_task(name, task, axis) for name, task in tasks.items()],
        "ticks": [] if axis is None else axis.named(f"+.{axis.digits}f"),
        "zero": None if axis is None else axis.x(0.0),
    }


def _own_scale(task: dict[str, Any]) -> bool:
    """Whether a task's difference cannot stand on the axis of accuracies."""
    return task["drop_is_relative"] or not all(0 <= task[part] <= 1 for part in ("base", "edited"))


def _task(name: str, task: Node, axis: Axis | None) -> TaskRow:
    digits = digits_of(task)
    difference = task.interval("signed", digits, middle="difference")
    drawn = axis is not None and not _own_scale(task.value)
    return TaskRow(
        name,
        task["metric"].text(),
        task["n"].count(),
        task["base"].number(digits),
        task["edited"].number(digits),
        difference,
        task["p_value"].p_value(),
        task["verdict"].text(),
        task.value["outcome"],
        axis.whisker(difference.values) if drawn and axis is not None else None,
        not task.value["higher_is_better"],
    )


def heldout_of(node: Node) -> dict[str, Any]:
    """`node`: the report's `heldout`."""
    return {
        "kind": node["kind"].text(),
        "n": node["n"].count(),
        "base": node["base"].interval("number"),
        "edited": node["edited"].interval("number"),
        "difference": node["difference"].interval("signed"),
        "p_value": node["difference"]["p_value"].p_value(),
        "verdict": node["verdict"].text(),
        "outcome": node.value["outcome"],
    }
