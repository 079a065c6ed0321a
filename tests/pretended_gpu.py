"""A GPU that is not there: tensors that are on it, as they say, and mix with no other.

Each holds a tensor of the CPU, which computes. Where a result is, and whether operands may mix,
`FakeTensorMode` decides, PyTorch's own model of its kernels. Fake tensors alone would not do: they
have no numbers to read, and in a PyTorch without CUDA, a pass back through them ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from surgery.training.planning import Imagining

GPU = torch.device("cuda", 0)
BYTES = 80_000_000_000
_CPU = torch.device("cpu")
_NUMBERLESS = DataDependentOutputException, DynamicOutputShapeException


class _OnGPU(torch.Tensor):
    """`held`: the tensor of the CPU; `place`: where this one says that it is; None: with the first
    that it is used with."""

    held: torch.Tensor
    place: torch.device | None
    device = property(lambda self: self.place or GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self, **_: Any) -> str:
        return f"on {self.place}: {self.held}"

    def __format__(self, form: str) -> str:
        return format(self.item(), form) if self.ndim == 0 else repr(self)

    @staticmethod
    def __new__(cls, held: torch.Tensor, place: torch.device | None) -> Any:
        told = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = cls._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, **told)
        made.held, made.place = held, place
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _list_tensors((args, kwargs))
        # a view, made in inference mode, of a tensor from before is none of that mode
        with torch._C.DisableTorchFunction(), torch.inference_mode(False):
            settled = _settle(given)
            place = _judge(func, args, kwargs, given)
            compute = _ONLY_THERE.get(func, func)
            made = compute(*_map(_take_held, args), **_map(_take_held, kwargs))
            if torch.Tag.inplace_view in func.tags:  # changes the shape that this one says it has
                with no_dispatch():
                    func(*args, **kwargs)
            return _wrap(made, place if settled or place == _CPU else None, given)


def _settle(given: list[torch.Tensor]) -> bool:
    """Puts those that are nowhere yet where the others are. Returns whether any is somewhere."""
    places = [one.place for one in given if isinstance(one, _OnGPU)]
    if None not in places:
        return True
    place = next((place for place in places if place is not None), None)
    for one in given:
        if isinstance(one, _OnGPU):
            one.place = one.place or place
    return place is not None


def _count(numbers: torch.Tensor, *given: Any) -> torch.Tensor:
    return torch.histc(numbers.float(), *given).to(numbers.dtype)


_ONLY_THERE = {torch.ops.aten.histc.default: _count}
"""What GPUs do with whole numbers and the CPU does not."""


def _map(change: Any, tree: Any) -> Any:
    """torch's own `tree_map` takes several times as long."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {name: _map(change, one) for name, one in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([_map(change, one) for one in tree])
    return tree


def _list_tensors(tree: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    _map(found.append, tree)
    return found


def _take_held(one: torch.Tensor) -> torch.Tensor:
    return one.held if isinstance(one, _OnGPU) else one


def _find_place(one: torch.Tensor) -> torch.device:
    return one.device if isinstance(one, _OnGPU) else _CPU


_JUDGE = Imagining()
_JUDGED: dict[object, torch.device] = {}


def _judge(func: Any, args: Any, kwargs: Any, given: Any) -> torch.device:
    """The device of what an operation returns. Raises `RuntimeError` for operands that no kernel
    takes together."""
    key = func, tuple((_find_place(one), one.ndim == 0, one.dtype) for one in given)
    if key not in _JUDGED:
        _JUDGED[key] = _ask(func, args, kwargs, given)
    return _JUDGED[key]


def _ask(func: Any, args: Any, kwargs: Any, given: Any) -> torch.device:
    def fake(one: torch.Tensor) -> torch.Tensor:
        shape = one.size(), one.stride()
        return torch.empty_strided(*shape, dtype=one.dtype, device=_find_place(one))

    if "index" in func._schema.name and isinstance(args[1], list | tuple):
        return _ask_for_indices(*args)
    own = {name: value for name, value in kwargs.items() if name != "device"}
    try:
        with _JUDGE, torch.no_grad():
            made = func(*_map(fake, args), **_map(fake, own))
    except _NUMBERLESS:  # what comes out depends on numbers
        places = {_find_place(one) for one in given if one.ndim} or {_find_place(given[0])}
        return _take_one(func, places)
    return _take_one(func, {one.device for one in _list_tensors(made)} or {_CPU})


def _ask_for_indices(
    indexed: torch.Tensor, indices: Any, values: torch.Tensor | None = None, *_: Any
) -> torch.device:
    """Indices may be on the CPU, wherever the indexed tensor is, and new values may be one number.
    `FakeTensorMode` would let all pass."""
    place = _find_place(indexed)
    places = {place, *(_find_place(one) for one in indices if one is not None)} - {_CPU}
    if values is not None and values.ndim:
        places.add(_find_place(values))
    return _take_one("indexing", places | {place})


def _take_one(func: Any, places: Any) -> torch.device:
    if len(places) > 1:
        raise RuntimeError(f"{func} of tensors on several devices: {sorted(map(str, places))}")
    (found,) = places
    return found


def _wrap(made: Any, place: torch.device | None, given: list[torch.Tensor]) -> Any:
    """What an operation made, where that is. What it changed in place is itself."""
    same = {id(_take_held(one)): one for one in given}

    def put(one: torch.Tensor) -> torch.Tensor:
        if id(one) in same:
            return same[id(one)]
        return one if place == _CPU else _OnGPU(one, place)

    return _map(put, made)


class _Move(torch.autograd.Function):
    """Takes a tensor to another device, and its gradient back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
        ctx.place = tensor.device
        return _copy(tensor, place)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _copy(gradient, ctx.place), None


def _copy(tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
    with torch._C.DisableTorchFunction():
        copied = _take_held(tensor).detach().clone()
        return copied if place.type == "cpu" else _OnGPU(copied, place)


def _move(tensor: torch.Tensor, place: Any) -> torch.Tensor:
    place = torch.device(place) if not isinstance(place, int) else torch.device("cuda", place)
    if place.type == "cuda" and place.index is None:
        place = GPU
    if _find_place(tensor) == place:
        return tensor
    if place.type == "meta":
        return torch.empty_like(_take_held(tensor), device="meta")
    if tensor.requires_grad and torch.is_grad_enabled():
        return _Move.apply(tensor, place)
    return _copy(tensor, place)


_COMPOSED = (torch.nn.functional.scaled_dot_product_attention,)
"""Functions that make tensors of their own, such as a mask, beside their operands."""


class _Making(TorchDispatchMode):
    """What PyTorch itself makes, in `_COMPOSED` or in a pass back, is where the operands are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # PyTorch itself takes all to be on the CPU
            made = func(*args, **(kwargs or {}))
        is_put = isinstance(made, _OnGPU)  # by the same mode, where a block runs again
        if func.namespace != "aten" or _list_tensors((args, kwargs)) or is_put:
            return made
        return _OnGPU(made, None)


class _Devices(TorchFunctionMode):
    """Does all that names a device: makes tensors, and takes them from one to another."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        place = kwargs.get("device")
        if func is torch.Tensor.to:
            return _do_to(*args, **kwargs)
        if func is torch.Tensor.cpu:
            return _move(args[0], _CPU)
        if func is torch.Tensor.tolist:
            return func(_move(args[0], _CPU))
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and isinstance(args[0], _OnGPU):
            raise TypeError(f"can't convert {args[0].device} device type tensor to numpy")
        if place is None or torch.device(place).type == "meta":
            with _Making() if func in _COMPOSED and args[0].is_cuda else nullcontext():
                return func(*args, **kwargs)
        made = func(*args, **kwargs | {"device": _CPU})
        is_imagined = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
        return made if is_imagined else _move(made, place)


def _do_to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    copies = kwargs.pop("copy", False)
    if args and isinstance(args[0], torch.Tensor):
        args = args[0].device, args[0].dtype, *args[1:]
    place, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    there = tensor if place is None else _move(tensor, place)
    with torch._C.DisableTorchFunction():
        return there.to(there.dtype if dtype is None else dtype, copy=copies and there is tensor)


class _Autocast(torch.autocast):
    """Casts on the GPU as on the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(device_type.replace("cuda", "cpu"), *args, **kwargs)


def _run_backward(tensors: Any, *given: Any, **told: Any) -> Any:
    """A pass back calls Python, too: hooks, and blocks that run again."""
    making = _Making() if tensors[0].is_cuda else nullcontext()
    with _Devices(), making:
        return _RUN_BACKWARD(tensors, *given, **told)


_RUN_BACKWARD = torch.autograd._engine_run_backward


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """Inside, tensors can be put on `GPU`, and on others. `torch.cuda.is_available` still says no,
    since libraries would keep another answer. Other threads know of none."""
    told = SimpleNamespace(total_memory=BYTES, major=8, minor=0)
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch, _Devices():
        patch.setattr(torch.autograd, "_engine_run_backward", _run_backward)
        patch.setattr(torch, "autocast", _Autocast)
        patch.setattr(torch.amp, "autocast", _Autocast)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (BYTES // 2, BYTES))
        patch.setattr(torch.cuda, "get_device_properties", lambda device=None: told)
        patch.setattr(torch.cuda, "memory_reserved", lambda device=None: 0)
        patch.setattr(torch.cuda, "memory_allocated", lambda device=None: 0)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "Pretended")
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)
