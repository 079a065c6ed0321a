"""Where tables are printed: on stdout, whole also where that is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.options import shown

_WIDTH = 120  # characters, where there is no terminal to ask


class _Literal(Console):
    """Prints text as it is, whatever it holds: no markup, and control characters as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(map(shown, text.split("\n"))), **options)


def console() -> Console:
    """A rich console for results: plain text, unwrapped, into pipes and files."""
    found = _Literal(highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = _WIDTH
    return found


def plain_table() -> Table:
    """One whose only line is under its head."""
    return Table(box=SIMPLE_HEAD, pad_edge=False)


def with_interval(middle: float, ci95: Sequence[float], form: str = "{:.1%}") -> str:
    """A figure, and its interval in brackets."""
    shown, low, high = (form.format(number) for number in (middle, *ci95))
    return f"{shown} [{low}, {high}]"
