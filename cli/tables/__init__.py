"""Where tables are printed: on stdout, whole also where that is no terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
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
