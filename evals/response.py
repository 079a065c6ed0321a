"""Estimates what any edit of heads or blocks would do, to first order, in a few passes.

A response is the derivative of a scalar of the model's predictions along an edit: how much the
scalar changes as the edit is blended in. Responses of edits add up. One pass forward and a few back
give those of every part at once; `benchmarks/estimates.py` prints how close they come.

Shape letters: P parts, D draws, N rows, B rows at a time, T tokens that are read, S predictions
after the prefix, H heads, d width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from evals.contexts import Seen, norm_after, respond_to, tensor_of, watch_blocks
from evals.running.batching import row_ranges
from evals.running.forward import check_head, head_of
from evals.samples import Samples, Tokens
from surgery.editing.loading import place_ids
from surgery.errors import MeasurementError
from surgery.families import Dimensions, Family, family_of
from surgery.layouts import Block
from surgery.processes import current_processes
from surgery.selection import Part
from surgery.variants import Fit

Floats = npt.NDArray[np.float32]
Score = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]
"""Logits [B, S, V], true tokens [B, S], which rows -> scalars of single predictions [D, B, S]."""

_SEED = 20_250_501
_BYTES = 1 << 30
"""About what the activations of the rows that go through the model together may take."""
_SHARES = 16
"""In how many parts a text goes through at least, so that processes can share it evenly."""


@dataclass(frozen=True)
class Looking:
    """Whose responses: of `parts` of `model`, which is in eval mode and has its output embedding.

    - `fits`: by block, for variants that are fitted.
    - `stock`: those of the parts that the stock layout holds. There, a group has one map.
    - `advance` is told of rows done. The current processes share them; each gets the whole result.
    """

    model: PreTrainedModel
    parts: Sequence[Part]
    fits: Mapping[int, Fit]
    advance: Callable[[int], None]
    stock: frozenset[Part] = frozenset()


def respond_heldout(looking: Looking, windows: Tokens, draws: int) -> Floats:
    """How the likelihood of tokens that the model draws itself responds: float32 [P, D, N].

    Half the mean square of a sum of responses is ½ Δ' F Δ, where the Fisher information F is the
    Hessian of KL(base || edited). Rows are scaled so that the mean square of their sum estimates
    this divergence in nats per token. `windows`: int32 [N, T], of which the first token counts not.
    """
    positions = windows.shape[1] - 1

    def drawn_likelihood(logits: torch.Tensor, true: torch.Tensor, rows: slice) -> torch.Tensor:
        cumulative = logits.detach().softmax(-1).cumsum(-1, dtype=torch.float64)
        random = draw_uniform(range(len(windows))[rows], positions, draws).to(logits.device)
        drawn = torch.searchsorted(cumulative, random * cumulative[..., -1:], right=True)
        drawn = drawn.clamp(max=logits.shape[-1] - 1)
        return logits.log_softmax(-1).gather(-1, drawn).movedim(-1, 0)

    found, _ = _respond(looking, windows, 1, drawn_likelihood)
    scaled: Floats = found * np.float32((0.5 / positions) ** 0.5)
    return scaled


def respond_margins(looking: Looking, samples: Samples) -> tuple[Floats, Floats]:
    """How the margin of each suffix token responds, float32 [P, S, N]; and the margins [N, S].

    The margin is the true token's logit less the largest of all others. What responds is a smooth
    one, less the log-sum-exp of all others. (A likelihood's gradient vanishes where it is certain.)
    Both in nats.
    """

    def margin(logits: torch.Tensor, true: torch.Tensor, rows: slice) -> torch.Tensor:
        index = true.unsqueeze(-1)
        others = logits.scatter(-1, index, float("-inf")).logsumexp(-1)
        return (logits.gather(-1, index).squeeze(-1) - others).unsqueeze(0)

    return _respond(looking, samples.tokens, samples.prefix_length, margin, apart=True)


def draw_uniform(rows: Sequence[int], positions: int, draws: int) -> torch.Tensor:
    """Random numbers in [0, 1), float64 [rows, positions, D]; each belongs to a row and a draw."""
    numbers = [
        [np.random.default_rng((_SEED, row, draw)).random(positions) for draw in range(draws)]
        for row in rows
    ]
    return torch.from_numpy(np.array(numbers)).transpose(1, 2).contiguous()


def _respond(
    looking: Looking, tokens: Tokens, prefix_length: int, score: Score, *, apart: bool = False
) -> tuple[Floats, Floats]:
    """r(part, n) = Σ_t ⟨∂s/∂z(t), M x_t + c - z(t)⟩ over its heads [P, D, N]; margins [N, S].

    s is the sum of a row's scores, or with `apart` the score of one position a draw; z are a head's
    context vectors. Which rows are computed together depends on shapes alone, so the number of
    processes changes nothing. Raises `MeasurementError` where responses are not finite.
    """
    model, processes = looking.model, current_processes()
    config = model.config.to_dict()
    family = family_of(config)
    dimensions = family.dimensions(config)
    check_head(model)
    present = frozenset(model.state_dict())
    by_block: dict[int, list[int]] = {}
    for index, part in enumerate(looking.parts):
        by_block.setdefault(part.block, []).append(index)

    def one(rows: slice) -> tuple[Floats, Floats]:
        ids = place_ids(model, torch.from_numpy(tokens[rows].astype(np.int64)))
        seen, margins = _run(model, family, by_block, ids, prefix_length, score, rows, apart)
        responses: dict[int, torch.Tensor] = {}
        for index, places in by_block.items():
            block = Block(family, dimensions, index, present, partial(tensor_of, model))
            some = [looking.parts[place] for place in places]
            limit = config.get(family.clip) if family.clip else None
            fit = looking.fits.get(index)
            found = respond_to(block, some, looking.stock, fit, seen.pop(index), limit)
            responses |= zip(places, found, strict=True)
        values = torch.stack([responses[place] for place in range(len(responses))]).float().numpy()
        looking.advance(processes.count * values.shape[-1])
        return values, margins

    at_once = _rows_at_once(dimensions, tokens.shape, int(config["vocab_size"]))
    chunks = row_ranges(len(tokens), min(at_once, math.ceil(len(tokens) / _SHARES)))
    values, margins = zip(*processes.map_in_order(one, chunks), strict=True)
    found = np.concatenate(values, axis=-1)
    if not np.isfinite(found).all():
        raise MeasurementError(
            "the model's gradients are not finite",
            got=f"NaN or infinity in {int((~np.isfinite(found)).any((0, 1)).sum())} rows",
            fix="use `dtype=float32` or bfloat16; if it stays, the model is broken",
        )
    return found, np.concatenate(margins)


def _rows_at_once(dimensions: Dimensions, shape: tuple[int, ...], vocabulary: int) -> int:
    """What passes back need of each row: vectors of every block, gradients of every draw, attention
    scores, and logits. There are no more draws than tokens."""
    length = shape[1]
    width = max(dimensions.d, dimensions.context)
    vectors = (18 + 2 * length) * width + 4 * dimensions.num_heads * length
    return max(1, _BYTES // (4 * length * (dimensions.num_blocks * vectors + 6 * vocabulary)))


def _run(
    model: PreTrainedModel,
    family: Family,
    blocks: Iterable[int],
    ids: torch.Tensor,
    prefix_length: int,
    score: Score,
    rows: slice,
    apart: bool,
) -> tuple[dict[int, Seen], Floats]:
    """One pass over `ids` [B, T + 1], and one back for every draw; also the margins [B, S]."""
    with (
        torch.enable_grad(),
        _frozen(model),
        watch_blocks(model, family, blocks) as (xs, zs, outputs),
    ):
        # The last token predicts nothing, so it is not read.
        hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        hidden = hidden[:, prefix_length - 1 :]
        end = hidden.detach().requires_grad_()
        logits = head_of(model)(end)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        true = ids[:, prefix_length:].to(logits.device)
        scores = score(logits, true, rows)
        ends = [torch.autograd.grad(one.sum(), end, retain_graph=True)[0] for one in scores]
        if apart:
            ends = [ends[0] * place for place in torch.eye(true.shape[1]).to(end).unsqueeze(-1)]
        wanted = [*zs.values(), *outputs.values()]
        by_draw = [torch.autograd.grad(hidden, wanted, one, retain_graph=True) for one in ends]
    by_module = list(zip(*by_draw, strict=True))
    both = zip(zs, by_module[: len(zs)], by_module[len(zs) :], strict=True)
    seen = {
        block: Seen(
            xs[block], zs[block].detach(), at_z, at_output, norm_after(model, family, block)
        )
        for block, at_z, at_output in both
    }
    logits, index = logits.detach(), true.unsqueeze(-1)
    others = logits.scatter(-1, index, float("-inf")).amax(-1)
    return seen, (logits.gather(-1, index).squeeze(-1) - others).float().cpu().numpy()


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Weights need no gradient, only the context vectors do."""
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def set_all(needed: bool) -> None:
        with torch.inference_mode():  # offloaded parameters may have been made in it
            for name in learning:  # and are other objects after a pass
                model.get_parameter(name).requires_grad_(needed)

    set_all(False)
    try:
        yield
    finally:
        set_all(True)
