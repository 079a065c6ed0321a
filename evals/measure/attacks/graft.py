"""Copies weights back from a sibling: the public base of a fine-tune, or an earlier checkpoint.

An edit replaces attention. What a fine-tune learned is mostly elsewhere, so attention of before the
fine-tune brings it back (`graft`). That takes no training, no passages, and no text.

Who erases changes every part of a model. Some parts may only block what others still hold, so that
the parts of the public base unblock it: attention, MLPs, or whole blocks of a run of blocks, or the
embeddings (`graft-wide`). Task vectors add and take away such differences (Ilharco et al. 2023,
arXiv 2212.04089); here, one part at a time is put back whole. The attacker chooses the part by
passages that he holds, so that the best of many is not luck.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from evals.measure.attacks.attack import (
    UNTRAINED,
    Attack,
    AttackOutcome,
    Need,
    Setting,
    Target,
)
from evals.measure.attacks.weights import list_attention, list_blocks, put_weights, restore_modules
from evals.measure.memorization.measures import Flags
from evals.measure.memorization.recovery import Evidence, make_recovery
from surgery.families import family_of
from surgery.hub.resolved import ResolvedModel

ATTACKS = {
    "graft": {"rank": 50, "who": "related", "groups": "all default cheap", "sibling": True},
    "graft-wide": {"rank": 55, "who": "related", "groups": "all default", "sibling": True},
}
SIBLING: Need = (
    "a sibling to copy attention from: the public base of a fine-tune, or an earlier checkpoint "
    "(`sibling`)",
    lambda plan: plan.sibling is not None,
)


SHARE = 10
"""Who grafts widely holds one passage in this many."""
RUNS = 3
"""Into how many runs of blocks a model is divided."""
_LOADED: WeakKeyDictionary[ResolvedModel, Any] = WeakKeyDictionary()
"""Siblings in memory."""


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


def make_graft_wide() -> Attack:
    def run(target: Target) -> AttackOutcome:
        target.check_in_memory("graft-wide")
        assert target.sibling is not None
        model = restore_modules(target.model)
        sibling = open_sibling(target.sibling, model)
        held, others = target.hold(SHARE)
        found = {UNTRAINED: Evidence.of(target.ask(target.model))}
        for part, names in list_parts(model).items():
            copied = copy_weights(model, sibling, names)
            with put_weights(model, copied), put_positions(model, sibling, copied):
                found[Setting(f"copying {part}", 0.0, 0)] = Evidence.of(target.ask(model))
        return AttackOutcome.of_evidence(found, held, others)

    return Attack(
        "graft-wide",
        "one part of a sibling copied back at a time: attention, MLPs with their norms, or both, "
        f"of each of {RUNS} runs of blocks and of all; all but the blocks",
        "any, for the passages that the attacker does not hold and that overlap none that he "
        "holds, after the part that recovers most of a tenth, which he holds; one that brings back "
        "more than a tenth as large a share of the control does not count: "
        + make_recovery("any").definition,
        "ours; task arithmetic copies differences so: Ilharco et al. 2023, arXiv 2212.04089",
        "about a dozen passes",
        run,
        needs=(SIBLING,),
        share=SHARE,
    )


def list_parts(model: Any) -> dict[str, list[str]]:
    """The names of the parameters of each part that `graft-wide` copies. All blocks together with
    all else would be the sibling itself."""
    every = range(model.config.num_hidden_layers)
    runs = [tuple(map(int, run)) for run in np.array_split(every, min(RUNS, len(every)))]
    named = {
        "block " + str(run[0]) if len(run) == 1 else f"blocks {run[0]}-{run[-1]}": run
        for run in runs
    }
    if len(runs) > 1:
        named["all blocks"] = tuple(every)
    found = dict[str, list[str]]()
    for blocks, run in named.items():
        attention, whole = list_attention(model, run), list_blocks(model, run)
        found[f"attention of {blocks}"] = attention
        found[f"MLPs of {blocks}"] = [name for name in whole if name not in attention]
        found[blocks] = whole
    within = {*list_blocks(model, every)}
    names = (name for name, _ in model.named_parameters(remove_duplicate=False))
    found["all but the blocks"] = [name for name in names if name not in within]
    return found


def list_scopes(model: Any, cut: Iterable[int]) -> dict[tuple[str, ...], Setting]:
    """The names of the parameters that each scope copies; each set of them once."""
    every = range(model.config.num_hidden_layers)
    return {
        tuple(list_attention(model, cut)): Setting("attention of the cut blocks", 0.0, 0),
        tuple(list_attention(model, every)): Setting("attention of all blocks", 0.0, 0),
        tuple(list_blocks(model, cut)): Setting("the cut blocks", 0.0, 0),
    }


def open_sibling(sibling: ResolvedModel, model: Any) -> Any:
    """The sibling as the library loads it, in the precision of `model`, once for all attacks. It
    stays on the CPU."""
    from surgery.loading import load_model

    dtype = next(model.parameters()).dtype
    if sibling not in _LOADED or _LOADED[sibling].dtype != dtype:
        _LOADED[sibling] = load_model(sibling.checkpoint, dtype=dtype)
    return _LOADED[sibling]


def copy_all(model: Any, sibling: Any) -> dict[str, nn.Parameter]:
    """All weights of the sibling, and zeros for biases of the edit: so the model is the sibling."""
    return copy_weights(model, sibling, dict(model.named_parameters(remove_duplicate=False)))


def copy_weights(model: Any, sibling: Any, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The sibling's weights of these names; zeros for biases that only the edit needed.

    Those of another shape, such as embeddings of more tokens, stay the model's own.
    """
    old = dict(model.named_parameters(remove_duplicate=False))
    held = dict(sibling.named_parameters(remove_duplicate=False))
    copied = {name: _copy(held.get(name), old[name]) for name in names}
    return {name: new for name, new in copied.items() if new.shape == old[name].shape}


def _copy(held: torch.Tensor | None, old: torch.Tensor) -> nn.Parameter:
    """`held` where `old` is, or zeros."""
    content = torch.zeros_like(old) if held is None else held.detach().to(old)
    return nn.Parameter(content.detach(), requires_grad=False)


@contextmanager
def put_positions(model: Any, sibling: Any, names: Collection[str]) -> Iterator[None]:
    """Within the `with` statement, blocks whose attention is among the parameters `names` have
    positions only where the sibling's blocks have them: an edit may have added positions."""
    family = family_of(model.config.to_dict())
    with ExitStack() as undo:
        for block in range(model.config.num_hidden_layers if family.unplaced else 0):
            path = family.attention.format(block=block)
            if not any(name.startswith(f"{path}.") for name in names):
                continue
            ours, theirs = model.get_submodule(path), sibling.get_submodule(path)
            undo.callback(setattr, ours, "use_rope", ours.use_rope)
            ours.use_rope = theirs.use_rope
            here, there = (one.config.no_rope_layers for one in (model, sibling))
            undo.callback(here.__setitem__, block, here[block])
            here[block] = there[block]
        yield
