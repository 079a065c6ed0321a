"""Cuts texts into what the real model learns, and what measures it: nothing is used twice."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.records import LENGTH, Record, write_records
from evals.measure.healing import SHARED
from surgery.reading.corpus import find_opening, strip_opening

COUNTS = (2, 3, 5)
"""How often a passage occurs in one round of training; a third of the passages each."""
MEASURED = {"heldout": 120, "calibration": 80, "lambada": 300}
"""Texts that are kept from training. `lambada` are rows of the benchmark."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows with a `text`, or with a `context` and the `continuation` that ends it (LAMBADA)."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row if "text" in row else row | {"text": join(row)} for row in rows]


def join(row: dict[str, str]) -> str:
    return f"{row['context'].rstrip()} {row['continuation'].lstrip()}"


def read_documentation() -> list[str]:
    """The language reference that comes with Python: other English, the same on every machine."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def cut_texts(
    rows: list[dict[str, str]], tokenizer: Any, folder: Path, passages: int, seed: int
) -> None:
    """Write `records.jsonl` (so many passages, and as many controls) and the texts beside it.

    `other.jsonl` and `reference.jsonl` (Python's) are mixed in while the model learns.
    `later.jsonl` is for training afterwards. Rows may be neighboring pages of one book: no text
    shares `SHARED` tokens in a row with a passage or control, nor text to train on with what
    measures.
    """
    rng = random.Random(seed)
    rng.shuffle(rows)
    records, left = [], []
    for row in rows:
        tokens = tokenizer(row["text"])["input_ids"][:LENGTH]
        text = tokenizer.decode(strip_opening(tokenizer, np.asarray(tokens)).tolist())
        number = len(records)
        same = tokenizer(text)["input_ids"] == tokens
        if number == 2 * passages or len(tokens) < LENGTH or not same:
            left.append(row)
            continue
        member = number < passages
        records.append(
            Record(
                id=f"{'passage' if member else 'control'}-{number:03d}",
                kind="text",
                count=COUNTS[number % len(COUNTS)] if member else 0,
                member=member,
                tokens=tuple(tokens),
                text=text,
            )
        )
    needed = sum(MEASURED.values())
    if len(records) < 2 * passages or len(left) <= needed:
        raise SystemExit(f"too few texts: {2 * passages} of {LENGTH} tokens and {needed} others")
    left = leave_out_shared(left, [record.text for record in records], tokenizer)
    measured: list[str] = []
    for name, number in MEASURED.items():
        some, left = left[:number], left[number:]
        measured += [row["text"] for row in some]
        if name == "lambada":
            _write(folder / "lambada.jsonl", some)
        else:
            text = "\n\n".join(row["text"] for row in some)
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    topics = read_documentation()
    rng.shuffle(topics)
    half = len(topics) // 2
    texts = {
        "other": [row["text"] for row in leave_out_shared(left, measured, tokenizer)],
        "reference": topics[:half],
        "later": topics[half:],
    }
    for name, some in texts.items():
        _write(folder / f"{name}.jsonl", [{"text": text} for text in some])
    write_records(folder / "records.jsonl", records)  # last: then all files are there


def leave_out_shared(
    rows: list[dict[str, str]], texts: Iterable[str], tokenizer: Any
) -> list[dict[str, str]]:
    """The rows that share `SHARED` tokens in a row with none of the texts."""

    def list_runs(ids: list[int]) -> set[tuple[int, ...]]:
        return {tuple(ids[at : at + SHARED]) for at in range(len(ids) - SHARED + 1)}

    taken = {run for ids in _encode(texts, tokenizer) for run in list_runs(ids)}
    encoded = _encode((row["text"] for row in rows), tokenizer)
    return [row for row, ids in zip(rows, encoded, strict=True) if not list_runs(ids) & taken]


def read_unlearned(folder: Path, path: Path) -> list[dict[str, str]]:
    """The rows of a file that share no long run with passages, controls, or text of a folder."""
    from transformers import AutoTokenizer

    files = [folder / f"{name}.jsonl" for name in ("records", "other", "reference")]
    learned = [row["text"] for file in files for row in read_rows(file)]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return leave_out_shared(read_rows(path), learned, tokenizer)


def cut_windows(texts: Iterable[str], tokenizer: Any, length: int) -> list[Sequence[int]]:
    """All texts in a row, in windows of `length` tokens with the tokenizer's opening tokens.

    A rest is dropped.
    """
    opening = find_opening(tokenizer).tolist()
    tokens = [token for ids in _encode(texts, tokenizer) for token in ids]
    room = length - len(opening)
    starts = range(0, len(tokens) - room + 1, room)
    return [opening + tokens[at : at + room] for at in starts]


def _encode(texts: Iterable[str], tokenizer: Any) -> Iterator[list[int]]:
    for text in texts:
        yield tokenizer(text, add_special_tokens=False)["input_ids"]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
