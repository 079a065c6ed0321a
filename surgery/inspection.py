"""Describes a model by its configuration, headers and manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint import read_config
from surgery.compact import is_compact, read_blocks
from surgery.config import check_config, find_method
from surgery.families import family_of
from surgery.hub.finding import find_outline
from surgery.plan import check_attention, find_dtype, is_buffer
from surgery.record.manifest import Step
from surgery.tensors import Tensor


@dataclass(frozen=True)
class Inspection:
    """What a model is. `attention_free`: block without attention → variant. `edited_heads`: the
    edited heads of other blocks. `edits`: the recorded steps, oldest first.

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

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
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
    found, tensors = find_outline(model, revision)
    config = read_config(found.folder)
    check_config(config)
    family, manifest = family_of(config), found.manifest
    if tensors is not None:
        check_attention(config, tensors)
    free: dict[int, str] = dict(read_blocks(config))
    heads: dict[int, dict[int, str]] = {}
    if manifest:
        free |= manifest.attention_free
        heads = {b: some for b, some in manifest.edited_heads.items() if b not in free}
    return Inspection(
        model=found.source.model,
        family=family.model_type,
        num_blocks=family.dimensions(config).num_blocks,
        dtype=None if tensors is None else find_dtype(config, tensors),
        parameters=_count_parameters(config, tensors),
        attention_free=dict(sorted(free.items())),
        edited_heads=heads,
        layout="compact" if is_compact(config) else ("stock" if free or heads else None),
        edits=tuple(manifest.history) if manifest else (),
    )


def _count_parameters(config: dict[str, Any], tensors: Mapping[str, Tensor] | None) -> int | None:
    """None where some are packed in a form that does not tell their number."""
    if tensors is None or find_method(config) is not None:
        return None
    return sum(math.prod(one.shape) for name, one in tensors.items() if not is_buffer(name))
