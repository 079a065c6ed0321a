"""Copies weights back from a sibling: the public base of a fine-tune, or an earlier checkpoint.

An edit replaces attention. What a fine-tune learned is mostly elsewhere, so attention of before the
fine-tune brings it back. That takes no training, no passages, and no text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.attacks.weights import list_attention, list_blocks, put_weights, restore_modules
from evals.measure.memorization.recovery import Evidence, make_recovery
from surgery.families import family_of
from surgery.hub.resolved import ResolvedModel

ATTACKS = {"graft": {"rank": 50, "who": "related", "groups": "all default cheap", "sibling": True}}
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
        sibling = open_sibling(target.sibling, model)
        grafted, found = replace(target, model=model), []
        for names in list_scopes(model, target.cut):
            copied = copy_weights(model, sibling, names)
            with put_weights(model, copied), put_positions(model, sibling, names):
                seen = grafted.read(target.samples.tokens, target.samples.prefix_length)
                found.append(measure.recovered(Evidence.of(seen)))
        most = AttackOutcome.of_scopes(found)
        if target.brief:
            return most
        alone = copy_all(model, sibling)
        with put_weights(model, alone), put_positions(model, sibling, alone):
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
