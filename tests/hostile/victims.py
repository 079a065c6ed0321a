"""Small whole models and texts, for a hostile file to be put among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from checkpoints import neox_config, write_checkpoint
from command_line import Outcome, attn_surgery
from tiny_tokenizer import TEXT, tiny_tokenizer

SIZES = {
    "vocab_size": 512,
    "max_position_embeddings": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "torch_dtype": "float32",
}
LENGTHS = ("--prefix-length", "8", "--suffix-length", "8")


def model(folder: Path, *, tokenizer: bool = True, **options: Any) -> Path:
    """A GPT-NeoX model of 2 blocks and 2 heads, d 64, 512 tokens, 64 positions."""
    config = neox_config(**{**SIZES, **options.pop("config", {})})
    write_checkpoint(folder, config, **options)
    if tokenizer:
        tiny_tokenizer().save_pretrained(folder)
    return folder


def change(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file; it may not be there yet."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


def samples(path: Path, rows: int = 4) -> Path:
    ids = tiny_tokenizer()(TEXT)["input_ids"]
    lines = (json.dumps({"tokens": ids[7 * row : 7 * row + 16]}) for row in range(rows))
    path.write_text("\n".join(lines) + "\n")
    return path


def commands(model: Path, work: Path) -> dict[str, tuple[object, ...]]:
    """Every command that loads a model, on good samples and good text."""
    text = work / "text.txt"
    text.write_text(TEXT * 20)
    good = samples(work / "good.jsonl")
    rest = ("--samples", good, *LENGTHS)
    corpus = ("--corpus", text)
    return {
        "extract": ("extract", model, *rest, "--control", text),
        "collect": ("collect", model, *corpus, *LENGTHS, "--output", work / "found.jsonl"),
        "sweep": ("sweep", model, *rest, *corpus, "--output", work / "sweep"),
        "search": (
            *("search", model, *rest, *corpus, "--max-extraction", "0.5"),
            *("--output", work / "search"),
        ),
        "evaluate": (
            *("evaluate", model, "--baseline", model, *rest, "--control", text),
            *("--tasks", "lab_heldout", "--limit", "2", "--output", work / "report"),
        ),
        "export": (
            *("export", model, "--drop-attn", "1", "--variant", "linear"),
            *("--calibration", text, "--output", work / "out"),
        ),
    }


def refuse(arguments: tuple[object, ...], *texts: str) -> Outcome:
    """Runs a command, which must fail in one line that holds the texts."""
    outcome = attn_surgery(*arguments)
    outcome.assert_error(*texts)
    return outcome
