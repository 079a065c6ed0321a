"""The record of an edit in a sweep and a search."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from surgery.selection import Selection, blocks_of, format_selection, heads_of, variant_name


def edit_record(selection: Selection, num_heads: int) -> dict[str, Any]:
    """An edit as plain JSON values; `spec` names blocks and heads as you type them.

    `heads` is there only if some blocks are not whole, `parts` only if variants are mixed.
    """
    variant = variant_name(selection)
    record: dict[str, Any] = {
        "spec": format_selection(selection, num_heads),
        "blocks": list(blocks_of(selection)),
        "variant": variant,
    }
    heads = heads_of(selection)
    if any(len(some) < num_heads for some in heads.values()):
        record["heads"] = {str(block): list(some) for block, some in heads.items()}
    if variant == "mixed":
        record["parts"] = [asdict(part) | {"heads": list(part.heads)} for part in selection]
    return record
