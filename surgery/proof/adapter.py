"""Checks of an adapter's folder (`surgery.checkpoint.adapter`). Each relies on those before it.

1. `files`: as of a model's folder (`surgery.proof.files`).
2. `contents`: nothing but the adapter; adapter_config.json is what the record gives, key by key.
3. `tensors`: whole pairs of the recorded rank, beside just what adapter_config.json names. Some
   change their weights: the second half of an adapter that learned nothing is zero.
4. `finite`: no number is NaN or infinite. The pass that hashes the files sees it.
5. With a source: `source`: it is the recorded one, and the record of the training may be true of
   it; `fits`: peft makes just these tensors beside its weights, so the adapter loads on it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from surgery.checkpoint.adapter import PREFIX, Adapter, open_adapter
from surgery.checkpoint.source import ADAPTER, ADAPTER_WEIGHTS
from surgery.errors import CheckpointError
from surgery.plan import make_empty_plan
from surgery.proof.expected import check_planned, check_training
from surgery.proof.files import FolderChecks
from surgery.record.manifest import ErasingRecord, list_edited_heads


@dataclass(frozen=True)
class AdapterChecks(FolderChecks):
    """The checks of an adapter's folder."""

    alone: ClassVar[tuple[str, ...]] = ("files", "contents", "tensors", "finite")
    with_source: ClassVar[tuple[str, ...]] = ("source", "fits")

    @cached_property
    def record(self) -> ErasingRecord:
        record = self.manifest.step.erasing
        assert record is not None  # no other edit can be an adapter
        return record

    @cached_property
    def adapter(self) -> Adapter:
        return open_adapter(self.folder, self.record.rank)[0]

    def check_contents(self) -> str:
        if strangers := sorted(self.manifest.files.keys() ^ {ADAPTER, ADAPTER_WEIGHTS}):
            has = strangers[0] in self.manifest.files
            what = "is not part of an adapter" if has else "is not in the manifest"
            raise CheckpointError(f"{strangers[0]} {what}")
        adapter, config = open_adapter(self.folder, self.record.rank)
        wanted = adapter.describe(self.manifest.step.source.model)
        for key in sorted({*config, *wanted}):
            if config.get(key) != wanted.get(key):
                raise CheckpointError(f"{ADAPTER}: {key[:60]!r} is not what the record gives")
        named = [*adapter.modules, *adapter.parameters]
        if not all(isinstance(name, str) for name in named) or len(named) > len({*named}):
            raise CheckpointError(f"{ADAPTER}: not every target is named once")
        return f"an adapter of rank {adapter.rank}, no weights of a model, and no code"

    def check_tensors(self) -> str:
        adapter, rank = self.adapter, self.record.rank
        holders = {name.rpartition(".")[0] for name in adapter.parameters}
        pairs = adapter.list_pairs()
        for place, (first, second) in pairs.items():
            inner, outer = first.info.shape[0], second.info.shape[1]
            module = place.replace(".base_layer", "")
            one = inner == rank or module in holders
            if inner != outer or not inner or inner % rank or not one:
                raise CheckpointError(f"{place!r} has no pair of rank {rank}")
            if module not in holders and place not in adapter.modules:
                raise CheckpointError(f"{place!r} is none of the targets of {ADAPTER}")
        number = len(adapter.modules) + len(adapter.parameters)
        if len(pairs) != number:
            what = f"{number} are named in {ADAPTER}, and {len(pairs)} are there"
            raise CheckpointError(f"the adapter does not hold one pair for each target: {what}")
        if not any(second.read_array().any() for _, second in pairs.values()):
            raise CheckpointError("the adapter changes no weight, so nothing was trained")
        layers, others = len(adapter.modules), len(adapter.parameters)
        more = f" and {others} weights of other modules" if others else ""
        return f"pairs of rank {rank} beside {layers} linear layers{more}"

    def check_finite(self) -> str:
        if self.broken:
            raise CheckpointError(f"tensor {self.broken[0]!r} holds numbers that are not finite")
        return "every number"

    def check_source(self) -> str:
        assert self.found is not None
        if self.begins != len(self.manifest.history) - 1:
            raise CheckpointError("the adapter stands beside another source")
        inventory, edit = self.found.inventory, self.manifest.step
        plan = make_empty_plan(inventory)
        check_planned(edit, plan, plan.config)
        check_training(edit, inventory, list_edited_heads(self.manifest.history[:-1]))
        return "the recorded one; the record of the training may be true of it"

    def check_fits(self) -> str:
        import torch
        from peft import LoraConfig, inject_adapter_in_model

        from surgery.editing.loading import build_empty

        assert self.found is not None
        model = build_empty(self.found.checkpoint.config)
        config = open_adapter(self.folder, self.record.rank)[1]
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # of what peft calls in transformers
            inject_adapter_in_model(LoraConfig(**config), model, "made")
        made = {
            (PREFIX + name.replace(".made.", "."), tuple(one.shape))
            for name, one in model.named_parameters()
            if ".lora_" in name
        }
        held = {(tensor.info.name, tensor.info.shape) for tensor in self.adapter.tensors}
        if wrong := made ^ held:
            raise CheckpointError(f"tensor {min(wrong)[0]!r} does not fit the source")
        return f"{len(held)} tensors, beside weights of the source that have their shapes"
