"""What learns: a copy of a model that shares with it every tensor that stays.

All weights are learned, or those of some names, or low-rank adapters (Hu et al. 2021, arXiv
2106.09685) beside every linear layer and all fused experts. What is learned is in float32; what
stays is the model's own, in its dtype, and needs no gradient. So the model can teach its student
without a second copy of it.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from surgery.adapter import ALPHA, Adapter
from surgery.checkpoint import Entry
from surgery.errors import CheckpointError, UnsupportedError
from surgery.tensors import Tensor
from surgery.torch_tensors import TAGS, as_bytes
from surgery.training.loop import SCALE

Flags = npt.NDArray[np.bool_]
Change = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
_ADAPTER = "default"


@dataclass(frozen=True, eq=False)
class Student:
    """A model that learns. `base`: what it was made of. `learned`: the tensors that change.

    `adapted`: the model within its peft wrapper, where adapters are learned. `owns_base`: `settle`
    turns the base into the result, so that no second one is in memory.
    """

    model: Any
    base: Any
    learned: list[torch.Tensor]
    adapted: Any = None
    owns_base: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """That of forward passes."""
        found: torch.dtype = self.base.dtype
        return found

    @property
    def scale(self) -> float:
        """What to multiply a loss by before its gradients go through the model. AdamW takes the
        same steps."""
        return SCALE if self.dtype is torch.float16 else 1.0

    def cast(self) -> AbstractContextManager[Any]:
        """Inside, passes of float32 weights are in bfloat16, if that is the dtype of passes: they
        take a third of the time on a CPU."""
        here = self.base.device.type
        return torch.autocast(here, torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    def list_weights(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """The name of each weight that changed, what it was, and what it is, in float32."""
        before = dict(self.base.named_parameters())
        with torch.no_grad():
            if self.adapted is None:
                for name, weight in self.model.named_parameters():
                    if weight.requires_grad:
                        yield name, before[name], weight.detach()
                return
            for name, module in _list_adapters(self.model):
                old = before[name]
                yield name, old, old.float() + module.get_delta_weight(_ADAPTER).float()

    def take_adapter(self) -> Adapter:
        """What adapters learned, as peft stores it. Reading a tensor raises `CheckpointError` for a
        number that is not finite."""
        modules, parameters = list[str](), list[str]()
        for name, module in _list_adapters(self.model):
            by_name = parameters if hasattr(module, "parameter_name") else modules
            by_name.append(name if by_name is parameters else name.removesuffix(".weight"))
        rank: int = self.adapted.peft_config[_ADAPTER].r
        tensors = tuple(
            _store(name.replace(f".{_ADAPTER}.", "."), one)
            for name, one in self.adapted.named_parameters()
            if one.requires_grad
        )
        return Adapter(rank, tuple(sorted(modules)), tuple(sorted(parameters)), tensors)

    def settle(self, change: Change = lambda name, old, new: new.to(old.dtype, copy=True)) -> Any:
        """A model of what was learned, which shares the rest with `base`, or is the base, changed.

        `change`: name, weight before, weight after in float32 → the new weight; by default, the
        nearest one in the dtype of that before.
        """
        new: dict[str, torch.Tensor] = {}
        for name, before, after in self.list_weights():
            made = change(name, before, after)
            if self.owns_base:
                before.detach().copy_(made)
            else:
                new[name] = made
        return (
            self.base if self.owns_base else copy_sharing(self.base, lambda name, _: new.get(name))
        )


def make_student(
    base: Any,
    *,
    rank: int = 0,
    names: Collection[str] | None = None,
    constants: Mapping[str, Flags] | None = None,
    seed: int = 0,
    owns_base: bool = False,
) -> Student:
    """Copies a model so that a part of it learns. The model does not change while it does.

    `rank`: of the adapters to learn; 0: the weights of these `names`, None: all. `constants`:
    parameter → which of its numbers stay. `owns_base`: as for `Student`.
    """
    fixed = {name: flags for name, flags in (constants or {}).items() if flags.any()}
    if any(parameter.is_meta for parameter in base.parameters()):
        raise UnsupportedError(
            "training needs every weight in memory, and some are offloaded",
            fix="leave out `device=all`",
        )

    def prepare(name: str, old: torch.Tensor) -> torch.Tensor | None:
        learns = not rank and (names is None or name in names)
        if not learns or (name in fixed and fixed[name].all()):
            return None
        new = torch.nn.Parameter(old.detach().to(torch.float32, copy=True))
        if name in fixed:
            free = torch.from_numpy(~fixed[name]).to(new.device)
            new.register_hook(lambda gradient: gradient * free)  # type: ignore[no-untyped-call]
        return new

    model, adapted = copy_sharing(base, prepare).eval(), None  # no dropout: the same every time
    if rank:
        adapted = _add_adapters(model, rank, fixed, seed)
    learned: list[torch.Tensor] = [
        parameter for parameter in model.parameters() if parameter.requires_grad
    ]
    return Student(model, base, learned, adapted, owns_base)


def copy_sharing(
    model: Any, change: Callable[[str, torch.Tensor], torch.Tensor | None] = lambda name, _: None
) -> Any:
    """A copy that has its tensors in common with a model, without gradients.

    `change`: name and parameter → what takes its place in the copy; None: the same numbers.
    """
    kept = {id(buffer): buffer for buffer in model.buffers()}
    for name, one in model.named_parameters():
        new = change(name, one)
        if new is None:
            new = torch.nn.Parameter(one.detach(), requires_grad=False)
        elif not isinstance(new, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=False)
        kept[id(one)] = new
    return copy.deepcopy(model, kept)


def cast_weights(model: Any, dtype: torch.dtype) -> Any:
    """A copy with all weights in another dtype. It shares none of them. Buffers, such as rotary
    frequencies, stay."""
    return copy_sharing(model, lambda _, one: one.detach().to(dtype, copy=True))


def _add_adapters(model: Any, rank: int, fixed: Collection[str], seed: int) -> Any:
    """Puts adapters into a model, in place. Returns what wraps it.

    None of what holds a constant gets one; nor does the head, which may be the embedding as well.
    They are made without numbers, since peft would draw them on the device: the first matrix of
    each is drawn on the CPU, and the second is zero.
    """
    from peft import LoraConfig, get_peft_model

    head = model.get_output_embeddings()
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and f"{name}.weight" not in fixed  # an adapter leaves biases as they are
    ]
    experts = [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if not isinstance(module, torch.nn.Conv1d)
        for name, one in module.named_parameters(recurse=False)
        if one.ndim == 3 and f"{path}.{name}" not in fixed
    ]
    if experts:  # peft would take a layer of such a name for one of theirs
        alike = [name for name in layers if name.rpartition(".")[2] in _OF_EXPERTS]
        layers = [name for name in layers if name not in alike]
        experts += [f"{name}.weight" for name in alike]
    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA * rank,
        target_modules=layers,
        target_parameters=experts or None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # of what peft calls in transformers
        adapted = get_peft_model(model, config)
    model.eval()
    draw = torch.Generator().manual_seed(seed)
    for name, one in list(model.named_parameters()):
        if not one.is_meta:
            continue
        owner, _, leaf = name.rpartition(".")
        module, beside = model.get_submodule(owner), _find_device(model, owner)
        made = torch.zeros(one.shape)
        if ".lora_A." in name:
            made.uniform_(-1, 1, generator=draw).mul_(1 / math.sqrt(one.shape[-1]))
        setattr(module, leaf, torch.nn.Parameter(made.to(beside)))
    return adapted


_OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""Names of an expert's layers before version 5 of the library, which merges experts. As targets,
peft gives them to the merged ones (0.19 and later), so that other layers of these names, such as
those of a shared expert, would get no adapter."""


def _find_device(model: Any, owner: str) -> torch.device:
    """Where the weights are that the adapter of a name stands beside."""
    layer = model.get_submodule(owner.partition(".lora_")[0])
    found: torch.device = next(
        parameter.device for parameter in layer.parameters() if not parameter.is_meta
    )
    return found


def _list_adapters(model: Any) -> Iterator[tuple[str, Any]]:
    """The names of the weights that have an adapter, and their adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            name = path.replace(".base_layer", "")
            yield f"{name}.{getattr(module, 'parameter_name', 'weight')}", module


def _store(name: str, learned: torch.Tensor) -> Entry:
    def read() -> memoryview:
        if not torch.isfinite(learned).all():
            raise CheckpointError(
                f"{name!r} is not finite after training",
                fix="train on other text or for fewer steps",
            )
        return as_bytes(learned)

    return Entry(Tensor(name, TAGS[learned.dtype], tuple(learned.shape)), data=read)
