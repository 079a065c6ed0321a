"""What an edit costs, as figures of a report: benchmarks, and loss on held-out text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evals.measure.differences import HeldOut, Metric
from evals.report.values import format_p, make_figure, make_mean, make_value
from surgery.record.manifest import Line, Word
from surgery.record.report import EditValue, Figure


class TaskResult(Metric):
    """A task: the figures of its main metric, and in `metrics` those of all metrics."""

    metric: Word
    metrics: dict[Word, Metric]
    description: Line | None = None
    num_fewshot: int
    batch_size: int
    version: Word | None = None


_METRICS = {
    "acc": "the share of right answers",
    "acc_norm": "the share of right answers, with choices compared by likelihood per character",
    "perplexity": "e to the power of the mean loss",
    "word_perplexity": "e to the power of the mean loss per word",
    "byte_perplexity": "e to the power of the mean loss per byte",
    "bits_per_byte": "the mean loss per byte, in bits",
}
"""What lm-eval's names of metrics mean."""


def list_costs(
    tasks: Sequence[Mapping[str, TaskResult]], texts: Sequence[HeldOut]
) -> Iterator[Figure]:
    """What the edits cost: benchmarks, by each of their metrics, and loss on held-out text."""
    for name in tasks[0] if tasks else ():
        scored = [some[name] for some in tasks if name in some]
        if len(scored) < len(tasks):
            continue
        first = scored[0]
        yield _make_task(name, first.metric, scored, first)
        for metric in (one for one in first.metrics if one != first.metric):
            others = [one.metrics[metric] for one in scored if metric in one.metrics]
            if len(others) == len(scored):
                yield _make_task(name, metric, others, first)
    if texts:
        yield make_loss("heldout", texts, "cost")


def _make_task(name: str, metric: str, scored: Sequence[Metric], task: TaskResult) -> Figure:
    """Tables show only the main metric of a `task`."""
    first, main = scored[0], metric == task.metric
    lower = "" if first.higher_is_better else ", lower is better"
    meaning = f"{metric} is {_METRICS[metric]}" if metric in _METRICS else ""
    known: dict[str, Any] = {
        "main": main,
        "hint": "; ".join(filter(None, ((task.description or "").rstrip("."), meaning))),
        "dataset_type": name,
        "dataset_name": name,
        "metric": metric,
        "higher_is_better": first.higher_is_better,
    }
    known |= task.model_dump(include={"description", "num_fewshot", "batch_size", "version"})
    key, label = f"task.{name}" if main else f"task.{name} {metric}", f"{name}, {metric}{lower}"
    base, edits = make_value(first.base), [_make_score(one) for one in scored]
    table = "cost" if main else None
    return make_figure(table, key, label, "number", first.n, base, edits, **known)


_DECIDED = {"outcome", "resolution", "test", "drop", "drop_is_relative"}


def _make_score(one: Metric) -> EditValue:
    note = f"{one.verdict}, {format_p(one.p_value)}"
    change, about = (one.difference, one.ci95, one.p_value), one.model_dump(include=_DECIDED)
    return make_value(one.edited, None, change, note, **about)


def make_loss(key: str, texts: Sequence[HeldOut], table: str) -> Figure:
    first, edits = texts[0], []
    for one in texts:
        rise, about = one.difference, one.model_dump(include=_DECIDED)
        note = f"{one.verdict}, {format_p(rise.p_value)}"
        values = (one.edited.mean, one.edited.ci95, (rise.mean, rise.ci95, rise.p_value), note)
        edits.append(make_value(*values, test=rise.test, **about))
    what = "held-out text" if first.kind == "text" else "passages that no model was trained on"
    label, base = f"loss on {what}, nats per token", make_mean(first.base.model_dump())
    known: dict[str, Any] = {"main": table == "cost", "kind": first.kind}
    return make_figure(table, key, label, "nats", first.n, base, edits, **known)
