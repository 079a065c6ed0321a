"""What a training needs of memory, measured before it starts, and how it fits into what is free.

Nothing is estimated by a formula: the training's own code takes two steps on tensors that have
shapes and no numbers (torch's `FakeTensorMode`), while all that it allocates is counted. In the
second step, the moments of AdamW are there as well. So a model without weights will do.
"""

from __future__ import annotations

import copy
import weakref
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from surgery.errors import UnsupportedError
from surgery.processes import share_free_memory

RANK = 8
"""The rank of adapters where memory holds no training of all weights."""
STEPS = 2
SMALL = 1000
"""A model whose weights fit so often into free memory is trained without a measurement, which takes
seconds: even of narrow models, a step needs a few hundred times as much as the weights."""
USABLE = 0.9
"""Of free memory: an allocator leaves some unused."""


@dataclass(frozen=True)
class Fit:
    """How a training fits into memory. `rank`: of adapters; 0: the weights themselves are learned.

    `rows`: of a pass, at most; `checkpointing`: as for `make_student`. `needed`: beside the model
    and its teachers, in bytes.
    """

    rank: int
    rows: int
    checkpointing: bool
    needed: int = 0


_MEASURED: dict[object, int] = {}
Try = Callable[[Any, Fit], object]
"""Takes `STEPS` steps with a model, each loss of which has two passes of `rows` rows, or one."""


def fit(
    model: Any,
    take_steps: Try,
    key: object,
    *,
    ranks: Sequence[int],
    most_rows: int,
    room: int | None = None,
) -> Fit:
    """The first way to train a model that memory holds: each of `ranks`, without and then with
    checkpointing, with as many rows in a pass as fit: a power of two, or all.

    `key`: tells one kind of steps from another, which may need as much on models alike. `room`:
    bytes; by default, what is free where the model is. Raises `UnsupportedError` if none
    fits.
    """
    if room is None:
        places = {parameter.device for parameter in model.parameters()}  # a model may be spread
        room = int(USABLE * sum(map(share_free_memory, places)))
        if SMALL * sum(parameter.nbytes for parameter in model.parameters()) <= room:
            return Fit(ranks[0], most_rows, checkpointing=False)
    least, kind = 0, (_describe(model), repr(key))

    def measure(asked: Fit) -> int:
        known = (*kind, asked)
        if known not in _MEASURED:
            _MEASURED[known] = measure_needed(model, lambda imagined: take_steps(imagined, asked))
        return _MEASURED[known]

    for rank in ranks:
        for checkpointing in (False, True):
            whole = Fit(rank, most_rows, checkpointing)
            found, least = _fit_rows(measure, whole, room)
            if found is not None:
                return found
            if least == measure(whole):  # passes are not what takes it, so checkpointing is no help
                break
    raise UnsupportedError(
        "the weights to train do not fit into memory with the model",
        expected=f"at least {least / 1e9:,.1f} GB beside it",
        got=f"{room / 1e9:,.1f} GB",
        fix="train it on a larger machine",
    )


def _fit_rows(measure: Callable[[Fit], int], whole: Fit, room: int) -> tuple[Fit | None, int]:
    """The fit with the most rows, and what the fewest of those that were measured need."""
    if (needed := measure(whole)) <= room:
        return replace(whole, needed=needed), needed
    fewer = [replace(whole, rows=1 << power) for power in range((whole.rows - 1).bit_length())]
    if not fewer or (one := measure(fewer[0])) > room:
        return None, one if fewer else needed
    found = fewer[bisect(fewer, room, lo=1, key=measure) - 1]
    return replace(found, needed=measure(found)), one


def measure_needed(model: Any, run: Callable[[Any], object]) -> int:
    """The most bytes that `run` holds at a time beside the model, which it gets without numbers."""
    with imagine(model) as imagined, _Count(next(imagined.parameters()).device.type) as count:
        run(imagined)
    most: int = count.most
    return most


@contextmanager
def imagine(model: Any) -> Iterator[Any]:
    """Inside, a copy of a model whose tensors have shapes and no numbers, as all that is made."""
    with Imagining(allow_non_fake_inputs=True):
        kept: dict[int, Any] = {}
        for parameter in (*model.parameters(), *model.buffers()):
            place = "cpu" if parameter.is_meta else parameter.device
            empty = torch.empty_strided(
                parameter.size(), parameter.stride(), dtype=parameter.dtype, device=place
            )
            is_weight = isinstance(parameter, torch.nn.Parameter)
            kept[id(parameter)] = (
                torch.nn.Parameter(empty, requires_grad=False) if is_weight else empty
            )
        yield copy.deepcopy(model, kept)


class Imagining(FakeTensorMode):  # type: ignore[no-untyped-call]
    """torch's own, and products of groups of rows, as experts make them, in every dtype: torch
    2.13 imagines those of bfloat16 alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _PRODUCTS:
            return _imagine_products(*args)
        return super().__torch_dispatch__(func, types, args, kwargs)


_PRODUCTS = getattr(getattr(torch.ops.aten, "_grouped_mm", None), "default", None)


def _imagine_products(a: torch.Tensor, b: torch.Tensor, ends: Any = None, *_: Any) -> torch.Tensor:
    """Rows [S, k] by a matrix [k, n] for each group → [S, n]; columns [k, S] by rows [S, n], which
    gives the gradient → [G, k, n]. `ends` [G]: where each of the groups of S ends."""
    groups = [len(ends)] if a.ndim == b.ndim == 2 else []
    return a.new_empty(*groups, a.shape[-2], b.shape[-1])


def _describe(model: Any) -> object:
    """What tells models apart that need different amounts of memory."""
    weights = [
        (tuple(parameter.shape), parameter.dtype, parameter.device.type)
        for parameter in model.parameters()
    ]
    return type(model).__name__, hash(tuple(weights)), hash(model.config.to_json_string())


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are made inside on a type of device, as long as they
    live."""

    def __init__(self, device_type: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._device_type = device_type
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for one in _list_tensors((args, kwargs)):
            if (storage := one.untyped_storage()) not in self._known:
                self._known[storage] = 0  # it is older than this, so a view of it is not new
        made = func(*args, **(kwargs or {}))
        for one in _list_tensors(made):
            if (storage := one.untyped_storage()) not in self._known:
                size = storage.nbytes() if one.device.type == self._device_type else 0
                self._known[storage] = size
                self.now += size
                weakref.finalize(storage, self._forget, size)
        self.most = max(self.most, self.now)
        return made

    def _forget(self, size: int) -> None:
        self.now -= size


def _list_tensors(given: Any) -> Iterator[torch.Tensor]:
    return (leave for leave in tree_leaves(given) if isinstance(leave, torch.Tensor))
