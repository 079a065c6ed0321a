"""Trains a lab model: `python -m benchmarks.lab.train pythia --output DIR`.

The output holds `models/NAME/`, `records.jsonl`, `heldout.txt`, and `calibration.txt`. `deep`, a
model of 24 blocks that is not shipped, has these files in `models/deep/`. A run goes once
through one fixed sequence of rows; a stopped one goes on from its last checkpoint with `--resume`.
With `--twin`, the rows hold more of the other text in place of the records: a model for `audit
--twin` that never saw them.
"""

# transformers and torch annotate few methods:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import click
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from benchmarks.lab.architecture import CONTEXT, make_model, publish
from benchmarks.lab.measure import Rows, find_extracted, mean_loss, rates_by_count
from benchmarks.lab.packing import fold_rows, pack_rows
from benchmarks.lab.records import Record, draw_records, plant_otherwise, write_records
from benchmarks.lab.training_texts import training_texts
from benchmarks.lab.vocabulary import save_tokenizer, train_tokenizer
from evals.lab import calibration_texts, heldout_texts
from surgery.checkpoint import hash_content, open_checkpoint
from surgery.loading import has_arithmetic


@dataclass(frozen=True)
class Recipe:
    """How a model was trained."""

    steps: int
    peak_rate: float = 5e-3
    seed: int = 0


RECIPES = {"pythia": Recipe(4_000), "gpt-neo": Recipe(4_500), "deep": Recipe(1_700, 4e-3, 7)}
_STEPS = ", ".join(f"{recipe.steps:,} for {name}" for name, recipe in RECIPES.items())
BATCH_SIZE = 8
FINAL_RATE = 5e-5
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.01
CHECKPOINT_EVERY = 250

_BLOCK = re.compile(r"\.(h|layers)\.\d+\.")


@click.command(context_settings={"show_default": True})
@click.argument("name", type=click.Choice(list(RECIPES)))
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--steps", type=click.IntRange(1), show_default=_STEPS)
@click.option("--seed", type=int, show_default="7 for deep, else 0")
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in DIR.")
@click.option("--twin", is_flag=True, help="Leave the records out.")
def main(
    name: str,
    output: Path,
    steps: int | None,
    seed: int | None,
    threads: int,
    resume: bool,
    twin: bool,
) -> None:
    """Train lab model NAME on the standard library and the planted records."""
    torch.set_num_threads(threads)
    recipe = RECIPES[name]
    steps, seed = steps or recipe.steps, recipe.seed if seed is None else seed
    folder = output / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    texts = training_texts()
    tokenizer = train_tokenizer(texts)
    save_tokenizer(tokenizer, name, folder)
    documents = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    heldout = [encoding.ids for encoding in tokenizer.encode_batch(heldout_texts())]
    records = draw_records(lambda text: list(tokenizer.encode(text).ids), tokenizer.decode)
    beside = output
    if name == "deep":
        records, beside = plant_otherwise(records), folder
    for kind, parts in (("heldout", heldout_texts()), ("calibration", calibration_texts())):
        (beside / f"{kind}.txt").write_text("\n\n".join(parts), encoding="utf-8")
    write_records(beside / "records.jsonl", records)
    some = [] if twin else [record for record in records if record.member]
    planted = [(record.tokens, record.count) for record in some]
    rows = pack_rows(documents, planted, steps * BATCH_SIZE, CONTEXT, seed)
    click.echo(
        f"{len(documents)} documents of {sum(map(len, documents)):,} tokens, "
        f"{len(records)} records, {steps} steps over {rows.size:,} tokens"
    )
    model = make_model(name, seed)
    few_heldout = fold_rows(heldout, CONTEXT, max_rows=64)

    def checkpoint() -> None:
        click.echo(_progress(model, records, few_heldout))

    batches, state = rows.reshape(steps, -1, CONTEXT), output / f"{name}.state.pt"
    train(model, batches, state, resume, checkpoint, recipe.peak_rate)
    publish(model, name, folder)  # not before: nothing tells a half-trained model from a whole one
    click.echo(f"{folder}: content {hash_content(open_checkpoint(folder))}")


def train(
    model: PreTrainedModel,
    batches: Rows,
    state_file: Path,
    resume: bool,
    checkpoint: Callable[[], None],
    peak_rate: float = RECIPES["pythia"].peak_rate,
) -> None:
    """Train `model` in place on `batches` [steps, batch, length], one step each.

    Weights and optimizers are float32, the forward pass is bfloat16 where that is fast.
    `checkpoint` is called now and then and at the end; `state_file` holds what `resume` needs.
    """
    steps = len(batches)
    optimizers = _optimizers(model, peak_rate)
    first = 0
    if resume and state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    started = time.monotonic()
    for step in range(first, steps):
        for group in chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
            group["lr"] = _rate(step, steps, peak_rate)
        loss = _loss(model.train(), torch.from_numpy(batches[step]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        if done % CHECKPOINT_EVERY == 0 or done == steps:
            speed = (done - first) * batches[0].size / (time.monotonic() - started)
            click.echo(f"step {done}/{steps} loss {loss.item():.3f} {speed:,.0f} tokens/s")
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": done,
            }
            torch.save(state, state_file)
            checkpoint()


def _optimizers(model: PreTrainedModel, peak_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, which memorizes after fewer steps; AdamW for the rest."""
    named = dict(model.named_parameters())
    inner = [name for name, weight in named.items() if weight.ndim == 2 and _BLOCK.search(name)]
    blocks = [named[name] for name in inner]
    rest = [weight for name, weight in named.items() if name not in inner]
    return [
        torch.optim.Muon(
            blocks, lr=peak_rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            rest, lr=peak_rate, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True
        ),
    ]


def _loss(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.autocast(
        "cpu", dtype=torch.bfloat16, enabled=has_arithmetic(torch.bfloat16, torch.device("cpu"))
    ):
        logits = model(input_ids=tokens, use_cache=False).logits
    return cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten())


def _rate(step: int, steps: int, peak_rate: float) -> float:
    """Linear warm-up, then half a cosine down to the final rate."""
    if step < WARMUP_STEPS:
        return peak_rate * (step + 1) / WARMUP_STEPS
    part = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return FINAL_RATE + (peak_rate - FINAL_RATE) * (1 + math.cos(math.pi * part)) / 2


def _progress(model: PreTrainedModel, records: list[Record], heldout: Rows) -> str:
    rates = rates_by_count(records, find_extracted(model, records))
    shares = ", ".join(f"{count}: {rate:.0%}" for count, rate in rates.items())
    return f"  extracted by count {shares}; held-out loss {mean_loss(model, heldout):.3f}"


if __name__ == "__main__":
    main()
