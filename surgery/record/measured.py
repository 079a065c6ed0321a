"""What was measured: one row of a table, from the moment of measuring to the page.

A row says what was measured (`recited`, `recovered.relearn`, `task.piqa`), of which model, and on
which passages. The base, the edited models, and the twin are rows of one table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from surgery.record.manifest import Record, Word

MOST_LETTERS = 4000
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f\u2028\u2029]*$", max_length=MOST_LETTERS)]
"""A sentence, or some, in one line."""
Ends = tuple[float, float]
Scalar = bool | int | float | Text | None
Details = Mapping[Word, Scalar]
Unit = Literal["share", "nats", "number", "count", "bytes"]
On = Literal[
    "all",
    "chosen on",
    "held back",
    "taught",
    "taught, held back",
    "not taught",
    "not listed",
    "never trained on",
]
"""Passages, or windows of held-out text:

- `all` that are listed. `chosen on`: those on which a search chose the edit; `held back`: the
  others. `taught`: those that training used; `not taught`: the others, without those on which a
  search chose. `taught, held back`: where training used all, those on which no search chose.
- `not listed`: those that `leave_out` took away. `never trained on`: the control, which no model
  was trained on."""
TAUGHT: tuple[On, ...] = ("taught", "taught, held back")
"""They are all there is of their kind, so that their share estimates nothing."""
State = Literal["kept", "missed", "undecided"]
"""- `kept`: with 95 % confidence, the value is within the limit; of passages that the model was
  taught, the value itself is.
- `missed`: the measured value is above the limit, however little was measured.
- `undecided`: the value is within, but more is likely, too little was measured, the test shows
  nothing (it finds no more in the base, or an attack could not have found more), or what does not
  count (a setting of an attack) exceeds the limit."""
BASE, EDITED, TWIN = "base", "edited", "twin"
"""Names of models in a table. Of several edited models, these are edited-1, edited-2, and so on."""


class Change(Record):
    """Edited minus base, or minus twin, on the same rows. `ci95`: None as in a figure.

    `lost`, `gained`: rows that only the other model, or only the edited one, counts; over several
    runs the mean.
    """

    difference: float
    ci95: Ends | None = None
    p_value: float | None = None
    lost: int | None = None
    gained: int | None = None


class Measured(Record):
    """One figure of one model.

    - `name`: what was measured; `of`: the model; `on`: the passages or windows. None: the figure is
      not of passages. `n`: how many rows.
    - `value`: a share from 0 to 1, nats per token, or what `unit` says. None: no row counts, or it
      is not finite.
    - `ci95`: its 95 % interval. None for passages that the model was taught: they are all there is,
      so their share estimates nothing.
    - `change`: from the base. `above_twin`: of a share, from the model that never saw the passages.
    - `runs`: of how many runs of an attack that trains it is the mean; None for what runs once.
    - `details`: more, for programs. Of a share: `count`, the rows that count in at least one run,
      and `bound`, the most that the share may be, with 95 % confidence (one-sided).
    """

    name: Text
    of: Word
    on: On | None = None
    n: int | None = None
    value: float | None
    ci95: Ends | None = None
    unit: Unit
    change: Change | None = None
    above_twin: Change | None = None
    runs: int | None = None
    details: Details = Field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, On | None]:
        return self.name, self.of, self.on


class Limit(Measured):
    """A figure that must not exceed `limit`, and whether it does not.

    - `what`: which figure this is; `subject`: the attack, the measure, or the task.
    - Of a task, `value` and `ci95` are of what it loses (`drop`); of the form, of the rise of the
      loss, in nats per token.
    - `bound`: the most that the value may be, with 95 % confidence, which decides. Of shares, it is
      one-sided, so lower than the end of `ci95`.
    - `needed`: how many rows would decide it; `lacks`: the same, or what else is open, in words.
      None if it is decided; `needed` also if no number would.
    """

    what: Literal["recited", "recovered", "task", "form"]
    subject: Text
    limit: float
    state: State
    bound: float
    needed: int | None = None
    lacks: Text | None = None
    description: Text


M = TypeVar("M", bound=Measured)


def find(figures: Iterable[M], name: str, of: str = EDITED, on: On | None = None) -> M | None:
    """The first figure of this name and model, on these rows; without `on`, on any rows. A model's
    main figures come first."""
    return next(
        (
            figure
            for figure in figures
            if (figure.name, figure.of) == (name, of) and on in (None, figure.on)
        ),
        None,
    )
