"""Copies weights back from a sibling: the public base of a fine-tune, or an earlier checkpoint.

An edit replaces attention. What a fine-tune learned is mostly elsewhere, so attention of before the
fine-tune brings it back. That takes no training, no passages, and no text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from evals.measure.attacks.attack import Attack, AttackOutcome, Need, Setting, Target
from evals.measure.attacks.weights import list_attention, list_blocks, put_weights, restore_modules
from evals.measure.memorization.measures import Flags
from evals.measure.memorization.recovery import make_recovery
from surgery.families import family_of
from surgery.hub.resolved import ResolvedModel

ATTACKS = {"graft": {"rank": 50, "who": "related", "groups": "all default cheap", "sibling": True}}
SIBLING: Need = (
    "a sibling to copy attention from: the public base of a fine-tune, or an earlier checkpoint "
    "(`sibling`)",
    lambda plan: plan.sibling is not None,
)


def make_graft() -> Attack:
    def run(target: Target) -> AttackOutcome:
        target.check_in_memory("graft")
        assert target.sibling is not None
        model = restore_modules(target.model)
        sibling = open_sibling(target.sibling, model)

        def recover(copied: dict[str, nn.Parameter]) -> Flags:
            with put_weights(model, copied), put_positions(model, sibling, copied):
                return target.recover(model)

        found = {
            scope: recover(copy_weights(model, sibling, names))
            for names, scope in list_scopes(model, target.cut).items()
        }
        alone = {} if target.brief else {"sibling": recover(copy_all(model, sibling)).astype(float)}
        tried = np.ones(len(target.samples), dtype=np.bool_)
        return replace(AttackOutcome.of_variants(found, tried), scores=alone)

    return Attack(
        "graft",
        "weights of a sibling copied back, in three scopes: attention of the blocks that the edit "
        "cut, attention of all blocks, and all of the blocks that it cut",
        f"any, in the scope that recovers most: {make_recovery('any').definition}",
        "ours; task arithmetic copies differences so: Ilharco et al. 2023, arXiv 2212.04089",
        "four passes, one of them of the sibling itself",
        run,
        needs=(SIBLING,),
    )


def list_scopes(model: Any, cut: Iterable[int]) -> dict[tuple[str, ...], Setting]:
    """The names of the parameters that each scope copies; each set of them once."""
    every = range(model.config.num_hidden_layers)
    return {
        tuple(list_attention(model, cut)): Setting("attention of the cut blocks", 0.0, 0),
        tuple(list_attention(model, every)): Setting("attention of all blocks", 0.0, 0),
        tuple(list_blocks(model, cut)): Setting("the cut blocks", 0.0, 0),
    }


def open_sibling(sibling: ResolvedModel, model: Any) -> Any:
    """The sibling as the library loads it, in the precision of `model`. It stays on the CPU."""
    from surgery.editing.loading import load_model

    return load_model(sibling.checkpoint, dtype=next(model.parameters()).dtype)


def copy_all(model: Any, sibling: Any) -> dict[str, nn.Parameter]:
    """All weights of the sibling, and zeros for biases of the edit: so the model is the sibling.

    Those of another shape, such as embeddings of more tokens, stay the model's own.
    """
    every = dict(model.named_parameters(remove_duplicate=False))
    held = dict(sibling.named_parameters(remove_duplicate=False))
    copied = {name: _copy(held.get(name), old) for name, old in every.items()}
    return {name: new for name, new in copied.items() if new.shape == every[name].shape}


def copy_weights(model: Any, sibling: Any, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The sibling's weights of these names; zeros for biases that only the edit needed."""
    old, held = dict(model.named_parameters()), dict(sibling.named_parameters())
    return {name: _copy(held.get(name), old[name]) for name in names}


def _copy(held: torch.Tensor | None, old: torch.Tensor) -> nn.Parameter:
    """`held` where `old` is, or zeros."""
    content = torch.zeros_like(old) if held is None else held.detach().to(old)
    return nn.Parameter(content.detach(), requires_grad=False)


@contextmanager
def put_positions(model: Any, sibling: Any, names: Collection[str]) -> Iterator[None]:
    """Inside the block, those blocks lack positions that lack them in the sibling.

    Of blocks whose attention is among the parameters `names`: an edit gives a block positions.
    """
    family = family_of(model.config.to_dict())
    absent = family.rotary.absent if family.rotary else None
    with ExitStack() as undo:
        for block in range(model.config.num_hidden_layers if absent else 0):
            path = family.attention.format(block=block)
            if absent is None or not any(name.startswith(f"{path}.") for name in names):
                continue
            ours, theirs = model.get_submodule(path), sibling.get_submodule(path)
            undo.callback(setattr, ours, absent.attribute, getattr(ours, absent.attribute))
            setattr(ours, absent.attribute, getattr(theirs, absent.attribute))
            here, there = (getattr(one.config, absent.key) for one in (model, sibling))
            undo.callback(here.__setitem__, block, here[block])
            here[block] = there[block]
        yield
