"""An adapter as peft stores it: pairs of thin matrices beside weights of a model, its base.

What a pair adds to its weight is `ALPHA` times the product of the two, whatever the rank r (LoRA,
Hu et al. 2021, arXiv 2106.09685). A linear layer has A [r, in] and B [out, r]. A weight that holds
n experts has A [n r, in] and B [out, r n], for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgery.checkpoint import Entry

ALPHA = 2


@dataclass(frozen=True)
class Adapter:
    """`modules`: the linear layers that it stands beside; `parameters`: weights of other modules,
    such as fused experts. Both by name, ascending. `tensors`: what its file holds."""

    rank: int
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    tensors: tuple[Entry, ...]

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
