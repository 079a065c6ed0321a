"""The parts of the pages that the code writes: what stands there between two comments.

python tests/reference.py     # writes them
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from checkpoints import neo_config, neox_config
from decoders import CONFIGS, MORE, config_of

import surgery
from cli.main import GROUPS, main
from cli.requests import RequestCommand
from evals.choose.grid import GridEdit, GridResult
from evals.choose.search.report import SearchResult
from evals.choose.sweep.report import SweepResult
from surgery.checkpoint.inventory import Inventory, list_needed, make_inventory
from surgery.checkpoint.tensors import TensorInfo
from surgery.errors import UnsupportedError
from surgery.families import FAMILIES, config_saved_as, family_of
from surgery.layouts import Block
from surgery.layouts.stock_limits import storage_of
from surgery.plan import make_plan
from surgery.record.manifest import Record
from surgery.record.measured import Change, Limit, Measured
from surgery.record.report import (
    EditRecord,
    Named,
    Report,
    Result,
    Table,
)

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = ("identity", "zero", "mean", "linear")
PARTS = (("identity", "linear"), ("zero",), ("mean",))
HEAD = (
    "||block: identity|zero|mean|linear|group: identity, linear|zero|mean|"
    "head in a group: identity, linear|zero|mean|\n" + 11 * "|---" + "|\n"
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
    made = (make_cells(tiny_config(kind), "compact") for kind in kinds)
    (cells,) = {tuple(cell or "no" for cell in cells) for cells in made}
    yield "compact", "all", cells


def make_holding() -> str:
    """What each layout holds of each family."""
    lines, before = [], None
    for layout, label, cells in make_rows():
        first = f"**{layout}:** " if layout != before else ""
        lines.append(f"|{first}{label}|{'|'.join(cells)}|")
        before = layout
    return HEAD + "\n".join(lines) + "\n"


def make_types() -> str:
    """Every type of model, and what people call it."""
    named = [f"`{family.model_type}` ({family.title})" for family in FAMILIES]
    return ", ".join(named) + ".\n"


# --- commands


def list_params(name: str) -> list[tuple[str, click.Option, click.Context]]:
    """The options of a command as they are typed, and the keys that only its file has."""
    ctx = click.Context(main)
    command = main.get_command(ctx, name)
    assert command is not None
    inside = click.Context(command, info_name=name)
    params = [(one.opts[0], one) for one in command.params if isinstance(one, click.Option)]
    if isinstance(command, RequestCommand):
        params += [(one.opts[0].removeprefix("--"), one) for one in command.in_file.values()]
    return [(typed, one, inside) for typed, one in params]


def make_commands() -> str:
    """Every command, and what it does."""
    lines = ["|command|what it does|", "|---|---|"]
    for group in GROUPS.values():
        lines += [f"|`{name}`|{told.removesuffix('.')}|" for name, told in group.items()]
    return "\n".join(lines) + "\n"


def make_options() -> str:
    """Every option and key: the command, if only one has it, what it does, and its default.

    Where commands differ, as most of them have it.
    """
    said: dict[str, list[tuple[str, str]]] = {}
    forms: dict[str, str] = {}
    for name in (name for group in GROUPS.values() for name in group):
        for typed, param, ctx in list_params(name):
            key = typed.removeprefix("--")
            form, told = say_option(param, ctx)
            forms.setdefault(key, typed + form)
            said.setdefault(key, []).append((told, name))
    lines = []
    for key, tellings in sorted(said.items()):
        told, _ = Counter(told for told, _ in tellings).most_common(1)[0]
        of = f" (`{tellings[0][1]}`)" if len(tellings) == 1 else ""
        lines.append(f"- `{forms[key]}`{of}: {told}")
    return "\n".join(lines) + "\n"


def say_option(param: click.Option, ctx: click.Context) -> tuple[str, str]:
    """What stands for the value of an option; what its help says first, and a short default."""
    record = param.get_help_record(ctx)
    assert record is not None
    default = re.search(r"\[default: (.+?)(?:; [\d.x<>=]+)?\](?:  |$)", record[1])
    told = f" ({default[1]})" if default is not None and len(default[1]) < 24 else ""
    if param.is_flag:
        told = " (on)" if param.default is True else ""
    text = str(param.help).partition("  [")[0].removeprefix("Limit: ")
    said = re.split(r"(?<=[^.])(?:\. (?=[A-Za-z])|[:;] |,? (?:such as|so that) )", text)[0]
    said = said[0].lower() + said[1:] if said[1] in " abcdefghijklmnopqrstuvwxyz" else said
    value = "" if param.is_flag else f" {param.make_metavar(ctx)}"
    return value, said.removesuffix(".") + told


# --- JSON and Python

JSON: dict[type[Record], str] = {
    Result: "Every result",
    Measured: "A figure",
    Change: "A change of a figure",
    Limit: "A limit",
    Named: "A name",
    Report: "A report",
    EditRecord: "An edited model",
    Table: "A table of the pages",
    GridResult: "A sweep or a search",
    GridEdit: "An edit of a sweep or a search",
    SweepResult: "A sweep",
    SearchResult: "A search",
}
"""What the JSON of results is made of → how a page calls it."""


def make_keys() -> str:
    """What docstrings say of each object of the JSON, and its keys."""
    parts = []
    for kind, title in JSON.items():
        inherited = {key for base in kind.__mro__[1:] for key in getattr(base, "model_fields", {})}
        said = re.sub(r"\bNone\b", "null", str(inspect.getdoc(kind)))
        own = [f"`{key}`" for key in kind.model_fields if key not in inherited]
        others = ", ".join(key for key in own if key not in said)
        said = re.sub(r"^(?:What|One|The) [^`\n]*\.\s+", "", said, count=1)
        parts.append(f"### {title}\n\n{said}\n" + (f"\nAlso: {others}.\n" if others else ""))
    return "\n".join(parts)


def make_python() -> str:
    """The first sentence of every public name's docstring."""
    lines = []
    for name in surgery.__all__:
        told = re.sub(r"\s+", " ", str(inspect.getdoc(getattr(surgery, name))))
        lines.append(f"- `surgery.{name}`: {told.partition('. ')[0].removesuffix('.')}")
    return "\n".join(lines) + "\n"


# --- pages

PARTS_OF_PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "command-line.md": {"commands": make_commands, "options": make_options},
    "families.md": {"types": make_types, "holding": make_holding},
    "report.md": {"keys": make_keys},
    "python.md": {"python": make_python},
}
"""Page → each of its parts, and what writes it."""


def write_parts(page: str, text: str) -> str:
    """The text of a page, with its parts as they must be.

    Raises `AssertionError` if the page has other parts.
    """
    makers = PARTS_OF_PAGES[page]
    held = re.compile(r"<!-- reference: (\w+) -->\n.*?<!-- /reference -->", re.DOTALL)
    assert held.findall(text) == [*makers], page
    return held.sub(
        lambda found: (
            f"<!-- reference: {found[1]} -->\n\n{makers[found[1]]()}\n<!-- /reference -->"
        ),
        text,
    )


if __name__ == "__main__":
    for page in PARTS_OF_PAGES:
        (DOCS / page).write_text(write_parts(page, (DOCS / page).read_text()))
