"""Says what each step of a mitigation needs of memory, and how it trains there.

Every figure is measured on tensors without numbers (`surgery.training.planning`), so a model
without weights will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evals.data.inputs import open_passages, tokenize_passages
from evals.jobs.mitigating import MitigationRequest
from evals.measure.attacks.names import TRAINED, TRAINING, choose_attacks
from evals.measure.attacks.relearn import SHARE
from evals.measure.attacks.tuning import ROWS, plan_fine_tuning
from evals.measure.healing import find_healing_text
from evals.run.batching import rows_per_batch
from evals.run.console import show_progress
from evals.run.groups import ERASE_STEPS, HEAL_STEPS, Training
from surgery.editing.loading import load_tokenizer, outline_model
from surgery.errors import UnsupportedError
from surgery.families import family_of
from surgery.privacy import expand_home
from surgery.training.distillation import TaughtRows, list_lessons, plan_training
from surgery.training.losses import Divergence
from surgery.training.planning import USABLE, Fit, measure_needed
from surgery.training.training import WINDOW, Schedule

MACHINES = (24, 48, 80)
"""GB of memory, of GPUs that many have."""
LENGTH = 32
"""Tokens of a prefix, and of a suffix, unless passages or lengths are given."""
CUT = 4
"""An edit is taken to change attention in one block of so many, the deep ones that a search
compares with."""
Plan = Callable[[int], tuple[str, int]]
"""Bytes that are free → how a step goes there, and what it needs of them. Raises
`UnsupportedError`."""


@dataclass(frozen=True)
class Step:
    """`beside`: bytes that it holds beside the model while it does what `plan` plans."""

    name: str
    beside: int
    plan: Plan

    def describe(self, weights: int, room: int) -> dict[str, Any]:
        """`name`, `what`, and `needed` in bytes with the `weights`; None if it does not fit."""
        try:
            what, needed = self.plan(room - self.beside)
        except UnsupportedError:
            return {"name": self.name, "what": "does not fit", "needed": None}
        return {"name": self.name, "what": what, "needed": weights + self.beside + needed}


def forecast_memory(
    model: Any,
    request: MitigationRequest,
    attacks: Sequence[str],
    passages: TaughtRows,
    rooms: Mapping[str, int],
) -> list[dict[str, Any]]:
    """What each step needs on each machine: [{`machine`, `steps`}], as `Step.describe` says.

    `model`: in memory, or without numbers. `attacks`: those of the evaluation. `passages`: those to
    train on. `rooms`: machine → the bytes that are free beside the model.
    """
    steps = list(_list_steps(model, request, attacks, passages))
    weights = measure_weights(model)
    return [
        {"machine": name, "steps": [step.describe(weights, room) for step in steps]}
        for name, room in rooms.items()
    ]


def forecast_outline(request: MitigationRequest) -> dict[str, Any]:
    """What each step needs of the memory of `MACHINES`, for a folder without weights: `inputs`, and
    `memory` as `forecast_memory` returns it.

    Passages and text are opened if they are named. Raises `SamplesError` for those that cannot be
    used, and `CheckpointError` or `UnsupportedError` for a configuration that cannot.
    """
    model = outline_model(folder := expand_home(request.model))
    size = family_of(config := model.config.to_dict()).dimensions(config)
    passages = _open_passages(request, folder)
    passages.check_length(size)
    for texts in filter(None, (request.heal_text, request.erasing.text)):
        find_healing_text(texts)
    asked = request.attacks
    attacks = choose_attacks(asked.attack, asked.max, sibling=asked.sibling is not None)
    if request.trains:  # an audit of a trained model tries more
        attacks = choose_attacks((*attacks, *TRAINED))
    with show_progress("plan memory", None):
        memory = forecast_memory(model, request, attacks, passages, list_rooms(model))
    number = sum(parameter.numel() for parameter in model.parameters())
    dtype = str(model.dtype).removeprefix("torch.")
    named = (
        f"{request.model}: {config['model_type']}, {size.num_blocks} blocks of {size.num_heads} "
        f"heads, {number:,} parameters, {dtype}, without weights"
    )
    prefix, length = passages.prefix_length, passages.tokens.shape[1]
    lengths = f"of {prefix} + {length - prefix} tokens"
    inputs = [{"name": "model", "what": named}, {"name": "passages", "what": lengths}]
    return {"inputs": inputs, "memory": memory}


def _open_passages(request: MitigationRequest, folder: Path) -> TaughtRows:
    """The passages that it names, else some of the lengths that it gives."""
    asked = request.passages
    if asked.samples:
        samples = open_passages(asked, leave_out=asked.leave_out)
        rows = tokenize_passages(samples, load_tokenizer(folder))
        members = rows.tokens[rows.trained_on]
        return TaughtRows(members, rows.prefix_length, rows.source, rows.sha256)
    prefix, suffix = asked.prefix_length or LENGTH, asked.suffix_length or LENGTH
    return TaughtRows(np.zeros((SHARE * ROWS, prefix + suffix), np.int32), prefix, "passages", "")


def list_rooms(model: Any) -> dict[str, int]:
    """What is left beside a model on each of `MACHINES`."""
    weights = measure_weights(model)
    return {f"{size} GB": int(USABLE * size * 1e9) - weights for size in MACHINES}


def measure_weights(model: Any) -> int:
    """Bytes of the parameters of a model."""
    return sum(parameter.nbytes for parameter in model.parameters())


def _list_steps(
    model: Any, request: MitigationRequest, attacks: Sequence[str], passages: TaughtRows
) -> Iterator[Step]:
    config, length = model.config.to_dict(), passages.tokens.shape[1]
    window = min(WINDOW, family_of(config).dimensions(config).max_positions)
    text, weights, cut = (
        np.zeros((1, window), np.int32),
        measure_weights(model),
        _measure_cut(model),
    )
    held = np.zeros((max(1, min(ROWS, len(passages.tokens) // SHARE)), length), np.int32)
    read: Plan = partial(_plan_pass, model, length, request.run.batch_size)
    tune: Plan = partial(_plan_attack, model, held)

    def train(
        asked: Training, steps: int, *, hardened: bool = False, owns_base: bool = True
    ) -> Plan:
        schedule = Schedule(asked.steps or steps, rank=asked.adapters, hardened=hardened)
        lessons = list_lessons(model, Divergence(model), text, passages, schedule)
        return lambda room: _describe_fit(
            plan_training(model, lessons, schedule, owns_base=owns_base, room=room)
        )

    yield Step("search", cut, read)
    if request.heal:
        yield Step("search: heal", cut, train(request.healing, HEAL_STEPS, owns_base=False))
    if set(request.limits) & set(TRAINING):
        yield Step("search: attack", weights if request.heal else cut, tune)
    if request.erases:
        yield Step("erase", cut, train(request.erasing, ERASE_STEPS, hardened=request.harden))
    if request.heal_text:
        yield Step("heal", cut, train(request.healing, HEAL_STEPS))
    if set(attacks) & set(TRAINING):
        yield Step("attack", 0, tune)
    yield Step("evaluate", 0, read)


def _measure_cut(model: Any) -> int:
    """Bytes of what an edit does not share with the model."""
    config = model.config.to_dict()
    family, modules = family_of(config), dict(model.named_modules())
    number = family.dimensions(config).num_blocks
    blocks = range(number - math.ceil(number / CUT), number)
    cut = (modules.get(family.attention.format(block=block)) for block in blocks)
    return sum(measure_weights(one) for one in cut if one is not None)


def _plan_pass(model: Any, length: int, batch_size: int | None, room: int) -> tuple[str, int]:
    """Reads rows of so many tokens, with the library's cache."""
    rows = batch_size or rows_per_batch(model, length, max(0, room))

    def read(imagined: Any) -> None:
        ids = torch.zeros(rows, length, dtype=torch.long, device=imagined.device)
        with torch.no_grad():
            imagined.base_model(input_ids=ids, use_cache=True)

    if (needed := measure_needed(model, read)) > room:
        raise UnsupportedError("a batch does not fit into memory with the model")
    return _count_rows(rows), needed


def _plan_attack(model: Any, rows: Any, room: int) -> tuple[str, int]:
    learned, found = plan_fine_tuning(model, rows, room)
    return _describe_fit(found, learned)


def _describe_fit(found: Fit, learned: str | None = None) -> tuple[str, int]:
    learned = learned or (f"rank-{found.rank} adapters" if found.rank else "all weights")
    how = ", checkpointing" if found.checkpointing else ""
    return f"{learned}, {_count_rows(found.rows)}{how}", found.needed


def _count_rows(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"
