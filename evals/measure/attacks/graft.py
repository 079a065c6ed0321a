"""Copies weights back from a sibling: the public base of a fine-tune, or an earlier checkpoint.

An edit replaces attention. What a fine-tune learned is mostly elsewhere, so attention of before the
fine-tune brings it back. That takes no training, no passages, and no text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.attacks.weights import list_attention, list_blocks, put_weights, restore_modules
from evals.measure.memorization.recovery import Evidence, make_recovery
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
        return AttackOutcome.of_all(max(found, key=lambda recovered: int(recovered.sum())))

    return Attack(
        "graft",
        "weights of a sibling copied back, in three scopes: attention of the blocks that the edit "
        "cut, attention of all blocks, and all of the blocks that it cut",
        f"any, in the scope that recovers most: {measure.definition}",
        "ours; task arithmetic copies differences so: Ilharco et al. 2023, arXiv 2212.04089",
        "three passes",
        run,
        needs=NEEDS_SIBLING,
        reads_sibling=True,
    )


def list_scopes(model: Any, cut: Iterable[int]) -> list[tuple[str, ...]]:
    """The names of the parameters that each scope copies; each set of them once."""
    every = range(model.config.num_hidden_layers)
    scopes = list_attention(model, cut), list_attention(model, every), list_blocks(model, cut)
    return list(dict.fromkeys(map(tuple, scopes)))


def copy_weights(
    model: Any, sibling: ResolvedModel, names: Iterable[str]
) -> dict[str, nn.Parameter]:
    """The sibling's weights of these names; zeros for biases that only the edit needed."""
    stored, old, new = sibling.checkpoint.tensors, dict(model.named_parameters()), {}
    for name in names:
        like = old[name].detach()
        content = like.new_zeros(like.shape)
        if name in stored:
            content = as_torch(stored[name].read_array(), stored[name].info.dtype).to(like)
        new[name] = nn.Parameter(content, requires_grad=False)
    return new
