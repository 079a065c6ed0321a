"""What a report's tables are made of: rows of cells, and how figures are shown as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.filesize import decimal

Ends = Sequence[float]


class Form(NamedTuple):
    """How figures of one kind are shown. `scale` and `unit`: percent for shares."""

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
    """A figure of one model; of an edited one also its paired difference from the base's."""

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
        """The 95 % interval in brackets; empty without one."""
        return _brackets(self.form, self.ci95)

    @property
    def difference(self) -> str:
        """The difference from the base, of shares in points, with its interval; or empty."""
        if self.change is None:
            return ""
        shown = self.form.show(self.change, signed=True)
        return f"{shown} {_brackets(self.form, self.change_ci95, signed=True)}".strip()

    @property
    def details(self) -> list[str]:
        """All that stands beside the value."""
        return [text for text in (self.interval, self.difference, self.note) if text]


def _brackets(form: Form, ends: Ends, *, signed: bool = False) -> str:
    return f"[{', '.join(form.show(end, signed=signed) for end in ends)}]" if ends else ""


@dataclass(frozen=True)
class Row:
    """One figure of every model, on `n` passages, windows or documents. None: not taken.

    `hint`: what the label means. `main`: for short tables, too.
    """

    label: str
    n: int | None
    base: Cell | None
    edits: tuple[Cell | None, ...]
    hint: str = ""
    main: bool = True


@dataclass(frozen=True)
class Table:
    """Rows that belong together, under a heading, after `text` that explains them."""

    heading: str
    text: str
    rows: tuple[Row, ...]
