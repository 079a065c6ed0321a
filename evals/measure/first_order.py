"""Estimates what any edit of heads or blocks would do, to first order, in a few passes.

A response is the derivative of a scalar of the model's predictions along an edit: how much the
scalar changes as the edit is blended in. Responses of edits add up. One pass forward and a few back
give those of every part at once.

Shape letters: P parts, D draws, N rows, B rows at a time, T tokens that are read, S predictions
after the prefix, H heads, h head size, d width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import align_module_device
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from evals.data import NOTHING, Samples, Tokens
from evals.run.batching import row_ranges
from evals.run.forward import check_head, freeze_weights, head_of
from surgery.cut import Cut, get_fit, get_map
from surgery.errors import MeasurementError
from surgery.families import Family, What, family_of
from surgery.in_memory import Editable
from surgery.loading import close_up, place_ids, take_places
from surgery.processes import count_for_all, share
from surgery.selection import EditedHeads
from surgery.variants import Fit, variant_of

Floats = npt.NDArray[np.float32]
Score = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]
"""Logits [B, S, V], true tokens [B, S], which rows -> scalars of single predictions [D, B, S]."""

_NORMED = {
    "olmo2": "post_attention_layernorm",
    "olmo3": "post_attention_layernorm",
    "gemma2": "post_attention_layernorm",
    "gemma3_text": "post_attention_layernorm",
}
"""Model type → the norm that the output of attention goes through before it is added."""
_SEED = 20_250_501
_BYTES = 1 << 30
"""About what the activations of the rows that go through the model together may take."""
_SHARES = 16
"""In how many parts a text goes through at least, so that processes can share it evenly."""


@dataclass(frozen=True)
class Probe:
    """The `parts` of `model` whose responses are computed. It is in eval mode, with its output
    embedding.

    - `fits`: by block, for variants that are fitted.
    - `advance` is told of rows done. The current processes share them; each gets the whole result.
    """

    model: PreTrainedModel
    parts: Sequence[EditedHeads]
    fits: Mapping[int, Fit]
    advance: Callable[[int], None]

    @cached_property
    def stock(self) -> frozenset[EditedHeads]:
        """Those of the parts that the stock layout can hold. There, a group has one map."""
        find_refusal = Editable(self.model).find_refusal
        refusals = {part: find_refusal((part,), layout="stock") for part in self.parts}
        return frozenset(part for part, refusal in refusals.items() if refusal is None)


def expand_loss(looking: Probe, windows: Tokens, draws: int) -> Floats:
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


def expand_margins(looking: Probe, samples: Samples) -> tuple[Floats, Floats]:
    """How the margin of each suffix token responds, float32 [P, S, N]; and the margins [N, S].

    The margin is the true token's logit less the largest of all others. What responds is a smooth
    one, less the log-sum-exp of all others. (A likelihood's gradient vanishes where it is certain.)
    Both in nats. After the end of a shorter suffix, margins are infinite, and nothing responds.
    """

    def margin(logits: torch.Tensor, true: torch.Tensor, rows: slice) -> torch.Tensor:
        own, others = _compare_logits(logits, true)
        return (own - others.logsumexp(-1)).unsqueeze(0)

    moved, margins = _respond(looking, samples.tokens, samples.prefix_length, margin, apart=True)
    ended = samples.suffixes == NOTHING
    moved[:, ended.T] = 0
    margins[ended] = np.inf
    return moved, margins


def draw_uniform(rows: Sequence[int], positions: int, draws: int) -> torch.Tensor:
    """Random numbers in [0, 1), float64 [rows, positions, D]; each belongs to a row and a draw."""
    numbers = [
        [np.random.default_rng((_SEED, row, draw)).random(positions) for draw in range(draws)]
        for row in rows
    ]
    return torch.from_numpy(np.array(numbers)).transpose(1, 2).contiguous()


def _compare_logits(logits: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The true tokens' logits [B, S], and all logits with -inf in their places [B, S, V]."""
    index = true.unsqueeze(-1)
    return logits.gather(-1, index).squeeze(-1), logits.scatter(-1, index, float("-inf"))


def _respond(
    looking: Probe, tokens: Tokens, prefix_length: int, score: Score, *, apart: bool = False
) -> tuple[Floats, Floats]:
    """r(part, n) = Σ_t ⟨∂s/∂y(t), Δy(t)⟩ [P, D, N]; margins [N, S].

    s is the sum of a row's scores, or with `apart` the score of one position a draw; y is what a
    block adds to the residual by attention. Which rows are computed together depends on shapes
    alone, so the number of processes changes nothing. Raises `MeasurementError` where responses
    are not finite.
    """
    model, advance = looking.model, count_for_all(looking.advance)
    check_head(model)
    places: dict[int, list[int]] = {}
    for place, part in enumerate(looking.parts):
        places.setdefault(part.block, []).append(place)

    def run(rows: slice) -> tuple[Floats, Floats]:
        whole = torch.from_numpy(tokens[rows].astype(np.int64))
        closed, moved = close_up(whole)
        ids = place_ids(model, closed)
        with (
            torch.enable_grad(),
            freeze_weights(model),
            _watch_blocks(model, places) as (seen, outputs),
        ):
            # The last token predicts nothing, so it is not read.
            hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            if moved is not None:
                hidden = take_places(hidden, moved[:, :-1])
            hidden = hidden[:, prefix_length - 1 :]
            end = hidden.detach().requires_grad_()
            logits = _precise(head_of(model)(end))
            true = whole[:, prefix_length:].clamp(min=0).to(logits.device)
            scores = score(logits, true, rows)
            ends = [torch.autograd.grad(one.sum(), end, retain_graph=True)[0] for one in scores]
            if apart:
                ends = [ends[0] * at for at in torch.eye(true.shape[1]).to(end).unsqueeze(-1)]
            added = [outputs[block] for block in places]
            by_draw = [torch.autograd.grad(hidden, added, one, retain_graph=True) for one in ends]
        values = np.empty((len(looking.parts), len(ends), len(ids)), dtype=np.float32)
        for block, gradients in zip(places, zip(*by_draw, strict=True), strict=True):
            gradient_DBTd = _precise(torch.stack(gradients))
            changes = _change_outputs(looking, block, places[block], *seen.pop(block))
            for place, change_BTd in zip(places[block], changes, strict=True):
                products = torch.einsum("dbtk,btk->dbt", gradient_DBTd, change_BTd)
                values[place] = products.cpu().double().sum(-1).numpy()
        advance(len(ids))
        own, others = _compare_logits(logits.detach(), true)
        return values, (own - others.amax(-1)).float().cpu().numpy()

    at_once = min(_rows_at_once(model, tokens.shape[1]), math.ceil(len(tokens) / _SHARES))
    values, margins = zip(*share(run, row_ranges(len(tokens), at_once)), strict=True)
    found = np.concatenate(values, axis=-1)
    if not np.isfinite(found).all():
        raise MeasurementError(
            "the model's gradients are not finite",
            got=f"NaN or infinity in {int((~np.isfinite(found)).any((0, 1)).sum())} rows",
            fix="use `dtype=float32` or bfloat16; if it stays, the model is broken",
        )
    return found, np.concatenate(margins)


def _rows_at_once(model: PreTrainedModel, length: int) -> int:
    """What passes back need of each row: vectors of every block, gradients of every draw, attention
    scores, and logits. There are no more draws than tokens."""
    config = model.config.to_dict()
    size = family_of(config).dimensions(config)
    vectors = (18 + length) * max(size.d, size.context) + 4 * size.num_heads * length
    numbers = size.num_blocks * vectors + 6 * int(config["vocab_size"])
    return max(1, _BYTES // (4 * length * numbers))


@contextmanager
def _watch_blocks(
    model: PreTrainedModel, blocks: Iterable[int]
) -> Iterator[tuple[dict[int, list[torch.Tensor]], dict[int, torch.Tensor]]]:
    """x and z, and what is added to the residual, by block, of the pass that is made inside."""
    family = family_of(model.config.to_dict())
    seen: dict[int, list[torch.Tensor]] = {}
    outputs: dict[int, torch.Tensor] = {}

    def take_input(block: int, module: nn.Module, args: Any) -> None:
        seen.setdefault(block, []).append(args[0].detach())

    def take_output(block: int, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        outputs[block] = output
        if not output.requires_grad:  # nothing below has a gradient: it begins here
            output.requires_grad_()

    with ExitStack() as hooks:
        for block in blocks:
            read, projection = map(model.get_submodule, family.reading(block))
            for module in (read, projection):
                hooks.enter_context(module.register_forward_pre_hook(partial(take_input, block)))
            adding = _norm_after(model, family, block) or projection
            hooks.enter_context(adding.register_forward_hook(partial(take_output, block)))
        yield seen, outputs


def _norm_after(model: PreTrainedModel, family: Family, block: int) -> nn.Module | None:
    """The norm that the output of a block's attention goes through before it is added."""
    parent = family.attention.format(block=block).rpartition(".")[0]
    around = model.get_submodule(parent)
    names = _NORMED.get(family.model_type)
    return None if names is None else getattr(around, names)


@torch.no_grad()
def _change_outputs(
    looking: Probe, index: int, places: Iterable[int], x: torch.Tensor, z: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Yields, for each part, the change that it makes to what attention adds to the residual
    [B, T, d].

    That is W_O z + b_O, or where a norm follows, that norm of it. Such a norm undoes what scales
    its input, so a derivative would not see an output that becomes zero: its whole change counts.
    """
    model, config = looking.model, looking.model.config.to_dict()
    family = family_of(config)
    norm, heads = _norm_after(model, family, index), family.dimensions(config).num_heads
    limit = config.get(family.clip) if family.clip else None

    def read(name: str) -> Any:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        with align_module_device(module):  # it may be offloaded
            found = getattr(module, leaf)
            return None if found is None else found.detach()

    z, size = _precise(z), family.dimensions(config)
    x = _precise(x).reshape(*z.shape[:-1], -1)
    weight: Any = read(family.name(index, "output"))
    bias: Any = read(family.name(index, "output", "bias"))
    cut = Cut(family, size, config, {}, "F32", index, {})

    def read_values(what: What) -> torch.Tensor | None:
        found = read(family.name(index, "value", what))
        if found is None:
            return None
        values: Any = cut.views("value", found)["value"]
        return torch.repeat_interleave(values, size.heads_per_group, 0)

    output = functional.linear(z, weight.to(z), None if bias is None else bias.to(z))
    added = output if norm is None else norm(output)
    columns, z_heads = (values.unflatten(-1, (heads, -1)) for values in (weight.to(z), z))
    alone: dict[tuple[str, bool], torch.Tensor] = {}
    for part in (looking.parts[place] for place in places):
        some = list(part.heads)
        if len(some) == heads and variant_of(part.variant).kind == "none":
            yield -added
            continue
        kind = part.variant, part in looking.stock
        if kind not in alone:
            maps = _map_tokens(part.variant, read_values, looking.fits.get(index))
            held = kind[1] and maps[0] is not None
            groups = size.num_groups if held and variant_of(part.variant).fitted else 0
            alone[kind] = _attend_alone(maps, x, z, groups, limit if held else None)
        moved = alone[kind].view_as(z_heads)[:, :, some] - z_heads[:, :, some]
        change = functional.linear(moved.flatten(2), columns[:, some].flatten(1))
        yield change if norm is None else norm(output + change) - added


def _map_tokens(
    variant: str, read_values: Callable[[What], torch.Tensor | None], fit: Fit | None
) -> tuple[Any, Any]:
    """M [H, h, d] and c [H, h] of a variant; None for zeros."""
    if variant == "identity":
        return read_values("weight"), read_values("bias")
    if variant == "zero":
        return None, None
    if variant == "mean":
        return None, get_fit(fit).mean
    return get_map(fit)


def _attend_alone(
    maps: tuple[Any, Any], x: torch.Tensor, z: torch.Tensor, groups: int, limit: float | None
) -> torch.Tensor:
    """M x + c of all heads [B, T, H h]. `groups` of heads share the mean of their maps; 0: each has
    its own. `limit`: to which the model clips values, if it does."""

    def place(values: Any) -> torch.Tensor:
        if not isinstance(values, torch.Tensor):
            values = torch.from_numpy(np.array(values))  # it may lie in a file, to be read only
        if groups:
            apart = values.double().unflatten(0, (groups, -1))
            values = apart.mean(1, keepdim=True).expand_as(apart).flatten(0, 1)
        return torch.as_tensor(values.to(z)).flatten(0, 1)

    weight, constant = maps
    bias = z.new_zeros(z.shape[-1]) if constant is None else place(constant)
    if weight is None:
        return bias.expand_as(z)
    alone = functional.linear(x, place(weight), bias)
    return alone if limit is None else alone.clamp(-limit, limit)


def _precise(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
