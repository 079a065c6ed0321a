"""Does a head look at other tokens? Found out by changing all tokens but one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from surgery.families import family_of
from surgery.loading import load_model

_MOST_TOKENS = 2048  # offsets that are tried at once; more than any supported model was trained on
_SEED = 20250501


def mixing_heads(folder: Path) -> dict[int, tuple[bool, ...]]:
    """Block → for each head, whether its context of the last token depends on any other token.

    The model runs once on random tokens, as many as its positions allow (at most 2,048). At each
    block, the attention module is run a second time with the same arguments, but every token's
    input except the last one's replaced: scaled, shifted and reordered. A head that mixes tokens
    has another context vector at the last position; an attention-free one has the same bits. Where
    the module is gone, what stands in its place answers for all heads.
    """
    model = load_model(folder)
    family = family_of(model.config.to_dict())
    dimensions = family.dimensions(model.config.to_dict())
    generator = torch.Generator().manual_seed(_SEED)
    length = min(dimensions.max_positions, _MOST_TOKENS)
    tokens_BT = torch.randint(dimensions.vocabulary, (1, length), generator=generator)
    modules = dict(model.named_modules())
    answers: dict[int, tuple[bool, ...]] = {}
    hooks = []
    for block in range(dimensions.num_blocks):
        probe = _Probe(block, dimensions.num_heads, answers)
        attention = modules[family.attention.format(block=block)]
        hooks.append(attention.register_forward_hook(probe, with_kwargs=True))
        projection = modules.get(family.name("output_weight", block).removesuffix(".weight"))
        if projection is not None:
            hooks.append(projection.register_forward_pre_hook(probe.take_context))
    try:
        with torch.no_grad():
            model(tokens_BT, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return answers


class _Probe:
    """A forward hook that runs its module again on changed tokens."""

    def __init__(self, block: int, num_heads: int, answers: dict[int, tuple[bool, ...]]) -> None:
        self.block, self.num_heads, self.answers = block, num_heads, answers
        self.running = False
        self.context: torch.Tensor | None = None

    def take_context(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.context = args[0][:, -1]

    def __call__(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self.running:
            return
        before, context = output[0][:, -1], self.context
        x_BTd = args[0]
        others = x_BTd[:, :-1].flip(1) * -3 + 1
        changed_BTd = torch.cat([others, x_BTd[:, -1:]], dim=1)
        self.running = True
        after = module(changed_BTd, *args[1:], **kwargs)[0][:, -1]
        self.running = False
        if not torch.isfinite(after).all():
            raise FloatingPointError(f"block {self.block}: attention output is not finite")
        if context is None or self.context is None:
            self.answers[self.block] = (not torch.equal(before, after),) * self.num_heads
            return
        differs = (context != self.context).view(self.num_heads, -1).any(-1)
        self.answers[self.block] = tuple(differs.tolist())
