"""lm-eval tasks over a few local rows: a choice, a continuation and whole texts."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ("fox", "dog", "box", "jugs", "lazy dog", "value", "return", "five")
ROWS = [
    {
        "context": f"the quick brown {word}",
        "choices": [" jumps", " over", f" {word}", " tokenization"],
        "answer": index % 4,
        "target": " jumps over",
        "text": f"def first(values): return {word}, and {index} more",
    }
    for index, word in enumerate(WORDS * 4)  # as many as a resampled interval needs
]

_HEAD = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
metadata:
  version: 3
"""
_KINDS = {
    "choice": """
output_type: multiple_choice
doc_to_text: context
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "continuation": """
output_type: loglikelihood
doc_to_text: context
doc_to_target: target
target_delimiter: ""
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "whole": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
}
NAMES = tuple(f"local_{kind}" for kind in _KINDS)


def write_tasks(folder: Path, rows: list[dict] = ROWS) -> Path:
    """A folder for --include-path with the tasks `NAMES`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind, body in _KINDS.items():
        text = _HEAD.format(name=f"local_{kind}", data=data) + body
        (folder / f"local_{kind}.yaml").write_text(text)
    return folder
