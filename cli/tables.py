"""Where tables are printed: on stdout, whole also where that is no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 120  # characters, where there is no terminal to ask


def console() -> Console:
    """A rich console for results: plain text, unwrapped, into pipes and files."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDTH)
