"""How much attention's mixing matters to each block of a model, and how far an edit carries.

For head h, a^h are the attention weights, M_h = W_O^h W_V^h, and x is what attention reads. The
branch's output with attention, less its output where every token attends only to itself, is (since
Σ_j a_ij^h = 1, the biases cancel)

    Δ_i = Σ_h M_h u_i^h        u_i^h = Σ_j a_ij^h (x_j − x_i)

    ‖Δ_i‖ ≤ Σ_h ‖M_h‖ ‖u_i^h‖ ≤ Σ_h ‖M_h‖ Σ_j a_ij^h ‖x_j − x_i‖                      (`pairwise`)
    ‖Δ_i‖ ≤ ‖[M_1 … M_H]‖ (Σ_h ‖u_i^h‖²)^½

The bounds follow from the triangle inequality over heads and over tokens, and from writing the sum
as one product with the matrices side by side. `bound` is the lesser of the two tighter ones, token
by token. All are divided by the norm of the residual that enters the block. If attention and MLP
read the same residual (Pythia), the bound also holds for what leaves the block; if the MLP reads
attention's output (GPT-Neo), the MLP adds a difference that is not bounded here. The paper of
Menta, Agrawal and Agarwal 2025 (arXiv 2501.05078) announces theorems on the same quantity.

Shape letters: B rows, T tokens, H heads, h head size, d width, V vocabulary, L blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import kl_div
from transformers import PreTrainedModel

from evals.run.batching import row_ranges, rows_per_batch
from evals.run.forward import POSITIONS_AT_ONCE, check_head, head_of
from evals.run.resuming import Run, run_from_block, run_tokens
from surgery.editing.in_memory import Editable, Replacements
from surgery.errors import MeasurementError, UnsupportedError
from surgery.families import Dimensions, family_of
from surgery.layouts import Block

Floats = npt.NDArray[np.float64]


@torch.inference_mode()
def measure_bounds(
    model: PreTrainedModel,
    windows: npt.NDArray[np.int32],
    *,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Difference, bound, and propagation for every block, each short-circuited alone (`identity`).

    **Arguments:** `model`: in eval mode; it runs with eager attention, which shows its weights, and
    is left as it was. `windows`: int32 [M, T], tokens of text without padding. `batch_size`:
    windows at a time; by default as many as memory allows. `advance` gets the number of windows
    just done.

    Returns plain JSON values: `windows` and `tokens`, counts; and what `_summarize` returns.

    Raises `UnsupportedError` for an architecture that is not supported and for compact checkpoints,
    `MeasurementError` when the windows do not fit or give numbers that are not finite.
    """
    blocks = range(_check(model, windows).num_blocks)
    mixings = [read_mixing(model, block) for block in blocks]
    editable = Editable(model)
    edits = [editable.make_replacements(editable.plan(str(block))) for block in blocks]
    totals, most = np.zeros((2, len(blocks), 3))
    carried = np.zeros((len(blocks), len(blocks) + 2))
    check_head(model)
    # A quarter: attention weights and distances in float64 come on top of a usual pass.
    size = batch_size or max(1, rows_per_batch(model, windows.shape[1]) // 4)
    with ExitStack() as undo:
        undo.callback(model.set_attn_implementation, model.config._attn_implementation)
        model.set_attn_implementation("eager")
        for rows in row_ranges(len(windows), size):
            tokens = torch.from_numpy(windows[rows].astype(np.int64)).to(model.device)
            base, relative = _run_unedited(model, tokens, mixings)
            totals += relative.sum((2, 3))
            most = np.maximum(most, relative.max((2, 3)))
            carried += _run_edits(model, edits, base)
            advance(len(tokens))
    means, carried = totals / windows.size, carried / windows.size
    if not (np.isfinite(most[:, :2]).all() and np.isfinite(carried).all()):
        raise MeasurementError(
            "the model gives numbers that are not finite",
            fix="use `dtype=float32` or bfloat16; if it stays, the model is broken",
        )
    counts = {"windows": len(windows), "tokens": windows.size}
    return counts | _summarize(means, most, carried)


def _summarize(means: Floats, most: Floats, carried: Floats) -> dict[str, Any]:
    """From means and maxima [L, 3], and what edits carry [L, L + 2], to plain JSON values.

    - `blocks`: for each, over all tokens and relative to the norm of the residual r_i that enters
      it, `measured_mean` and `measured_max` of ‖Δ_i‖, the same of its upper `bound` and of the
      looser `pairwise` bound; `tightness`: measured / bound mean; 1 if both are 0.
    - `propagation`: [L][L + 1], what is left of the edit of block l (row), mean over tokens. Column
      m < L: ‖r'_m − r_m‖ / ‖r_m‖, r_m the residual that leaves block m; None for m < l, which an
      edit cannot reach. Column L: the same of the logits, less each token's mean over the
      vocabulary, which softmax does not see.
    - `logits_kl`: [L], KL(base ‖ edited) of the next token, nats.
    """
    records = []
    for block, (mean, top) in enumerate(zip(means.tolist(), most.tolist(), strict=True)):
        figures: dict[str, float] = {}
        for name, *some in zip(("measured", "bound", "pairwise"), mean, top, strict=True):
            figures |= {f"{name}_mean": some[0], f"{name}_max": some[1]}
        tightness = mean[0] / mean[1] if mean[1] else 1.0
        records.append({"block": block, **figures, "tightness": tightness})
    rows = [[None] * block + carried[block, block:-1].tolist() for block in range(len(carried))]
    return {"blocks": records, "propagation": rows, "logits_kl": carried[:, -1].tolist()}


def _run_unedited(
    model: PreTrainedModel, tokens: torch.Tensor, mixings: Sequence[Mixing]
) -> tuple[Run, Floats]:
    """The unedited pass; `measure_differences` of each block over its residual [L, 3, B, T].

    The weights of one block exist at a time.
    """
    found: dict[int, torch.Tensor] = {}
    attention = family_of(model.config.to_dict()).attention

    def see(block: int, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        x_BTd = args[0] if args else kwargs["hidden_states"]
        found[block] = measure_differences(x_BTd, output[1], mixings[block])

    with ExitStack() as hooks:
        for block in range(len(mixings)):
            module = model.get_submodule(attention.format(block=block))
            hook = module.register_forward_hook(partial(see, block), with_kwargs=True)
            hooks.enter_context(hook)
        base = run_tokens(model, tokens, keep=range(len(mixings) + 1))
    tiny = torch.finfo().tiny
    sizes = (base.inputs[block].double().norm(dim=-1).clamp(min=tiny) for block in found)
    relative = [(some / size).cpu() for some, size in zip(found.values(), sizes, strict=True)]
    return base, torch.stack(relative).numpy()


def _run_edits(model: PreTrainedModel, edits: Sequence[Replacements], base: Run) -> Floats:
    """Sums over tokens of what each edit changes: `propagation` and `logits_kl`, [L, L + 2].

    Blocks below an edit do not run again. Memory: 2 L residuals of one batch.
    """
    blocks, head = len(edits), head_of(model)
    sums, hidden = np.zeros((blocks, blocks + 2)), [base.hidden]
    for block, edit in enumerate(edits):
        with edit.activate():
            keep = range(block + 1, blocks + 1)
            edited = run_from_block(model, block, base.inputs[block], keep=keep)
        for after in keep:
            sums[block, after - 1] = _sum_relative(edited.inputs[after], base.inputs[after])
        hidden.append(edited.hidden)
    pieces = (torch.split(states.flatten(0, 1), POSITIONS_AT_ONCE) for states in hidden)
    for before, *others in zip(*pieces, strict=True):
        base_nV = _center(head(before))
        log_p = base_nV.log_softmax(-1)
        for block, other in enumerate(others):
            logits_nV = _center(head(other))
            kl = kl_div(logits_nV.log_softmax(-1), log_p, reduction="none", log_target=True)
            sums[block, -2:] += (
                _sum_relative(logits_nV, base_nV),
                float(kl.sum(dtype=torch.float64)),
            )
    return sums


def _center(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().sub(logits.mean(-1, keepdim=True, dtype=torch.float32))


def _sum_relative(edited: torch.Tensor, base: torch.Tensor) -> float:
    """Σ ‖edited − base‖ / ‖base‖ over tokens, from [..., d]."""
    difference = (edited.float() - base.float()).norm(dim=-1)
    size = base.float().norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    return float((difference / size).sum(dtype=torch.float64))


def _check(model: PreTrainedModel, windows: npt.NDArray[np.int32]) -> Dimensions:
    """Checks that bounds can be computed, and returns the model's sizes."""
    config = model.config.to_dict()
    family = family_of(config)
    dimensions = family.dimensions(config)
    if config["model_type"] != family.model_type:
        raise UnsupportedError(
            "a compact checkpoint has blocks without attention, so there is nothing to bound",
            where=config["model_type"],
            expected=family.model_type,
            fix="use the model it was made from",
        )
    if family.is_latent:
        raise UnsupportedError(
            "a norm stands before the values, which the bounds are not derived for",
            where=config["model_type"],
        )
    if family.norm_after is not None or (family.clip and config.get(family.clip) is not None):
        raise UnsupportedError(
            "values are clipped, or a norm follows attention: what it adds to the residual is not "
            "linear in its values, which the bounds are derived for",
            where=config["model_type"],
        )
    if model.training:
        raise ValueError("bounds needs a model in eval mode: it would measure dropout, too")
    if windows.ndim != 2 or not windows.size:
        raise MeasurementError("no windows of text", expected="[M, T]", got=windows.shape)
    if windows.shape[1] > dimensions.max_positions:
        raise MeasurementError(
            "windows longer than the model's positions",
            expected=dimensions.max_positions,
            got=windows.shape[1],
        )
    return dimensions


@dataclass(frozen=True)
class Mixing:
    """One block's weights per head, as the model has them, and spectral norms.

    `value` [H, h, d] and `output` [H, d, h]: W_V and W_O; `per_head`: ‖W_O^h W_V^h‖ of each head;
    `stacked`: ‖[W_O^1 W_V^1 … W_O^H W_V^H]‖.
    """

    value: torch.Tensor
    output: torch.Tensor
    per_head: list[float]
    stacked: float


def read_mixing(model: PreTrainedModel, block: int) -> Mixing:
    """Raises `MeasurementError` when a weight is not finite.

    No [d, d] product is formed. With orthonormal Q, W_V^h = (Q R)ᵀ leaves ‖W_O^h W_V^h‖ =
    ‖W_O^h Rᵀ‖, a [d, h] matrix; side by side they are [d, d].
    """
    config = model.config.to_dict()
    family = family_of(config)
    dimensions = family.dimensions(config)

    def weight(name: str) -> Any:
        stored = model.get_parameter(name).detach()
        if not stored.isfinite().all():
            raise MeasurementError("a weight is not finite", where=name, fix="the model is broken")
        return stored

    tensors = Block(family, dimensions, block, frozenset(), weight)
    value_Hhd: Any = tensors.sources().weight
    columns = tensors.read("output_weight").reshape(dimensions.d, *value_Hhd.shape[:2])
    output_Hdh: Any = columns.swapaxes(0, 1)
    r_Hhh = torch.linalg.qr(value_Hhd.cpu().double().mT, mode="r").R
    reduced_Hdh = output_Hdh.cpu().double() @ r_Hhh.mT
    per_head = torch.linalg.matrix_norm(reduced_Hdh, ord=2).tolist()
    stacked = torch.linalg.matrix_norm(torch.cat([*reduced_Hdh], dim=1), ord=2)
    return Mixing(value_Hhd, output_Hdh, per_head, float(stacked))


def measure_differences(x_BTd: torch.Tensor, a_BHTT: torch.Tensor, mixing: Mixing) -> torch.Tensor:
    """‖Δ_i‖, its `bound` and its `pairwise` bound: float64 [3, B, T].

    From `x_BTd`, what attention reads, and `a_BHTT`, its weights.
    """
    x_BTd = x_BTd.double()
    distance_BTT = torch.cdist(x_BTd, x_BTd)
    distance_BTT.diagonal(dim1=1, dim2=2).zero_()  # cdist leaves 1e-8 ‖x‖ there
    delta_BTd = torch.zeros_like(x_BTd)
    by_head, squares, pairwise = x_BTd.new_zeros(3, *x_BTd.shape[:2])
    for head, norm in enumerate(mixing.per_head):
        a_BTT = a_BHTT[:, head].double()
        u_BTd = a_BTT @ x_BTd - a_BTT.sum(-1, keepdim=True) * x_BTd
        value_hd, output_dh = mixing.value[head].double(), mixing.output[head].double()
        delta_BTd += u_BTd @ value_hd.mT @ output_dh.mT
        by_head += norm * u_BTd.norm(dim=-1)
        squares += u_BTd.square().sum(-1)
        pairwise += norm * (a_BTT * distance_BTT).sum(-1)
    bound = by_head.minimum(mixing.stacked * squares.sqrt())
    return torch.stack([delta_BTd.norm(dim=-1), bound, pairwise])
