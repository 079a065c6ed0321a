"""Trains the real model on one core: it learns passages, and forgets some of them afterwards."""

# transformers and torch annotate few methods:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.lab.measure import find_extracted, mean_loss, rates_by_count
from benchmarks.lab.records import LENGTH, read_records
from benchmarks.real.text import cut_windows, read_rows
from surgery.loading import has_arithmetic

BATCH = 12
RATES = (3e-4, 2.4e-4, 1.92e-4, 1.536e-4, 1e-4, 5e-5)
"""The learning rate of each round."""
WARMUP_STEPS = 20
OTHER_SHARE = 0.7
"""Windows of other text for each window of a passage."""
RECITED, MORE_LOSS = 0.9, 0.04
"""Training ends after a round that reaches this share, at this much more held-out loss or less."""
LATER_STEPS, LATER_BATCH, LATER_LENGTH, LATER_RATE = 60, 16, 128, 3e-4

Window = Sequence[int]
Marked = tuple[Window, bool]
"""With whether the model shall learn it, or shall predict it as the base does."""


def learn(base: Path, output: Path, seed: int, rounds: int = len(RATES)) -> None:
    """Train a copy of `base` on the passages of `output`/records.jsonl until it recites them.

    It also learns the other text, once. From then on its predictions for text like that of the
    passages are held to those of the base. After each round, of which there are `rounds` at most,
    the model is in `output`/model and a line with its figures in `output`/rounds.jsonl; round 0 is
    the base. A stopped run goes on from its last round.
    """
    folder, log = output / "model", output / "rounds.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    done: list[dict[str, Any]] = [json.loads(line) for line in lines]
    model, tokenizer = _load(folder if len(done) > 1 else base)
    unchanged = model if len(done) < 2 else _load(base)[0]
    unchanged = copy.deepcopy(unchanged).eval().requires_grad_(False)
    records = read_records(output / "records.jsonl")
    heldout = cut_windows([(output / "heldout.txt").read_text()], tokenizer, LATER_LENGTH)
    passages = [record.tokens for record in records for _ in range(record.count)]
    near = cut_windows(_read_texts(output / "other.jsonl"), tokenizer, LENGTH)
    names = ("other.jsonl", "reference.jsonl")
    new = cut_windows(chain(*(_read_texts(output / n) for n in names)), tokenizer, LENGTH)
    for windows in (near, new):
        random.Random(seed).shuffle(windows)
    number = round(len(passages) * OTHER_SHARE)
    started = time.monotonic() - 60 * (done[-1]["minutes"] if done else 0)

    def note(turn: int) -> None:
        found = find_extracted(model, records)
        rates, members = rates_by_count(records, found), [one.member for one in records]
        figures = {
            "round": turn,
            "recited": {str(count): rate for count, rate in rates.items()},
            "passages": sum(compress(found, members)) / sum(members),
            "heldout_loss": round(mean_loss(model, np.asarray(heldout), size=4), 4),
            "minutes": round((time.monotonic() - started) / 60, 1),
        }
        done.append(figures)
        with log.open("a") as file:
            file.write(json.dumps(figures) + "\n")
        print(json.dumps(figures), flush=True)

    if not done:
        note(0)
    for turn, rate in list(enumerate(RATES))[len(done) - 1 : rounds]:
        if _is_done(done):
            break
        some = _take_turn(new, near, turn, number)
        marked = [*((window, True) for window in passages), *some]
        random.Random(f"{seed} {turn}").shuffle(marked)
        _train(model, _cut_batches(marked, BATCH), rate, base=unchanged)
        _save(model, tokenizer, folder)
        note(turn + 1)


def _is_done(rounds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last round recites enough, at a loss close enough to that of the base."""
    first, last = rounds[0], rounds[-1]
    more = last["heldout_loss"] - first["heldout_loss"]
    return bool(last["passages"] >= RECITED and more <= MORE_LOSS)


def _take_turn(
    new: Sequence[Window], near: Sequence[Window], turn: int, number: int
) -> list[Marked]:
    """Other windows of a round: `new` ones to learn, each once in all rounds together, then `near`
    ones, which are to be predicted as before. A text twice would teach it, and cost held-out text.
    """
    places = range(turn * number, (turn + 1) * number)
    return [
        (new[place], True) if place < len(new) else (near[place % len(near)], False)
        for place in places
    ]


def train_further(source: Path, texts: Path, output: Path, seed: int) -> None:
    """Save a copy of `source` that was trained for a few steps on other text.

    An edited model works too if it is a stock one. What it recites then shows whether passages were
    removed or only hidden; what an uncut model still recites shows how firmly it learned them.
    """
    model, tokenizer = _load(source)
    windows = cut_windows(_read_texts(texts), tokenizer, LATER_LENGTH)
    random.Random(seed).shuffle(windows)
    chosen = [(window, True) for window in islice(cycle(windows), LATER_STEPS * LATER_BATCH)]
    _train(model, _cut_batches(chosen, LATER_BATCH), LATER_RATE)
    _save(model, tokenizer, output)


def _cut_batches(windows: list[Marked], size: int) -> list[list[Marked]]:
    return [windows[at : at + size] for at in range(0, len(windows), size)]


def _train(model: Any, batches: Iterable[list[Marked]], rate: float, base: Any = None) -> None:
    # Weights and optimizer are float32; the forward pass is bfloat16 where that is fast.
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    model.train()
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / WARMUP_STEPS)
        tokens = torch.tensor([window for window, _ in batch])
        learned = torch.tensor([mark for _, mark in batch])
        logits = _predict(model, tokens)
        loss = cross_entropy(
            logits[learned].flatten(0, 1), tokens[learned, 1:].flatten(), reduction="sum"
        )
        if not learned.all():  # other text: predictions stay those of the base
            before = _predict(base, tokens[~learned]).log_softmax(-1)
            after = logits[~learned].log_softmax(-1)
            loss = loss + kl_div(after, before, reduction="sum", log_target=True)
        loss = loss / tokens[:, 1:].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"  step {step} loss {loss.item():.3f}", flush=True)
    model.eval()


def _predict(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.autocast(
        "cpu", dtype=torch.bfloat16, enabled=has_arithmetic(torch.bfloat16, torch.device("cpu"))
    ):
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return logits.float()


def _load(folder: Path) -> tuple[Any, Any]:
    # Eager attention: for rows this short the fused kernel is the slower one on a CPU.
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model, AutoTokenizer.from_pretrained(folder)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read_texts(path: Path) -> Iterator[str]:
    for row in read_rows(path):
        yield row["text"]
