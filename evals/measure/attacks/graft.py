"""Copies weights back from a sibling: the public base of a fine-tune, or an earlier checkpoint.

An edit replaces attention. What a fine-tune learned is mostly elsewhere, so attention of before the
fine-tune brings it back. That takes no training, no passages, and no text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.attacks.weights import list_attention, list_blocks, put_weights, restore_modules
from evals.measure.memorization.recovery import Evidence, make_recovery
from surgery.checkpoint.source import HEADS
from surgery.checkpoint.torch_tensors import as_torch
from surgery.hub.resolved import ResolvedModel

NEEDS_SIBLING = (
    "a sibling to copy attention from: the public base of a fine-tune, or an earlier checkpoint "
    "(`sibling`)"
)


def make_graft() -> Attack:
    measure = make_recovery("any")

    def run(target: Target) -> AttackOutcome:
        target.check_in_memory("graft")
        assert target.sibling is not None
        model = restore_modules(target.model)
        grafted, found = replace(target, model=model), []
        for names in list_scopes(model, target.cut):
            with put_weights(model, copy_weights(model, target.sibling, names)):
                seen = grafted.read(target.samples.tokens, target.samples.prefix_length)
                found.append(measure.recovered(Evidence.of(seen)))
        most = AttackOutcome.of_all(max(found, key=lambda recovered: int(recovered.sum())))
        if target.brief:
            return most
        with put_weights(model, copy_all(model, target.sibling)):
            seen = grafted.read(target.samples.tokens, target.samples.prefix_length)
        return replace(most, kept=int(measure.recovered(Evidence.of(seen)).sum()))

    return Attack(
        "graft",
        "weights of a sibling copied back, in three scopes: attention of the blocks that the edit "
        "cut, attention of all blocks, and all of the blocks that it cut",
        f"any, in the scope that recovers most: {measure.definition}",
        "ours; task arithmetic copies differences so: Ilharco et al. 2023, arXiv 2212.04089",
        "four passes, one of them of the sibling itself",
        run,
        needs=NEEDS_SIBLING,
        reads_sibling=True,
    )


def list_scopes(model: Any, cut: Iterable[int]) -> list[tuple[str, ...]]:
    """The names of the parameters that each scope copies; each set of them once."""
    every = range(model.config.num_hidden_layers)
    scopes = list_attention(model, cut), list_attention(model, every), list_blocks(model, cut)
    return list(dict.fromkeys(map(tuple, scopes)))


def copy_all(model: Any, sibling: ResolvedModel) -> dict[str, nn.Parameter]:
    """All weights of the sibling, so that the model is the sibling. A tied head follows.

    Those of another shape, such as embeddings of more tokens, stay the model's own.
    """
    every = dict(model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(every.items())}
    embedding = next(iter(every))
    head = next((name for name in HEADS if name in sibling.checkpoint.tensors), embedding)
    new = {}
    for name, old in every.items():
        known = first[id(old)]
        copied = copy_weight(old, sibling, head if known in HEADS else known)
        if copied.shape == old.shape:
            new[name] = copied
    return new


def copy_weights(
    model: Any, sibling: ResolvedModel, names: Iterable[str]
) -> dict[str, nn.Parameter]:
    """The sibling's weights of these names; zeros for biases that only the edit needed."""
    old = dict(model.named_parameters())
    return {name: copy_weight(old[name], sibling, name) for name in names}


def copy_weight(old: torch.Tensor, sibling: ResolvedModel, name: str) -> nn.Parameter:
    stored = sibling.checkpoint.tensors.get(name)
    content = torch.zeros_like(old.detach())
    if stored is not None:
        content = as_torch(stored.read_array(), stored.info.dtype).to(content)
    return nn.Parameter(content, requires_grad=False)
