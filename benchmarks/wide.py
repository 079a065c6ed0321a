"""Erases and heals wide models of two blocks, which have learned 24 passages by heart.

A trainer that works on narrow models may do nothing on wide ones: its rate may be too low there, or
rounding to bfloat16 may take back what was learned. This makes wide models small enough for a CPU:
two blocks and a vocabulary of 256, over text in which each token has 8 successors.

    python -m benchmarks.wide --width 512 --width 1024
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from surgery.editing.in_memory import Editable, apply
from surgery.fitting.calibration import Calibration
from surgery.proof.expected import find_constants
from surgery.training.distillation import TaughtRows, teach
from surgery.training.loop import LARGEST_GRADIENT, descend, fall
from surgery.training.losses import (
    Divergence,
    divide,
    find_recited,
    measure_loss,
    to_tokens,
)
from surgery.training.student import cast_weights, make_student
from surgery.training.training import Schedule, scale_rate
from surgery.training.weights import round_weights

VOCABULARY, SUCCESSORS, LENGTH, PREFIX, PASSAGES = 256, 8, 64, 32, 24
MOST_STEPS = 200
HEALED = "0", "zero"
"""The edit that is healed. (The teacher of `erase` is `zero` in both blocks.)"""
Rows = npt.NDArray[np.int32]


class Source:
    """Text in which each token has `SUCCESSORS` successors, all as likely."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        chosen = [draw.choice(VOCABULARY, SUCCESSORS, replace=False) for _ in range(VOCABULARY)]
        self._next = np.stack(chosen).astype(np.int32)

    def write(self, rows: int, seed: int) -> Rows:
        """Rows of text, int32 [rows, LENGTH]."""
        draw = np.random.default_rng(seed)
        text = [draw.integers(0, VOCABULARY, rows)]
        while len(text) < LENGTH:
            text.append(self._next[text[-1], draw.integers(0, SUCCESSORS, rows)])
        return np.stack(text, axis=1).astype(np.int32)


def make_model(width: int) -> Any:
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            max_position_embeddings=2 * LENGTH,
        )
    ).eval()


def memorize(model: Any, source: Source, passages: Rows) -> tuple[Any, int]:
    """Trains a model until it recites all passages. Returns it in bfloat16, as large ones are
    stored, and the number of steps."""
    student = make_student(model)

    def measure(step: int) -> Any:
        rows = np.concatenate([passages, source.write(len(passages), 1000 + step)])

        def part() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return measure_loss(student.model, to_tokens(rows, student.model))

        return [part]

    rates = [
        min(1.0, (step + 1) / 10) * rate
        for step, rate in enumerate(fall(2e-3 * scale_rate(model), MOST_STEPS))
    ]
    for step, _ in enumerate(descend(student.learned, measure, rates, clip=LARGEST_GRADIENT), 1):
        if step % 10 == 0:
            made = cast_weights(student.model, torch.bfloat16)
            if find_recited(made, passages, PREFIX, PASSAGES).all():
                return made, step
    raise click.ClickException(f"not all passages are recited after {MOST_STEPS} steps")


@dataclass(frozen=True)
class Bed:
    """A model that recites passages, a cut of it, and held-out text."""

    model: Any
    cut: Any
    passages: Rows
    text: Calibration
    held: Rows

    def measure(self, model: Any) -> tuple[int, float, float]:
        """Passages recited, the share of their tokens that are right, and KL on held-out text."""
        recited = find_recited(model, self.passages, PREFIX, PASSAGES)
        rows = to_tokens(self.passages, model)
        with torch.no_grad():
            said = model(input_ids=rows[:, :-1]).logits[:, PREFIX - 1 :].argmax(-1)
            right = float((said == rows[:, PREFIX:]).float().mean())
            parts = [
                share * float(Divergence(self.model)(model, some, 1))
                for share, some in divide(self.held, 1, 16)
            ]
        return int(recited.sum()), right, sum(parts)

    def train(self, way: str, schedule: Schedule) -> tuple[Any, float, float]:
        """The model erased or healed, what rounding kept, and the seconds that it took."""
        begun, constants = time.perf_counter(), None
        passages = TaughtRows(self.passages, PREFIX, "passages", "0" * 64)
        start, teacher = self.model, self.cut
        if way == "heal":
            editable = Editable(self.model)
            plan = editable.plan(*HEALED)
            start = teacher = editable.apply(plan)
            constants = find_constants([plan], dict(start.state_dict()))
        given = start, self.model, Divergence(teacher), self.text, passages
        taught = teach(*given, schedule, constants=constants)
        made, kept = round_weights(taught.student, "BF16")
        return made, kept, time.perf_counter() - begun


@click.command()
@click.option("--width", "widths", type=int, multiple=True, default=(512, 1024), show_default=True)
@click.option("--erase-steps", default=60, show_default=True)
@click.option("--heal-steps", default=80, show_default=True)
@click.option("--rank", "ranks", type=int, multiple=True, default=(0, 8, 32), show_default=True)
@click.option("--rate", type=float, help="[default: that of the product]")
def main(
    widths: tuple[int, ...], erase_steps: int, heal_steps: int, ranks: tuple[int, ...],
    rate: float | None,
) -> None:  # fmt: skip
    """Compare training all weights with adapters on models of several widths."""
    source = Source()
    passages, text = source.write(PASSAGES, 1), source.write(16 * 80, 2)
    for width in widths:
        model, steps = memorize(make_model(width), source, passages)
        cut = apply(model, "0-1", "zero")
        bed = Bed(model, cut, passages, Calibration(text, (), spread=True), source.write(64, 3))
        size = sum(one.numel() for one in model.parameters())
        click.echo(f"width {width:,}: {size / 1e6:,.1f} million parameters, {steps} steps")
        click.echo(f"{'':16}{'recited':>9}{'right':>8}{'KL':>8}{'kept':>8}{'seconds':>9}")
        one_cut = apply(model, *HEALED)
        for name, other in (("base", model), ("teacher", cut), ("cut to heal", one_cut)):
            recited, right, apart = bed.measure(other)
            click.echo(f"{name:16}{recited:9}{right:8.1%}{apart:8.4f}")
        for way, number in (("erase", erase_steps), ("heal", heal_steps)):
            for rank in ranks:
                made, kept, took = bed.train(way, Schedule(number, rank=rank, learning_rate=rate))
                recited, right, apart = bed.measure(made)
                name = f"{way}, " + (f"rank {rank}" if rank else "all")
                click.echo(f"{name:16}{recited:9}{right:8.1%}{apart:8.4f}{kept:8.1%}{took:9.0f}")


if __name__ == "__main__":
    main()
