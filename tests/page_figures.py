"""Checks that every figure of a page is the one that its report holds."""

from __future__ import annotations

import json
from typing import Any

from lxml import html as lxml_html

UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def parse(text: str) -> Any:
    return lxml_html.document_fromstring(text)


def at(report: Any, pointer: str) -> Any:
    """The value at a JSON pointer, RFC 6901."""
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        report = report[int(part)] if isinstance(report, list) else report[part]
    return report


def shows(text: str, value: float) -> bool:
    """Whether a text is a number's value, rounded to the decimals it shows."""
    if text.startswith("< "):
        return value < float(text[2:])
    number, _, unit = text.replace("−", "-").replace(",", "").rstrip("%").partition(" ")
    scales = [0.01] if text.endswith("%") else [UNITS[unit]] if unit else [1, 0.01]
    decimals = len(number.partition(".")[2]) if "e" not in number else 12
    half = 0.5 * 10**-decimals
    return any(
        abs(float(number) - value / scale) <= half + 1e-9 * abs(value / scale) for scale in scales
    )


def assert_figures(page: str, report: dict[str, Any]) -> int:
    """Each element with a key shows the report's value there; returns how many there are."""
    figures = parse(page).xpath("//*[@data-key]")
    for figure in figures:
        text, value = figure.text_content(), at(report, figure.get("data-key"))
        if figure.tag == "span":
            assert text == value
        elif isinstance(value, str):  # a time
            assert figure.get("value") == value
        elif isinstance(value, bool):
            assert text == ("yes" if value else "no")
        else:
            assert json.loads(figure.get("value")) == value
            assert shows(text, value), (text, value)
    return len(figures)
