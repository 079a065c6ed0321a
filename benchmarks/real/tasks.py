"""Writes lm-eval tasks over local rows: the last word, questions, and the likelier ending."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

_COMMON = {
    "dataset_path": "json",
    "test_split": "test",
    "num_fewshot": 0,
    "metadata": {"version": 1},
}
_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
TASKS = {
    "real_lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity"}, {"metric": "acc"}],
    },
    "real_arc_easy": {**_CHOICE, "doc_to_text": "{{query}}\nAnswer:"},
    "real_endings": {**_CHOICE, "doc_to_text": "{{query}}"},
}
"""`real_endings` has two choices, as PIQA has: the last sentence of a row, or of another row."""

Row = dict[str, object]


def write_tasks(
    lambada: Sequence[Mapping[str, str]], arc_easy: Path, folder: Path, most: int
) -> None:
    """Write a folder for `--include-path`, with the first `most` rows of each."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(lambada[:most])
    rows: dict[str, Sequence[Mapping[str, object]]] = {
        "real_lambada": texts,
        "real_arc_easy": _read(arc_easy)[:most],
        "real_endings": _pair_endings([row["text"] for row in texts]),
    }
    for name, task in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
        files = {"data_files": {"test": str(data.resolve())}}
        whole = {"task": name, "dataset_kwargs": files, **_COMMON, **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")


def _pair_endings(texts: list[str]) -> list[Row]:
    cut = [re.split(r"(?<=[.!?”\"])\s+", text.strip()) for text in texts]
    parts = [(" ".join(some[:-1]), some[-1]) for some in cut if len(some) > 1]
    rows: list[Row] = []
    for number, (query, own) in enumerate(parts):
        choices = [own, parts[(number + 1) % len(parts)][1]]
        gold = number % 2
        rows.append({"query": query, "choices": choices[::-1] if gold else choices, "gold": gold})
    return rows


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
