"""What work tells people while it runs: lines, and bars. Silent, unless a caller shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

Advance = Callable[[int], None]
"""Takes how much was just done."""


@contextmanager
def _show_no_bar(text: str, total: int | None) -> Iterator[Advance]:
    yield lambda done: None


@dataclass(frozen=True)
class Console:
    """Where lines and bars go.

    - `say`: takes a line: a decision that was made for the user, or a warning.
    - `show_progress`: shows a bar with a text and a total, None if nobody knows it.
    """

    say: Callable[[str], None] = lambda line: None
    show_progress: Callable[[str, int | None], AbstractContextManager[Advance]] = _show_no_bar


SILENT = Console()
_CURRENT = ContextVar("console", default=SILENT)


@contextmanager
def use_console(console: Console) -> Iterator[None]:
    """Inside, lines and bars go to `console`."""
    token = _CURRENT.set(console)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def say(line: str) -> None:
    """Says a line on the current console."""
    _CURRENT.get().say(line)


def show_progress(text: str, total: int | None) -> AbstractContextManager[Advance]:
    """Shows a bar on the current console. It yields a function that takes what was just done."""
    return _CURRENT.get().show_progress(text, total)
