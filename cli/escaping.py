"""Escapes for what commands a terminal: in text, in what libraries log, and in tracebacks.

Names come from foreign files, and control characters in them could erase or forge lines.
"""

from __future__ import annotations

import logging
import shlex
import traceback
from typing import Any


def escape_text(text: object) -> str:
    """Text with an escape for every character that is not printable."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def quote(word: str) -> str:
    """A word of a command that you can paste into a shell, in one printable line.

    A word that is not printable is written as $'…', which bash and zsh read.
    """
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_spell, word)) + "'"


def _spell(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if not letter.isprintable():
        return f"\\U{code:08x}"
    return f"\\{letter}" if letter in "\\'" else letter


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
