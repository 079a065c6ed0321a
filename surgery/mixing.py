"""Does a block's attention look at other tokens? Found out by changing all tokens but one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from surgery.families import family_of
from surgery.loading import load_model

_MOST_TOKENS = 2048  # offsets that are tried at once; more than any supported model was trained on
_SEED = 20250501


def attention_mixes(folder: Path) -> dict[int, bool]:
    """Block → whether its attention output of the last token depends on any other token.

    The model runs once on random tokens, as many as its positions allow (at most 2,048). At each
    block, the attention module is run a second time with the same arguments, but every token's
    input except the last one's replaced: scaled, shifted and reordered. A module that mixes tokens
    answers differently at the last position; an attention-free one gives the same bits.
    """
    model = load_model(folder)
    family = family_of(model.config.to_dict())
    dimensions = family.dimensions(model.config.to_dict())
    generator = torch.Generator().manual_seed(_SEED)
    length = min(dimensions.max_positions, _MOST_TOKENS)
    tokens_BT = torch.randint(dimensions.vocabulary, (1, length), generator=generator)
    answers: dict[int, bool] = {}
    hooks = [
        model.get_submodule(family.attention.format(block=block)).register_forward_hook(
            _Probe(block, answers), with_kwargs=True
        )
        for block in range(dimensions.num_blocks)
    ]
    try:
        with torch.no_grad():
            model(tokens_BT, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return answers


class _Probe:
    """A forward hook that runs its module again on changed tokens."""

    def __init__(self, block: int, answers: dict[int, bool]) -> None:
        self.block, self.answers, self.running = block, answers, False

    def __call__(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self.running:
            return
        x_BTd = args[0]
        others = x_BTd[:, :-1].flip(1) * -3 + 1
        changed_BTd = torch.cat([others, x_BTd[:, -1:]], dim=1)
        self.running = True
        again = module(changed_BTd, *args[1:], **kwargs)
        self.running = False
        before, after = output[0][:, -1], again[0][:, -1]
        if not torch.isfinite(after).all():
            raise FloatingPointError(f"block {self.block}: attention output is not finite")
        self.answers[self.block] = not torch.equal(before, after)
