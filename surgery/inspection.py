"""What a model is, from its configuration, headers and manifest alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.source import open_checkpoint
from surgery.hub import find_model
from surgery.inventory import take_inventory
from surgery.manifest import Edit, read_manifest


@dataclass(frozen=True)
class Inspection:
    """`attention_free` maps blocks to their variant; `edits` are recorded ones, oldest first."""

    model: str
    family: str
    num_blocks: int
    dtype: str
    parameters: int
    attention_free: dict[int, str]
    layout: str | None
    edits: tuple[Edit, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "family": self.family,
            "num_blocks": self.num_blocks,
            "dtype": self.dtype,
            "parameters": self.parameters,
            "attention_free": {str(block): name for block, name in self.attention_free.items()},
            "layout": self.layout,
            "edits": [edit.model_dump(mode="json") for edit in self.edits],
        }


def inspect(model: str | Path, *, revision: str | None = None) -> Inspection:
    """Looks at a folder or a Hub model. Reads no weights.

    Blocks of a compact checkpoint without a manifest are reported by what stands in their place
    (affine, constant, none), since the variant is not recorded elsewhere.

    **Raises:** `SourceError`, `CheckpointError`, `UnsupportedError`, `ManifestError`.
    """
    folder, source = find_model(model, revision)
    checkpoint = open_checkpoint(folder)
    inventory = take_inventory(checkpoint.config, checkpoint.infos)
    manifest = read_manifest(folder)
    recorded = manifest.attention_free if manifest else {}
    free = {**inventory.compact_blocks, **recorded}
    layout = "compact" if inventory.is_compact else ("stock" if free else None)
    return Inspection(
        model=source.model,
        family=inventory.family.model_type,
        num_blocks=inventory.dimensions.num_blocks,
        dtype=inventory.dtype,
        parameters=inventory.num_parameters,
        attention_free=dict(sorted(free.items())),
        layout=layout,
        edits=(*manifest.history, manifest.edit) if manifest else (),
    )
