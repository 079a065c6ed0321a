"""Escapes for what commands a terminal: control characters in names of foreign files."""

from __future__ import annotations


def escape_text(text: object) -> str:
    """Text with an escape for every character that is not printable."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def escape_lines(text: str) -> str:
    """As `escape_text`, for each line of a text."""
    return "\n".join(map(escape_text, text.split("\n")))
