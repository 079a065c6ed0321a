"""Passages that a real model recites without having learned them for a test: its own words.

It goes on greedily from the first tokens of texts. What it repeats again and again is left out.
"""

# transformers and torch annotate few methods:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LENGTH, PASSAGES, DIFFERENT = 32, 48, 18
"""Tokens of a prefix, and of a suffix; passages; different tokens of a suffix, at least."""
TRAINING, HELD_OUT = 600, 160
"""Rows of the other texts."""


def write_own(base: Path, texts: Path, others: Path, output: Path) -> None:
    """Write `base` in bfloat16, its own passages, and text to train on and to measure on."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    model.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    found: list[str] = []
    for at, line in enumerate(texts.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        ids = tokenizer(f"{row['context']} {row['continuation']}")["input_ids"][:LENGTH]
        if len(found) == PASSAGES:
            break
        if len(ids) < LENGTH:
            continue
        given = torch.tensor([ids])
        how = {"do_sample": False, "max_new_tokens": LENGTH, "pad_token_id": 0}
        said = model.generate(given, attention_mask=torch.ones_like(given), **how)[0].tolist()
        if len(said) == 2 * LENGTH and len(set(said[LENGTH:])) >= DIFFERENT:
            found.append(json.dumps({"id": f"row-{at}", "tokens": said}))
    (output / "records.jsonl").write_text("\n".join(found) + "\n", encoding="utf-8")
    rows = [json.loads(line) for line in others.read_text(encoding="utf-8").splitlines()]
    held = slice(TRAINING, TRAINING + HELD_OUT)
    for name, part in (("text.txt", rows[:TRAINING]), ("heldout.txt", rows[held])):
        (output / name).write_text("\n".join(row["context"] for row in part), encoding="utf-8")
