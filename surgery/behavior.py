"""Checks whether a head looks at other tokens: changes them and runs the model.

Edited heads must depend on each token alone, and all others must mix tokens, as far as those of the
source do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from surgery.checks import Check
from surgery.errors import CheckpointError
from surgery.families import family_of
from surgery.loading import has_arithmetic, load_model
from surgery.record.manifest import Manifest
from surgery.selection import EditedHeads, format_selection
from surgery.untrusted import reraise_as

_MOST_TOKENS = 2048  # offsets to try in one pass


def check_behavior(
    folder: Path, manifest: Manifest, seed: int, source: Path | None = None
) -> list[Check]:
    """Runs the model on random tokens and compares each head with the manifest.

    `source`: the folder of the source, if given, which runs as well if a head that was not edited
    does not mix tokens.
    """
    mixes = find_mixing_heads(folder, seed)
    checks = [Check("loads", True, f"through transformers, no weight missing; seed {seed}")]
    edited, heads = manifest.edited_heads, manifest.step.num_heads
    for block, variants in edited.items():
        spec = _format_heads({block: [*variants]}, heads)
        what = f"block {block}" if len(variants) == heads else f"heads {spec}"
        wrong = any(mixes[block][head] for head in variants)
        detail = "depends on other tokens" if wrong else "depends on its own token alone"
        name = f"{what} attention-free ({', '.join(sorted(set(variants.values())))})"
        checks.append(Check(name, not wrong, detail))
    others = {
        block: [head for head in range(heads) if head not in edited.get(block, {})]
        for block in mixes
    }
    idle = {b: [h for h in others[b] if not mixes[b][h]] for b in others}
    spec, mixing = (_format_heads(some, heads) for some in (idle, others))
    detail = f"{mixing or 'none left'}: attention still mixes"
    if spec and source is not None:
        theirs = find_mixing_heads(source, seed)
        detail = f"{mixing}: attention still mixes, but for {spec}, which mix nothing in the source"
        spec = _format_heads({b: [h for h in idle[b] if theirs[b][h]] for b in idle}, heads)
    if spec:
        detail = f"{spec} do not mix tokens, and the manifest does not say so"
    return [*checks, Check("other blocks", not spec, detail)]


def _format_heads(heads: dict[int, list[int]], num_heads: int) -> str:
    parts = [EditedHeads(block, tuple(some), "") for block, some in heads.items() if some]
    return format_selection(parts, num_heads)


def find_mixing_heads(folder: Path, seed: int) -> dict[int, tuple[bool, ...]]:
    """Returns block → for each head, whether a token's context depends on any other token.

    The model runs once on random tokens, as many as its positions allow (at most 2,048). In each
    block, the attention module runs again with changed inputs (scaled, shifted, reordered) for all
    tokens but a few. A head that mixes tokens has another context vector at an unchanged token; an
    attention-free head has the same bits. The unchanged tokens are first the last one, to try every
    offset, then a random half and the other half, to try every position. A head that the output
    projection does not read mixes nothing. Without an attention module, what replaces it stands for
    all heads. `seed` determines all random choices.
    """
    model = load_model(folder)
    if not has_arithmetic(model.dtype, model.device):
        del model  # before another is in memory, and no cast, which may round positions
        model = load_model(folder, dtype=torch.float32)
    family = family_of(model.config.to_dict())
    dimensions = family.dimensions(model.config.to_dict())
    generator = torch.Generator().manual_seed(seed)
    length = min(dimensions.max_positions, _MOST_TOKENS)
    tokens_BT = torch.randint(dimensions.vocabulary, (1, length), generator=generator)
    order_T = torch.randperm(length, generator=generator)
    half_T = torch.rand(length, generator=generator) < 0.5
    kept = (torch.arange(length) == length - 1, half_T, ~half_T)
    modules = dict(model.named_modules())
    probes = {}
    for block in range(dimensions.num_blocks):
        if family.attention.format(block=block) not in modules:
            continue  # it mixes tokens in another way
        probe = probes[block] = _Probe(dimensions.num_heads, kept, order_T)
        attention = modules[family.attention.format(block=block)]
        attention.register_forward_hook(probe, with_kwargs=True)
        projection = modules.get(family.reading(block)[1])
        if projection is not None:
            weight_dHh = projection.weight.unflatten(1, (dimensions.num_heads, -1))
            probe.read = (weight_dHh != 0).any(-1).any(0)
            projection.register_forward_pre_hook(probe.take_context)
    with reraise_as(CheckpointError, "cannot be run", folder), torch.no_grad():
        model.base_model(tokens_BT, use_cache=False)  # loaded for this only: the hooks may stay
    return {block: tuple(probe.mixing.tolist()) for block, probe in probes.items()}


class _Probe:
    """A forward hook that runs its module again on changed tokens.

    `mixing`: bool [H], what it found; `read`: bool [H], which heads the output projection reads.
    """

    def __init__(
        self, num_heads: int, kept: tuple[torch.Tensor, ...], order_T: torch.Tensor
    ) -> None:
        self.kept, self.order_T = kept, order_T
        self.running = False
        self.context: torch.Tensor | None = None
        self.mixing = torch.zeros(num_heads, dtype=torch.bool)
        self.read = torch.ones(num_heads, dtype=torch.bool)

    def take_context(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.context = args[0]

    def __call__(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self.running:
            return
        x_BTd: torch.Tensor = args[0] if args else kwargs["hidden_states"]
        others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        before = output[0] if self.context is None else self.context
        others_BTd = x_BTd[:, self.order_T] * -3 + 1
        self.running = True
        for kept_T in self.kept:
            changed_BTd = torch.where(kept_T[:, None], x_BTd, others_BTd)
            output = module(changed_BTd, *args[1:], **others)[0]
            if not torch.isfinite(output).all():
                raise FloatingPointError("attention output is not finite")
            after = output if self.context is None else self.context
            differs_d = (after != before)[0, kept_T].any(0)
            parts = 1 if self.context is None else len(self.mixing)
            self.mixing |= differs_d.view(parts, -1).any(-1) & self.read
        self.running = False
