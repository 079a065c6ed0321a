"""Trains a soft prompt on half of the passages: does it bring back the other half?

That some prompt makes a model say one text proves nothing. A prompt that carries over to passages
that it was not trained on shows that the model still holds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from evals.data import Tokens
from evals.measure.attacks.attack import Attack, AttackOutcome, Target, split
from evals.measure.attacks.draws import SETTING, repeat
from evals.measure.attacks.tuning import ROWS, train
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.console import say
from surgery.errors import MeasurementError, NotFiniteError
from surgery.training.student import Student, make_student

ATTACKS = {"soft-prompt": {"rank": 60, "who": "prompt"}}
LENGTH = 20
STEPS = 100
LEARNING_RATE = 1e-2
SHARE = 2
"""One passage in this many trains the prompt."""


def make_soft_prompt() -> Attack:
    measure = make_recovery("any")

    def run(target: Target) -> AttackOutcome:
        target.check_in_memory("soft-prompt")
        _check_room(target.model, target.samples.tokens.shape[1])
        return repeat(target, partial(run_once, target))

    def run_once(target: Target, draw: int) -> AttackOutcome:
        samples, model = target.samples, target.model
        held, others = split(samples.tokens, SHARE, draw)
        given = samples.tokens[held], samples.prefix_length
        rows = _make_room(samples.tokens, target.opening)
        try:
            prompt = learn_prompt(model, *given, draw, target.opening)
            with put_before(model, prompt, target.opening):
                found = target.read(rows, LENGTH + samples.prefix_length)
        except NotFiniteError:
            target.read(samples.tokens, samples.prefix_length)  # it may have been broken before
            say("soft-prompt: training breaks the prompt, so this run brings nothing back")
            return AttackOutcome(np.zeros_like(others), others)
        return AttackOutcome(measure.recovered(Evidence.of(found)), others)

    return Attack(
        "soft-prompt",
        f"{LENGTH} embeddings before the prefix, trained on half of the passages: {STEPS} steps of "
        f"AdamW, learning rate {LEARNING_RATE:g}, at most {ROWS} rows each; loss on the suffix; "
        + SETTING,
        "any, after the prompt, for the passages that did not train it and do not overlap one that "
        "did",
        "arXiv 2510.11137; Schwinn et al. 2024, arXiv 2402.09063",
        f"in each draw, {STEPS} training steps and a pass",
        run,
        share=SHARE,
        count_trained=lambda passages, windows: STEPS * min(ROWS, passages // SHARE),
    )


def learn_prompt(
    model: Any, passages: Tokens, prefix_length: int, draw: int = 0, after: int = 0
) -> torch.Tensor:
    """The prompt that makes the suffixes of int32 [N, T] most likely: float32 [LENGTH, d].

    It starts as the embeddings of tokens drawn at random, and stands after the first `after`
    tokens. The model does not change.
    """
    first = LENGTH + prefix_length

    def make(model: Any) -> Student:
        student = make_student(model, names=())
        embed = student.model.get_input_embeddings()  # which some families also scale
        start = np.random.default_rng(draw).choice(model.config.vocab_size, LENGTH)
        with torch.no_grad():
            drawn = embed(torch.from_numpy(start).to(embed.weight.device))
        prompt = drawn.float().requires_grad_(True)
        embed.register_forward_hook(partial(_put, prompt, after))
        return replace(student, learned=[prompt])

    given = make, _make_room(passages, after), STEPS, LEARNING_RATE, f"soft-prompt, run {draw + 1}"
    *_, (_, student) = train(model, *given, first=first)
    return student.learned[0].detach()


@contextmanager
def put_before(model: Any, prompt: torch.Tensor, after: int = 0) -> Iterator[None]:
    """Inside the block, `prompt` [n, d] stands for n tokens of every row, after the first ones."""

    handle = model.get_input_embeddings().register_forward_hook(partial(_put, prompt, after))
    try:
        yield
    finally:
        handle.remove()


def _put(
    prompt: torch.Tensor, after: int, module: Any, inputs: Any, embedded: torch.Tensor
) -> torch.Tensor:
    given = prompt.to(embedded.dtype).expand(len(embedded), -1, -1)
    parts = [embedded[:, :after], given, embedded[:, after + len(prompt) :]]
    return torch.cat(parts, dim=1)[:, : embedded.shape[1]]


def _make_room(tokens: Tokens, after: int) -> Tokens:
    return np.insert(tokens, [after] * LENGTH, 0, axis=1)


def _check_room(model: Any, length: int) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and length + LENGTH > most:
        raise MeasurementError(
            f"soft-prompt puts {LENGTH} tokens before each passage, which the context cannot hold",
            expected=f"passages of at most {most - LENGTH} tokens",
            got=length,
            fix="give shorter passages, or name other attacks with `attack`",
        )
