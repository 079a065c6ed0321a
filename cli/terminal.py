"""What people read: results on stdout, notes and progress bars on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

_OPTIONS = {"include_paths": "include_path", "save_as": "as"}


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))  # ASCII, so that any terminal and pipe takes it


def echo(line: object = "") -> None:
    """Prints a line of results on stdout."""
    click.echo(escape_text(line))


def note(line: object, *, anywhere: bool = False) -> None:
    """Prints a line for people on stderr: a warning, or what was decided for the user.

    Of the processes of one launch only the first prints, unless `anywhere`: any may have an error.
    """
    if anywhere or is_first_process():
        click.echo(escape_text(name_options(line)), err=True)


def escape_text(text: object) -> str:
    """Text with an escape for every character that is not printable.

    Names come from foreign files, and control characters in them could erase or forge lines.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def name_options(line: object) -> str:
    """A line that names arguments of the Python API, with options of the command line instead.

    `overwrite=True` → --overwrite, `layout=compact` → --layout compact, `output` → --output.
    `_OPTIONS` has the arguments whose options have other names.
    """

    def name_option(match: re.Match[str]) -> str:
        name, value = "--" + _OPTIONS.get(match[1], match[1]).replace("_", "-"), match[2]
        return name if value in (None, "True") else f"{name} {value}"

    return re.sub(r"`([a-z_]+)(?:=([\w.+-]+))?`", name_option, str(line))


def is_first_process() -> bool:
    """Whether this process is the one of its launch that talks to people."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def show_progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows a bar over bytes, rows, or tokens while stderr is a terminal.

    Yields a function that takes how much has just been done.
    """
    if not (sys.stderr.isatty() and is_first_process()):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, TextColumn

    columns = Progress.get_default_columns()
    if total is None:  # how much there is only shows at the end
        columns = (*columns[:2], TextColumn("{task.completed:,.0f}"))
    with Progress(
        *columns,
        console=Console(file=sys.stderr),  # whatever it is while the bar is shown
        transient=True,
    ) as bar:
        task = bar.add_task(escape(escape_text(description)), total=total)
        yield lambda done: bar.update(task, advance=done)
