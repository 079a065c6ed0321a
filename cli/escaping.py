"""Escapes for what commands a terminal: in text, in what libraries log, and in tracebacks.

Names come from foreign files, and control characters in them could erase or forge lines.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any


def escape_text(text: object) -> str:
    """Text with an escape for every character that is not printable."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def escape_lines(text: str) -> str:
    """As `escape_text`, for each line of a text."""
    return "\n".join(map(escape_text, text.split("\n")))


def format_traceback(*error: Any) -> str:
    """A traceback in which a message is one line."""
    lines: list[str] = []
    for part in map(str.rstrip, traceback.format_exception(*error)):
        lines += part.splitlines() if part.startswith("  File") else [part.lstrip("\n")]
    return "\n".join(map(escape_text, lines))


class EscapedRecord(logging.LogRecord):
    """What a library logs, in one line, and its traceback."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.exc_info:
            self.exc_text = format_traceback(*self.exc_info)

    def getMessage(self) -> str:
        return escape_text(super().getMessage())
