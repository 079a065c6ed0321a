"""The one console: what it prints commands no terminal, whoever wrote the text."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from cli.escaping import escape_lines, escape_text

_WIDTH = 100  # characters, where there is no terminal to ask


class _Literal(Console):
    """Prints text literally: without markup, and with escapes for what is not printable."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escape_text(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for one in super().render(renderable, options):
            yield one if one.control else Segment(escape_lines(one.text), one.style)


def make_console(*, stderr: bool = False) -> Console:
    """A console for results, or for stderr as it now is.

    Into pipes and files it prints plain text without wrapping. A string is one line; only a `Text`
    may hold line breaks.
    """
    file = sys.stderr if stderr else None
    found = _Literal(file=file, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = _WIDTH
    return found


def make_line(*parts: str | tuple[str, str] | Text) -> Text:
    """One line of texts, each plain, with its style, or styled already."""
    line = Text()
    for part in parts:
        if isinstance(part, Text):
            line.append_text(part)
        else:
            text, style = (part, "") if isinstance(part, str) else part
            line.append(escape_text(text), style)
    return line
