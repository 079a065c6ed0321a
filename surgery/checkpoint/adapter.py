"""An adapter as peft stores it: pairs of thin matrices beside weights of a model, its base.

What a pair adds to its weight is `ALPHA` times the product of the two, whatever the rank r (LoRA,
Hu et al. 2021, arXiv 2106.09685). A linear layer has A [r, in] and B [out, r]. A weight that holds
n experts has A [n r, in] and B [out, r n], for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.source import ADAPTER, ADAPTER_WEIGHTS
from surgery.checkpoint.tensors import StoredTensor, read_header
from surgery.errors import CheckpointError
from surgery.untrusted import read_json

ALPHA = 2
PREFIX = "base_model.model."
"""How the names of an adapter's tensors begin, before the module's name in the base."""
_NAME = re.compile(rf"{re.escape(PREFIX)}(.+?)((?:\.base_layer)*)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Adapter:
    """`modules`: the linear layers that it stands beside; `parameters`: weights of other modules,
    such as fused experts. Both by name, ascending. `tensors`: what its file holds."""

    rank: int
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    tensors: tuple[StoredTensor, ...]

    def describe(self, base: str) -> dict[str, Any]:
        """adapter_config.json: every key is peft's, and what it leaves out is peft's default.

        `base`: its Hub id, or the name of its folder.
        """
        found: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": ALPHA * self.rank,
            "target_modules": list(self.modules),
        }
        if self.parameters:  # which versions of peft before 0.17 do not know
            found["target_parameters"] = list(self.parameters)
        return found

    def list_pairs(self) -> dict[str, tuple[StoredTensor, StoredTensor]]:
        """Where each pair stands, by the name of its module and how often it is wrapped → A, B.
        Ascending.

        Raises `CheckpointError` for a tensor of another name, dtype, or number of dimensions, and
        for one without its other half.
        """
        halves: dict[str, dict[str, StoredTensor]] = {}
        for tensor in self.tensors:
            match, info = _NAME.fullmatch(tensor.info.name), tensor.info
            if match is None or info.dtype != "F32" or len(info.shape) != 2:
                raise CheckpointError(f"{info.name[:200]!r} is no tensor of such an adapter")
            halves.setdefault(match[1] + match[2], {})[match[3]] = tensor
        for place, found in halves.items():
            if len(found) < 2:
                raise CheckpointError(f"{place!r} has only one half of an adapter")
        return {place: (found["A"], found["B"]) for place, found in sorted(halves.items())}


def open_adapter(folder: Path, rank: int) -> tuple[Adapter, Mapping[str, Any]]:
    """Opens a folder. Reads only the header and adapter_config.json, which it returns, too."""
    config = read_json(folder / ADAPTER, needed=True)
    modules, others = (
        tuple(config.get(f"target_{what}", ())) for what in ("modules", "parameters")
    )
    tensors, _ = read_header(folder / ADAPTER_WEIGHTS)
    return Adapter(rank, modules, others, tuple(tensors)), config
