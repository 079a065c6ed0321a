"""Describes a model by its configuration, headers and manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.inventory import take_inventory
from surgery.checkpoint.source import read_config
from surgery.families import family_of
from surgery.hub.finding import find_outline
from surgery.record.manifest import Edit


@dataclass(frozen=True)
class Inspection:
    """What a model is. `attention_free`: block without attention → variant. `edited_heads`: the
    edited heads of other blocks. `edits`: the recorded ones, oldest first. `unknown_keys`: keys of
    config.json that no model of the family has.

    `dtype` and `parameters` are None for pickled weights on the Hub, before a download.
    """

    model: str
    family: str
    num_blocks: int
    dtype: str | None
    parameters: int | None
    attention_free: dict[int, str]
    edited_heads: dict[int, dict[int, str]]
    layout: str | None
    edits: tuple[Edit, ...]
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
                    "blocks": list(edit.blocks),
                    "variant": edit.variant,
                    **edit.model_dump(mode="json"),
                }
                for edit in self.edits
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
        free |= manifest.attention_free
        heads = {b: some for b, some in manifest.edited_heads.items() if b not in free}
    return Inspection(
        model=found.source.model,
        family=family.model_type,
        num_blocks=family.dimensions(config).num_blocks,
        dtype=inventory.dtype if inventory else None,
        parameters=inventory.num_parameters if inventory else None,
        attention_free=dict(sorted(free.items())),
        edited_heads=heads,
        layout="compact" if is_compact else ("stock" if free or heads else None),
        edits=(*manifest.history, manifest.edit) if manifest else (),
        unknown_keys=family.unknown_keys(config),
    )
