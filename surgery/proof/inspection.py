"""Describes a model by its configuration, headers and manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.configuration import find_method
from surgery.checkpoint.inventory import Inventory, take_inventory
from surgery.checkpoint.source import MANIFEST, read_config
from surgery.checkpoint.tensors import TensorInfo
from surgery.errors import CheckpointError
from surgery.families import family_of
from surgery.hub.finding import find_outline
from surgery.record.manifest import Manifest, Step


@dataclass(frozen=True)
class Inspection:
    """What a model is. `attention_free`: block without attention → variant. `edited_heads`: the
    edited heads of other blocks. `edits`: the recorded steps, oldest first. `unknown_keys`: keys of
    config.json that no model of the family has.

    `dtype` and `parameters` are None for pickled weights on the Hub, before a download, and
    `parameters` where a quantization packs them in a form that does not tell their number.
    """

    model: str
    family: str
    num_blocks: int
    dtype: str | None
    parameters: int | None
    attention_free: dict[int, str]
    edited_heads: dict[int, dict[int, str]]
    layout: str | None
    edits: tuple[Step, ...]
    unknown_keys: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "unknown_keys": list(self.unknown_keys),
            "attention_free": {str(block): name for block, name in self.attention_free.items()},
            "edited_heads": {
                str(block): {str(head): name for head, name in heads.items()}
                for block, heads in self.edited_heads.items()
            },
            "edits": [
                {
                    "kind": step.kind,
                    "blocks": list(step.blocks),
                    "variant": step.variant,
                    **step.model_dump(mode="json"),
                }
                for step in self.edits
            ],
        }


def inspect(model: str | Path, *, revision: str | None = None) -> Inspection:
    """Describes a folder or a Hub model. Reads and downloads no weights.

    Without a manifest, blocks of a compact checkpoint have what replaces their attention (affine,
    constant, none) in place of the variant, which is recorded only there.
    """
    found, infos = find_outline(model, revision)
    config = read_config(found.folder)
    family, manifest = family_of(config), found.manifest
    inventory = None if infos is None else take_inventory(config, infos)
    is_compact = config["model_type"] == family.compact_model_type
    free = dict(inventory.compact_blocks) if inventory else {}
    heads: dict[int, dict[int, str]] = {}
    if manifest:
        _check_added(manifest, infos)
        free |= manifest.attention_free
        heads = {b: some for b, some in manifest.edited_heads.items() if b not in free}
    return Inspection(
        model=found.source.model,
        family=family.model_type,
        num_blocks=family.dimensions(config).num_blocks,
        dtype=inventory.dtype if inventory else None,
        parameters=_count_parameters(inventory) if inventory else None,
        attention_free=dict(sorted(free.items())),
        edited_heads=heads,
        layout="compact" if is_compact else ("stock" if free or heads else None),
        edits=tuple(manifest.history) if manifest else (),
        unknown_keys=family.unknown_keys(config),
    )


def _count_parameters(inventory: Inventory) -> int | None:
    """None where some are packed in a form that does not tell their number."""
    known = find_method(inventory.config) is None
    return inventory.num_parameters if known else None


def _check_added(manifest: Manifest, infos: Mapping[str, TensorInfo] | None) -> None:
    """Raises `CheckpointError` if a tensor is gone that an edit added, and so the edit."""
    added = {name for step in manifest.history for name in step.changed.added}
    dropped = {name for step in manifest.history for name in step.changed.dropped}
    gone = set() if infos is None else added - dropped - infos.keys()
    if gone:
        raise CheckpointError(
            f"tensor {min(gone)!r}, which the edit added, is gone, and the edit with it",
            where=MANIFEST,
            fix="a tool dropped it: edit the model again, after that tool",
        )
