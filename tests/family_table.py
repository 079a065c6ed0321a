"""The table of docs/families.md, as the records and layouts have it. No model is needed.

python tests/family_table.py     # writes it
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoints import neo_config, neox_config
from decoders import CONFIGS, MORE, config_of

from surgery.checkpoint.inventory import Inventory, list_needed, make_inventory
from surgery.checkpoint.tensors import TensorInfo
from surgery.errors import UnsupportedError
from surgery.families import FAMILIES, config_saved_as, family_of
from surgery.layouts import Block
from surgery.layouts.stock_limits import storage_of
from surgery.plan import make_plan

DOCS = Path(__file__).resolve().parent.parent / "docs" / "families.md"
BLOCK = ("identity", "zero", "mean", "linear")
PARTS = (("identity", "linear"), ("zero",), ("mean",))
HEAD = (
    "| | block: identity | zero | mean | linear | group: identity, linear | zero | mean "
    "| head in a group: identity, linear | zero | mean |\n" + 11 * "|---" + "|\n"
)


def tiny_config(kind: str) -> dict[str, Any]:
    older = {"gpt_neox": neox_config, "gpt_neo": neo_config}
    return older[kind]() if kind in older else config_of(kind)


def take_needed(config: dict[str, Any]) -> Inventory:
    """The tensors that a model of that configuration has."""
    empty = make_inventory(config, {})
    sizes = empty.dimensions.sizes
    infos = {}
    for name in list_needed(empty):
        rule, _ = empty.family.match(name) or (None, None)
        assert rule is not None
        shape = tuple(sizes[size] for size in rule.shape or ())
        infos[name] = TensorInfo(name, "F32", shape)
    return make_inventory(config, infos)


def say(inventory: Inventory, spec: str, variant: str, layout: str) -> str:
    """What a layout can hold: "=", "~", or "no"."""
    try:
        plan = make_plan(inventory, spec, variant=variant, layout=layout)
    except UnsupportedError:
        return "no"
    (edit,) = plan.edits.values()
    held = storage_of(
        Block(
            inventory.family,
            inventory.dimensions,
            edit.block,
            inventory.infos,
            lambda name: None,
            inventory.config,
        ),
        edit,
    )
    rounded = layout == "compact" or held.constants or held.units
    return "~" if rounded else "="


def make_cells(config: dict[str, Any], layout: str) -> tuple[str, ...]:
    inventory = take_needed(config)
    size = inventory.dimensions
    cells = [say(inventory, "1", variant, layout) for variant in BLOCK]
    for spec in ("1.g1", f"1.{size.heads_per_group}"):
        if "g" not in spec and size.heads_per_group == 1:
            cells += ["", "", ""]
            continue
        for variants in PARTS:
            (said,) = {say(inventory, spec, variant, layout) for variant in variants}
            cells.append(said)
    return tuple(cells)


def make_rows() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Layout, label, and cells; families with the same cells share a row."""
    kinds = [family.model_type for family in FAMILIES]
    assert {*CONFIGS, *MORE, "gpt_neox", "gpt_neo"} == set(kinds)
    found: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds:
        found.setdefault(make_cells(tiny_config(kind), "stock"), []).append(f"`{kind}`")
    for cells, named in found.items():
        yield "stock", ", ".join(named), cells
    for kind in kinds:
        for other in family_of({"model_type": kind}).saved_as:
            config = config_saved_as(tiny_config(kind), other)
            yield "stock", f"`{kind}`, saved as `{other}`", make_cells(config, "stock")
    for compact in (False, True):
        some = [kind for kind in kinds if family_of({"model_type": kind}).compact == compact]
        made = (make_cells(tiny_config(kind), "compact") for kind in some)
        (cells,) = {tuple(cell or "no" for cell in cells) for cells in made}
        yield "compact", "all others" if compact else ", ".join(f"`{k}`" for k in some), cells


def make_table() -> str:
    """The table, in Markdown."""
    lines, before = [], None
    for layout, label, cells in make_rows():
        first = f"**{layout}:** " if layout != before else ""
        lines.append(f"| {first}{label} | {' | '.join(cells)} |".replace("|  |", "| |"))
        before = layout
    return HEAD + "\n".join(re.sub(r" {2,}", " ", line) for line in lines) + "\n"


def write_table(text: str) -> str:
    """The page with the table as it must be."""
    table = make_table()
    begin = text.index(table.partition("\n")[0])
    return text[:begin] + table + text[text.index("\n\n", begin) + 1 :]


if __name__ == "__main__":
    DOCS.write_text(write_table(DOCS.read_text()))
