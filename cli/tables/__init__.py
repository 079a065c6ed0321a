"""Where tables are printed: on stdout, and no figure is cut, however narrow a terminal is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.terminal import echo, escape_text

Column = Sequence[str]
"""A heading, and a cell for each row."""

_WIDTH = 120  # characters, where there is no terminal to ask
_GAP = 2  # characters between two columns


class _Literal(Console):
    """Prints text as it is, whatever it holds: no markup, and control characters as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(map(escape_text, text.split("\n"))), **options)


def make_console() -> Console:
    """A rich console for results: plain text, unwrapped, into pipes and files."""
    found = _Literal(highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = _WIDTH
    return found


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, labels: int = 1, rest: str = ""
) -> None:
    """Prints rows. The first `labels` columns name a row; the others hold figures, key ones first.

    A pipe or a file gets one table with a line for each row. On a terminal that is too narrow for
    it, labels and headings wrap between words. The columns that still do not fit follow in tables
    below, each with the labels. `rest` is for long tables: it says where the figures are that do
    not fit, and they are left out.
    """
    out = make_console()
    room = out.width if out.is_terminal else sys.maxsize
    columns = list(zip(headings, *rows, strict=True))
    widths = whole = [_widest(column, str.splitlines) for column in columns]
    if _total(whole) > room:
        widths = [_least(column, label=at < labels) for at, column in enumerate(columns)]
    done = labels
    while done < len(columns):
        end = len(columns)
        while end > done + 1 and _total(widths[:labels] + widths[done:end]) > room:
            end -= 1
        fitting = widths[:labels] + widths[done:end]
        fitting[0] = min(whole[0], fitting[0] + max(0, room - _total(fitting)))
        out.width = _total(fitting)
        echo()
        out.print(_table(columns[:labels] + columns[done:end], fitting, labels))
        done = end
        if rest and done < len(columns):
            echo(f"The terminal is too narrow for: {', '.join(headings[done:])}. {rest}")
            break
    echo()


def _table(columns: Sequence[Column], widths: Sequence[int], labels: int) -> Table:
    """One whose only line is under its head."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    for at, (column, width) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(
            column[0], width=width, justify="left" if at < labels else "right", overflow="fold"
        )
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*row)
    return table


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _least(column: Column, *, label: bool) -> int:
    """Headings and labels may wrap between words, figures may not."""
    split = str.split if label else str.splitlines
    return max(_widest(column[:1], str.split), _widest(column[1:], split))


def _widest(cells: Iterable[str], split: Callable[[str], list[str]]) -> int:
    """Characters of the longest line or word, as it will be printed."""
    return max((cell_len(escape_text(part)) for cell in cells for part in split(cell)), default=1)


def with_interval(middle: float, ci95: Sequence[float], form: str = "{:.1%}") -> str:
    """A figure, and its interval in brackets."""
    shown, low, high = (form.format(number) for number in (middle, *ci95))
    return f"{shown} [{low}, {high}]"
