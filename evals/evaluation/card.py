"""Builds what the model card shows of a report."""

from __future__ import annotations

from typing import Any

from evals.evaluation.page import render_measurements
from evals.evaluation.report import EditReport, Report
from surgery.card.facts import make_printable
from surgery.card.metadata import TASK, Measurements


def build_measurements(report: Report) -> Measurements | None:
    """The figures of a report with one edit; None if its base is not the edit's source.

    Partly measured benchmarks are left out, since readers would take them for whole ones.
    """
    (edit,) = report.edits
    if edit.relation != "source":
        return None
    if report.settings.limit is not None:
        edit = edit.model_copy(update={"tasks": {}})
    text = render_measurements(report.model_copy(update={"edits": [edit]}))
    return Measurements(
        f"{text}\nAll figures are in `report.json`.",
        [*_list_benchmarks(edit), *_list_extraction(edit, report.provenance.samples_sha256)],
    )


def _list_benchmarks(edit: EditReport) -> list[dict[str, Any]]:
    return [
        {
            "task_type": TASK,
            "dataset_type": make_printable(name),
            "dataset_name": make_printable(name),
            "dataset_args": {"num_fewshot": task.num_fewshot},
            "metric_type": make_printable(task.metric),
            "metric_value": task.edited,
            "metric_args": {"n": task.n, "before_the_edit": task.base},
        }
        for name, task in edit.tasks.items()
    ]


def _list_extraction(edit: EditReport, sha256: str | None) -> list[dict[str, Any]]:
    found = edit.extraction
    if found is None:
        return []
    lengths = {key: found[key] for key in ("prefix_length", "suffix_length")}
    return [
        {
            "task_type": TASK,
            "task_name": "verbatim extraction",
            "dataset_type": "memorized-passages",
            "dataset_name": "passages of the training data",
            "dataset_args": {**lengths, "samples_sha256": sha256},
            "metric_type": metric,
            "metric_value": found[metric][key],
            "metric_args": {
                "n": found["n"],
                "decoding": "greedy",
                "before_the_edit": found["baseline"][metric][key],
            },
        }
        for metric, key in (("exact_match", "rate"), ("next_token_accuracy", "mean"))
    ]
