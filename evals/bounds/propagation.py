"""How far an edit of one block carries: every later residual, and the logits.

Shape letters: B rows, T tokens, d width, V vocabulary, L blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import kl_div
from transformers import PreTrainedModel

from evals.running.forward import POSITIONS_AT_ONCE, head_of
from evals.running.runs import Run, from_block, from_tokens
from surgery.editing.in_memory import Editable
from surgery.errors import MeasurementError


@dataclass(frozen=True)
class Propagation:
    """What is left of the `identity` edit of block l (row), mean over tokens.

    - `relative`: [L][L + 1]. Column m < L: ‖r'_m − r_m‖ / ‖r_m‖, r_m the residual that leaves block
      m; None for m < l, which an edit cannot reach. Column L: the same of the logits, each token's
      mean over the vocabulary taken off first, since softmax does not see it.
    - `kl`: [L], KL(base ‖ edited) of the next token, nats.
    """

    relative: tuple[tuple[float | None, ...], ...]
    kl: tuple[float, ...]


def residuals(model: PreTrainedModel, block: int, entry: torch.Tensor) -> Run:
    """Runs the model from `block` on `entry` [B, T, d], or from int64 tokens [B, T] for block 0.

    Keeps the inputs of all its blocks; under L what leaves the last one.
    """
    blocks = int(model.config.num_hidden_layers)
    (norm,) = [part for part in model.base_model.children() if isinstance(part, nn.LayerNorm)]
    last: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    try:
        if entry.dtype == torch.int64:
            run = from_tokens(model, entry, keep=range(blocks))
        else:
            run = from_block(model, block, entry, keep=range(block, blocks))
    finally:
        hook.remove()
    return replace(run, inputs={**run.inputs, blocks: last[0]})


class EditedPasses:
    """Every block short-circuited alone, batch by batch, on the passes of the unedited model.

    Blocks below an edit are never run again. Memory: the edited tensors of every block, at most a
    quarter of the weights, and 2 L residuals of one batch.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.blocks = blocks = int(model.config.num_hidden_layers)
        self.model, self.head = model, head_of(model)
        editable = Editable(model)
        plans = (editable.plan(str(block)) for block in range(blocks))
        self.edits = [editable.replacements(plan) for plan in plans]
        self.relative, self.kl, self.tokens = np.zeros((blocks, blocks + 1)), np.zeros(blocks), 0

    def add(self, base: Run) -> None:
        """Adds up the differences that every edit makes to `base`, the unedited pass."""
        passes = [base.hidden, *(self._edited(edit, base) for edit in range(self.blocks))]
        split = (torch.split(hidden.flatten(0, 1), POSITIONS_AT_ONCE) for hidden in passes)
        for hidden, *others in zip(*split, strict=True):
            self._compare_logits(hidden, others)
        self.tokens += base.hidden.shape[0] * base.hidden.shape[1]

    def result(self) -> Propagation:
        """Means over everything measured. Raises `MeasurementError` where they are not finite."""
        relative, kl = self.relative / self.tokens, self.kl / self.tokens
        if not (np.isfinite(relative).all() and np.isfinite(kl).all()):
            raise MeasurementError(
                "an edited model gives logits that are not finite",
                fix="use `dtype=float32` or bfloat16",
            )
        rows = ((None,) * edit + tuple(row[edit:]) for edit, row in enumerate(relative.tolist()))
        return Propagation(tuple(rows), tuple(kl.tolist()))

    def _edited(self, edit: int, base: Run) -> torch.Tensor:
        """Final hidden states [B, T, d] with block `edit` short-circuited."""
        with self.edits[edit].active():
            edited = residuals(self.model, edit, base.inputs[edit])
        for block in range(edit, self.blocks):
            after = block + 1
            self.relative[edit, block] += _relative(edited.inputs[after], base.inputs[after])
        return edited.hidden

    @torch.inference_mode()
    def _compare_logits(self, base: torch.Tensor, others: list[torch.Tensor]) -> None:
        # hidden states [n, d]
        base_nV = self.head(base).float()
        base_nV -= base_nV.mean(-1, keepdim=True)
        log_p = base_nV.log_softmax(-1)
        for edit, other in enumerate(others):
            logits_nV = self.head(other).float()
            logits_nV -= logits_nV.mean(-1, keepdim=True)
            self.relative[edit, -1] += _relative(logits_nV, base_nV)
            log_q = logits_nV.log_softmax(-1)
            kl = kl_div(log_q, log_p, reduction="none", log_target=True)
            self.kl[edit] += float(kl.sum(dtype=torch.float64))


def _relative(edited: torch.Tensor, base: torch.Tensor) -> float:
    """Σ ‖edited − base‖ / ‖base‖ over tokens, from [..., d]."""
    difference = (edited.float() - base.float()).norm(dim=-1)
    size = base.float().norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    return float((difference / size).sum(dtype=torch.float64))
