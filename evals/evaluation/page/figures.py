"""A value of the report, how it is shown, and where it stands there.

HTML and Markdown print the same figures, so they show the same text; in HTML each one also carries
its place in report.json (a JSON pointer, RFC 6901) and its exact value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from rich.filesize import decimal

_MINUS = "−"


@dataclass(frozen=True)
class Figure:
    """One value as text. `value` is that of the report at `key`."""

    key: str
    value: Any
    text: str

    def __str__(self) -> str:
        return self.text

    def __html__(self) -> str:
        if isinstance(self.value, str) and self.value == self.text:
            return Markup('<span data-key="{}">{}</span>').format(self.key, self.text)
        shown = self.value if isinstance(self.value, str) else json.dumps(self.value)
        return Markup('<data data-key="{}" value="{}">{}</data>').format(
            self.key, shown, escape(self.text)
        )


class Interval(NamedTuple):
    """A figure and the two ends of its interval."""

    middle: Figure
    low: Figure
    high: Figure


@dataclass(frozen=True)
class Node:
    """A place in the report: `node["tasks"]["piqa"]["base"].number()` is the figure there.

    A template writes `tasks.piqa.base.number()`, and names and sentences without a method.
    """

    value: Any
    key: str = ""

    def __getitem__(self, part: str | int) -> Node:
        name = str(part).replace("~", "~0").replace("/", "~1")
        return Node(self.value[part], f"{self.key}/{name}")

    def __iter__(self) -> Iterator[Node]:
        """Items of a list."""
        return (self[index] for index in range(len(self.value)))

    def __html__(self) -> str:
        return self.text().__html__()

    def items(self) -> Iterator[tuple[str, Node]]:
        """Members of an object, with their names."""
        return ((name, self[name]) for name in self.value)

    def has(self, *parts: str) -> bool:
        """Whether there is something other than null at the end of this path."""
        value = self.value
        for part in parts:
            value = value.get(part) if isinstance(value, dict) else None
        return value is not None

    def at(self, *parts: str | int) -> Node:
        node = self
        for part in parts:
            node = node[part]
        return node

    # How a value is shown.

    def text(self) -> Figure:
        """A name, an identifier, a sentence; "yes" and "no" for true and false."""
        if self.value is None or isinstance(self.value, bool):
            return self._figure({True: "yes", False: "no", None: "none"}[self.value])
        whole = isinstance(self.value, float) and self.value.is_integer()
        return self._figure(str(int(self.value) if whole else self.value))

    def rate(self, digits: int = 1) -> Figure:
        """A fraction of 1, in percent."""
        return self._figure(f"{self.value:.{digits}%}")

    def percent(self) -> Figure:
        """A fraction of 1 in percent, beside a figure that says so."""
        return self._figure(f"{100 * self.value:.1f}")

    def points(self) -> Figure:
        """A difference of two rates, in percentage points."""
        return self._figure(_signed(100 * self.value, 1))

    def number(self, digits: int = 3) -> Figure:
        return self._figure(f"{self.value:,.{digits}f}")

    def signed(self, digits: int = 3) -> Figure:
        return self._figure(_signed(self.value, digits))

    def count(self) -> Figure:
        return self._figure(f"{self.value:,}")

    def probability(self) -> Figure:
        """A p-value."""
        return self._figure("< 0.0001" if self.value < 1e-4 else f"{self.value:.2g}")

    def size(self) -> Figure:
        """Bytes."""
        return self._figure(decimal(self.value, precision=2))

    def moment(self) -> Figure:
        """A time in ISO 8601, to the minute."""
        moment = datetime.fromisoformat(self.value)
        return self._figure(f"{moment.day} {moment:%B %Y, %H:%M} UTC")

    def interval(self, show: str, *digits: int) -> Interval:
        """The object {mean, ci95: [low, high]} here, or alike, each number shown by `show`."""
        middles = ("rate", "mean", "value", "difference", "median", "auc")
        middle = getattr(next(self[key] for key in middles if key in self.value), show)(*digits)
        ends = self["ci95"] if "ci95" in self.value else (self["min"], self["max"])
        show = {"rate": "percent"}.get(show, show)
        return Interval(middle, *(getattr(end, show)(*digits) for end in ends))

    def _figure(self, text: str) -> Figure:
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        return Figure(self.key, self.value, text.replace("-", _MINUS) if is_number else text)


def _signed(value: float, digits: int) -> str:
    text = f"{value:+,.{digits}f}"
    return text if text.strip("+-0.,") else text[1:]  # zero has no sign
