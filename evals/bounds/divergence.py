"""How much attention's mixing matters to each block of a model, and how far an edit carries.

The bounds and their derivation are in evals/bounds/mixing.py; docs/bounds.md has figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from evals.bounds.attention import AttentionView, attending_family, eager_attention, watch_attention
from evals.bounds.mixing import differences, norms_of
from evals.bounds.propagation import EditedPasses, Propagation, residuals
from evals.running.batching import row_ranges, rows_per_batch
from evals.running.forward import check_head
from surgery.errors import MeasurementError


@dataclass(frozen=True)
class BlockDivergence:
    """One block, over all tokens, relative to the norm of the residual that enters it.

    - `measured_mean`, `measured_max`: ‖Δ_i‖ / ‖r_i‖.
    - `bound_mean`, `bound_max`: the upper bound on it; `pairwise_mean`, `pairwise_max`: the looser
      one in closed form.
    - `tightness`: `measured_mean` / `bound_mean`, between 0 and 1 up to rounding; 1 where both are
      0, as they are when no token attends to another.
    """

    block: int
    measured_mean: float
    measured_max: float
    bound_mean: float
    bound_max: float
    pairwise_mean: float
    pairwise_max: float
    tightness: float


@dataclass(frozen=True)
class Divergence:
    """What `bounds` finds.

    - `windows`, `tokens`: how much text it is from.
    - `blocks`: one record per block.
    - `propagation`: see `Propagation`.
    """

    windows: int
    tokens: int
    blocks: tuple[BlockDivergence, ...]
    propagation: Propagation

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, None where an edit cannot reach: `blocks`, one record each;
        `propagation` [L][L + 1]; `logits_kl` [L]."""
        return {
            "windows": self.windows,
            "tokens": self.tokens,
            "blocks": [asdict(block) for block in self.blocks],
            "propagation": self.propagation.relative,
            "logits_kl": self.propagation.kl,
        }


@torch.inference_mode()
def bounds(
    model: PreTrainedModel,
    windows: npt.NDArray[np.int32],
    *,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Divergence:
    """Difference, bound and propagation for every block, each short-circuited alone (`identity`).

    **Arguments:**

    - `model`: a loaded GPT-NeoX or GPT-Neo model in eval mode, left as it was. It is run with eager
      attention, whose weights can be seen.
    - `windows`: int32 [M, T], tokens of held-out or calibration text, without padding.
    - `batch_size`: windows at a time; by default what memory allows. Memory does not grow with M.
    - `advance`: called with the number of windows just finished.

    Raises `UnsupportedError` for an architecture that is not supported and for compact
    checkpoints, `MeasurementError` when the windows do not fit or give numbers that are not finite.
    """
    dimensions = attending_family(model).dimensions(model.config.to_dict())
    _check(model, windows, dimensions.max_positions)
    norms = [norms_of(model, block) for block in range(dimensions.num_blocks)]
    totals, most = np.zeros((2, dimensions.num_blocks, 3))
    edits = EditedPasses(model)

    def see(view: AttentionView) -> None:
        size = view.residual.double().norm(dim=-1).clamp(min=torch.finfo().tiny)
        relative = differences(view, norms[view.block]) / size  # [3, B, T]
        totals[view.block] += relative.sum((1, 2)).cpu().numpy()
        most[view.block] = np.maximum(most[view.block], relative.amax((1, 2)).cpu().numpy())

    check_head(model, torch.from_numpy(windows[:1, :4].astype(np.int64)))
    # A quarter: weights and their geometry in float64 come on top of what a pass holds.
    size = batch_size or max(1, rows_per_batch(model, windows.shape[1]) // 4)
    for rows in row_ranges(len(windows), size):
        tokens = torch.from_numpy(windows[rows].astype(np.int64)).to(model.device)
        with watch_attention(model, see):
            base = residuals(model, 0, tokens)
        with eager_attention(model):
            edits.add(base)
        advance(len(tokens))
    if not np.isfinite(most[:, :2]).all():
        raise MeasurementError(
            "attention gives numbers that are not finite",
            fix="use `dtype=float32` or bfloat16; if it stays, the model is broken",
        )
    means = (totals / windows.size).tolist()
    blocks = tuple(map(_record, range(dimensions.num_blocks), means, most.tolist()))
    return Divergence(len(windows), windows.size, blocks, edits.result())


def _record(block: int, mean: list[float], most: list[float]) -> BlockDivergence:
    return BlockDivergence(
        block=block,
        measured_mean=mean[0],
        measured_max=most[0],
        bound_mean=mean[1],
        bound_max=most[1],
        pairwise_mean=mean[2],
        pairwise_max=most[2],
        tightness=mean[0] / mean[1] if mean[1] else 1.0,
    )


def _check(model: PreTrainedModel, windows: npt.NDArray[np.int32], most: int) -> None:
    if model.training:
        raise ValueError("bounds needs a model in eval mode: dropout would be measured too")
    if windows.ndim != 2 or not windows.size:
        raise MeasurementError("no windows of text", expected="[M, T]", got=windows.shape)
    if windows.shape[1] > most:
        raise MeasurementError(
            "windows longer than the model's positions", expected=most, got=windows.shape[1]
        )
