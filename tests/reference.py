"""The parts of the pages that the code writes: what stands there between two comments.

python tests/reference.py     # writes them
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import click

import surgery
from cli.main import GROUPS, main
from cli.requests import RequestCommand
from evals.choose.grid import GridEdit, GridResult
from evals.choose.search.report import SearchResult
from evals.choose.sweep.report import SweepResult
from surgery.families import FAMILIES
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


def make_types() -> str:
    """Every type of model."""
    return ", ".join(f"`{kind}`" for kind in FAMILIES) + ".\n"


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
    "families.md": {"types": make_types},
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
