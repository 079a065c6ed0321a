"""Cells, rows and tables of a report, before anything shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.filesize import decimal

Ends = Sequence[float]


class Form(NamedTuple):
    """How to show figures of one kind. Shares have `scale` and `unit` of percent."""

    digits: int
    scale: float = 1.0
    unit: str = ""

    def show(self, value: float, *, signed: bool = False) -> str:
        text = f"{self.scale * value:{'+' if signed else ''},.{self.digits}f}"
        if not text.strip("+-0.,"):
            text = text.lstrip("+-")  # zero has no sign
        return text.replace("-", "−")


SHARE = Form(1, 100, "%")
NATS = Form(3)
COUNT = Form(0)
BYTES = Form(0, unit="bytes")


@dataclass(frozen=True)
class Cell:
    """A figure of one model and, for an edit, its paired difference from the base."""

    form: Form
    number: float
    ci95: Ends = ()
    change: float | None = None
    change_ci95: Ends = ()
    note: str = ""

    @property
    def value(self) -> str:
        if self.form is BYTES:
            return decimal(int(self.number), precision=2)
        return self.form.show(self.number) + self.form.unit

    @property
    def interval(self) -> str:
        """The 95 % interval in brackets, or empty."""
        return _format_ends(self.form, self.ci95)

    @property
    def difference(self) -> str:
        """The difference from the base (for shares in points) and its interval, or empty."""
        if self.change is None:
            return ""
        shown = self.form.show(self.change, signed=True)
        return f"{shown} {_format_ends(self.form, self.change_ci95, signed=True)}".strip()

    @property
    def details(self) -> list[str]:
        """Everything to show beside the value."""
        return [text for text in (self.interval, self.difference, self.note) if text]


def _format_ends(form: Form, ends: Ends, *, signed: bool = False) -> str:
    return f"[{', '.join(form.show(end, signed=signed) for end in ends)}]" if ends else ""


@dataclass(frozen=True)
class Row:
    """One figure of every model, on `n` passages, windows or documents. None: not measured.

    `hint`: what the label means. `main`: also for short tables.
    """

    label: str
    n: int | None
    base: Cell | None
    edits: tuple[Cell | None, ...]
    hint: str = ""
    main: bool = True


@dataclass(frozen=True)
class Table:
    """Rows under one heading; `text` explains them."""

    heading: str
    text: str
    rows: tuple[Row, ...]
