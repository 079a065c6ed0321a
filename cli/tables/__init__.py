"""Prints tables on stdout. It never cuts a figure, however narrow the terminal is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from cli.console import make_console
from cli.escaping import escape_text
from cli.terminal import echo

Column = Sequence[str]
"""A heading, and a cell for each row."""

_GAP = 2  # characters between two columns


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    labels: int = 1,
    words: int = 0,
) -> None:
    """Prints rows. The first `labels` columns name a row, the last `words` tell of it in words.

    The others hold figures. Where the console is too narrow, words and headings wrap, and labels
    that would take more than half of it. Columns that still do not fit follow in more tables below,
    each with the labels.
    """
    out = make_console()
    room = out.width
    columns = list(zip(headings, *rows, strict=True))
    widths = whole = [_measure_widest(column, lambda cell: [cell]) for column in columns]
    wraps = [not labels <= at < len(columns) - words for at in range(len(columns))]
    if _add_widths(whole) > room:
        widths = [_measure_least(*one) for one in zip(columns, wraps, strict=True)]
        if _add_widths(whole[:labels]) <= room // 2:  # a name and its number stay on one line
            widths[:labels] = whole[:labels]
    done = labels
    while done < len(columns):
        end = len(columns)
        while end > done + 1 and _add_widths(widths[:labels] + widths[done:end]) > room:
            end -= 1
        shown = [*range(labels), *range(done, end)]
        fitting = _widen([widths[at] for at in shown], [whole[at] for at in shown], room)
        out.width = _add_widths(fitting)
        echo()
        left = [wraps[at] for at in shown]
        out.print(_build_table([columns[at] for at in shown], fitting, left))
        done = end
    echo()


def _widen(widths: list[int], whole: Sequence[int], room: int) -> list[int]:
    """Gives what is left of `room` to the columns that have least of what they need."""
    for _ in range(room - _add_widths(widths)):
        at = min(range(len(widths)), key=lambda at: widths[at] / whole[at])
        if widths[at] < whole[at]:
            widths[at] += 1
    return widths


def _build_table(columns: Sequence[Column], widths: Sequence[int], left: Sequence[bool]) -> Table:
    """A table whose only line is below its head. `left`: columns to align left."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    for column, width, aligned in zip(columns, widths, left, strict=True):
        justify: Any = "left" if aligned else "right"
        table.add_column(column[0], width=width, justify=justify, overflow="fold")
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*row)
    return table


def _add_widths(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _measure_least(column: Column, wraps: bool) -> int:
    """The least width of a column: headings may wrap between words, and cells if it `wraps`."""
    cells = _measure_widest(column[1:], str.split if wraps else lambda cell: [cell])
    return max(_measure_widest(column[:1], str.split), cells)


def _measure_widest(cells: Iterable[str], split: Callable[[str], list[str]]) -> int:
    """Characters of the longest line or word, as printed."""
    return max((cell_len(escape_text(part)) for cell in cells for part in split(cell)), default=1)
