"""Shows the figures of a report: their texts, and Markdown of them for report.md and the card."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.filesize import decimal

from surgery.card.facts import as_code, as_line, make_printable
from surgery.card.percent import format_percent
from surgery.card.text import TASK, Measurements
from surgery.record.measured import BASE, TWIN, Change, Details, Ends, Limit, Measured, Unit
from surgery.record.report import Named, Report, Result, Table

WORDS = {"kept": "kept", "missed": "MISSED", "undecided": "not decided"}
"""States for people."""
OPTIONS = {
    "recited": "max-extraction",
    "recovered": "max {}",
    "task": "max-drop {}",
    "form": "max-form",
}
"""What sets a limit, as people type it."""


@dataclass(frozen=True)
class Shown:
    """A figure of one model, as texts that may be empty. `difference`: from the base; `note`: what
    changed, or why there is no value; `beside`: what of it the control and the twin give.

    Intervals are in brackets. Differences of shares are in percentage points.
    """

    value: str
    interval: str
    difference: str
    note: str
    beside: str

    @property
    def details(self) -> list[str]:
        """Everything to show beside the value."""
        every = (self.interval, self.difference, self.note, self.beside)
        return [text for text in every if text]


@dataclass(frozen=True)
class Line:
    """A line of a table: one figure of the base and of every edited model."""

    name: str
    named: Named
    base: Measured | None
    edits: Sequence[Measured | None]

    @property
    def rows(self) -> list[Measured]:
        return [one for one in (self.base, *self.edits) if one is not None]

    @property
    def n(self) -> int | None:
        """That of the first edit."""
        return next((edit.n for edit in (*self.edits, self.base) if edit is not None), None)

    @property
    def unit(self) -> Unit:
        return self.rows[0].unit

    @property
    def digits(self) -> int:
        """Digits after the point of what is no share, the same for every model."""
        if self.unit != "number":
            return 3 if self.unit == "nats" else 0
        largest = max((abs(row.value or 0) for row in self.rows), default=0)
        return next((at for at, end in ((3, 10), (2, 100), (1, 1_000)) if largest < end), 0)


def list_lines(report: Report, table: Table) -> list[Line]:
    """The lines of a table, without those that nothing was measured for."""
    models = [edit.of for edit in report.edits]
    lines = (
        Line(
            name,
            report.names[name],
            report.find(name, BASE, table.on),
            [report.find(name, of, table.on) for of in models],
        )
        for name in table.names
        if name in report.names
    )
    return [line for line in lines if line.rows]


def list_tables(report: Report) -> Iterator[tuple[Table, list[Line]]]:
    """The tables that have lines, each with its own."""
    for table in report.tables:
        if lines := list_lines(report, table):
            yield table, lines


def show(report: Result, line: Line, row: Measured | None) -> Shown | None:
    """`row`: one of the line's."""
    if row is None:
        return None
    unit, digits, shown, difference = line.unit, line.digits, "", ""
    if row.value is not None:
        shown = show_number(row.value, unit, digits) + ("%" if unit == "share" else "")
        difference = show_change(row.change, unit, digits)
    note = "; ".join(filter(None, (_say_own(line, row), _write_note(report, row))))
    ends = show_ends(row.ci95, unit, digits)
    return Shown(shown, ends, difference, note, _say_beside(report, row))


def show_change(change: Change | None, unit: Unit = "share", digits: int = 0) -> str:
    """A difference and its interval; empty without one."""
    if change is None:
        return ""
    moved = show_number(change.difference, unit, digits, signed=True)
    return f"{moved} {show_ends(change.ci95, unit, digits, signed=True)}".strip()


def show_number(number: float, unit: Unit, digits: int, *, signed: bool = False) -> str:
    """A value of some unit; a share in percent, without the sign."""
    if unit == "bytes" and not signed:
        return decimal(int(number), precision=2)
    sign = "+" if signed else ""
    if unit == "share":
        text = sign * (number >= 0) + format_percent(number)
    else:
        text = f"{number:{sign},.{digits}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")  # zero has no sign
    return text.replace("-", "−")


def show_ends(ends: Ends | None, unit: Unit, digits: int, *, signed: bool = False) -> str:
    """An interval in brackets; empty without one."""
    if ends is None:
        return ""
    return f"[{', '.join(show_number(end, unit, digits, signed=signed) for end in ends)}]"


def _say_own(line: Line, row: Measured) -> str:
    """The runs and the n of an edit's figure, if they differ between edits."""
    edits = [edit for edit in line.edits if edit is not None]
    if row.n is None or row not in edits or len({(edit.runs, edit.n) for edit in edits}) == 1:
        return ""
    return ", ".join(filter(None, (say_runs({row.runs}), f"n = {row.n:,}")))


def say_runs(runs: Iterable[int | None]) -> str:
    """Of how many runs a figure is the mean, or some are; empty for what runs once."""
    numbers = sorted({one for one in runs if one is not None})
    if not numbers:
        return ""
    said = " to ".join(str(fromkey) for fromkey in dict.fromkeys((numbers[0], numbers[-1])))
    return "one run" if said == "1" else f"mean of {said} runs"


def _write_note(report: Result, row: Measured) -> str:
    """What changed, or why there is no value."""
    known, change = row.details, row.change
    if row.value is None:
        return "none counts" if row.n == 0 else "not finite"
    if "verdict" in known:
        return f"{known['verdict']}, {format_p(change.p_value if change else None)}"
    if change is not None and change.lost is not None and "attack" not in _know(report, row):
        flips = f"{change.lost} no longer, {change.gained} newly"
        return f"{flips}, {format_p(change.p_value)}"
    left = known.get("base_left")
    return "" if left is None else f"{left:.0%} of what it gave is left after the last step"


def _know(report: Result, row: Measured) -> Details:
    return report.names[row.name].details


def find_beside(report: Result, row: Measured | None) -> tuple[Measured | None, Measured | None]:
    """What the control and the twin give of the main figure of an edit that counts passages."""
    if row is None or row.of in (BASE, TWIN) or "count" not in row.details:
        return None, None
    if report.find(row.name, row.of) != row:
        return None, None
    control = report.find(row.name, row.of, "never trained on")
    twin = report.find(row.name, TWIN, row.on)
    return (
        control if control is not None and control.value is not None else None,
        twin if twin is not None and twin.value is not None else None,
    )


def say_above(row: Measured, it: str = "a model that never saw them") -> str:
    """How much more of the passages than the twin an edit gives, in words; empty without a twin.
    `it`: the twin. An interval that holds 0 proves nothing."""
    above = row.above_twin
    if above is None:
        return ""
    points = show_change(above).split(" ", 1)
    said = " ".join([points[0], "points", *points[1:]])
    low, high = above.ci95 or (above.difference, above.difference)
    if low > 0:
        return f"{said} above {it}"
    if high < 0:
        return f"{said}: less than {it}"
    return f"{said}: no more than {it}, as far as {row.n:,} passages show"


def _say_beside(report: Result, row: Measured) -> str:
    control, twin = find_beside(report, row)
    said = []
    if control is not None:
        ends = ", ".join(f"{100 * end:.1f}" for end in control.ci95 or ())
        said.append(f"never trained on {control.value:.1%} [{ends}]")
    if twin is not None:
        said.append(", ".join(filter(None, (f"twin {twin.value:.1%}", say_above(row, "it")))))
    return "; ".join(said)


def format_p(value: float | None) -> str:
    if value is None:
        return ""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def name_limit(limit: Limit) -> str:
    """A limit as people type it, and on which passages, where that is not all that was tested."""
    taught = ", taught" if limit.on == "taught" else ""
    return f"{OPTIONS[limit.what].format(limit.subject)}{taught}"


def describe_limit(limit: Limit) -> str:
    """A limit in one line."""
    return f"{name_limit(limit)}: {WORDS[limit.state]}: {limit.description}"


def name_edits(report: Report) -> list[str]:
    """Names for the edits in headings: "edited", or their numbers."""
    many = len(report.edits) > 1
    return [str(n) if many else "edited" for n in range(1, len(report.edits) + 1)]


def render_measurements(report: Report) -> str:
    """Verdicts, limits, warnings and tables in Markdown, with all names and sentences escaped."""
    lines: list[str] = []
    for name, edit in zip(name_edits(report), report.edits, strict=True):
        whose = f"{name}. {as_line(edit.name)}: " if len(report.edits) > 1 else ""
        limits = report.list_limits(edit.of)
        lines += [whose + as_line(edit.verdict), ""]
        lines += [f"- limit: {as_line(describe_limit(limit))}" for limit in limits]
        lines += [""] if limits else []
        if edit.warnings:
            lines += ["Before you rely on a figure:", ""]
            lines += [f"- {as_line(warning)}" for warning in edit.warnings] + [""]
    brackets = "Brackets hold 95 % intervals."
    if report.base is not None:
        brackets = (
            f"The base is {as_code(report.base.name)}. {brackets} Differences from the base use "
            "the same passages and documents; for shares, they are in percentage points."
        )
    lines += [brackets, ""]
    for table, some in list_tables(report):
        lines += render_table(report, table, some)
    ran = {**report.provenance.versions, **report.edits[0].provenance}
    shown = ("dtype", "device", "lm-eval", "transformers")
    known = [f"{key} {ran[key]}" for key in shown if ran.get(key)]
    return "\n".join([*lines, f"Settings: {as_line(', '.join(known))}.", ""])


def render_table(report: Report, table: Table, some: Sequence[Line]) -> list[str]:
    """Lines of Markdown."""
    has_base = report.base is not None
    columns = ["n", *(["base"] if has_base else []), *name_edits(report)]
    lines = [f"**{as_line(table.heading)}.** {as_line(table.text)}".strip(), ""]
    lines += [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for line in some:
        hint = f" ({as_line(line.named.hint)})" if line.named.hint else ""
        rows = [*([line.base] if has_base else []), *line.edits]
        shown = (show(report, line, row) for row in rows)
        texts = [
            as_line("; ".join(filter(None, [one.value, *one.details]))) if one else ""
            for one in shown
        ]
        n = "" if line.n is None else f"{line.n:,}"
        lines.append(f"| {as_line(line.named.label)}{hint} | {' | '.join([n, *texts])} |")
    return [*lines, ""]


def build_measurements(report: Report) -> Measurements | None:
    """The figures of a report with one edit; None if its base is not the edit's source.

    Partly measured benchmarks are left out, since readers would take them for whole ones.
    """
    (edit,) = report.edits
    if edit.relation != "source":
        return None
    names = report.names
    if report.settings.get("limit") is not None:  # nor do their limits show
        names = {name: one for name, one in names.items() if not is_task(one)}
        kept = {
            "figures": [figure for figure in report.figures if figure.name in names],
            "limits": [limit for limit in report.limits if limit.name in names],
        }
        report = report.model_copy(update={"names": names, **kept, "tables": _keep(report, names)})
    shown = {name for table, _ in list_tables(report) for name in table.names}
    indexed = [name for name in names if name in shown and _has_names(names[name])]
    return Measurements(
        f"{render_measurements(report)}\nAll figures are in `report.json`.",
        [_make_result(name, report) for name in indexed],
    )


def _keep(report: Report, names: dict[str, Named]) -> list[Table]:
    """The tables without figures that are not among `names`."""
    return [
        table.model_copy(update={"names": [name for name in table.names if name in names]})
        for table in report.tables
    ]


def is_task(named: Named) -> bool:
    """Whether a figure is a benchmark's."""
    return "num_fewshot" in named.details


def _has_names(named: Named) -> bool:
    return named.details.keys() >= {"metric", *_NAMES}


def _make_result(name: str, report: Report) -> dict[str, Any]:
    """An entry of the model index, for a figure whose details name its data set and metric."""
    known = report.names[name].details
    before, edited = (report.find(name, of) for of in (BASE, report.edits[0].of))
    text = {key: make_printable(known[key]) for key in _NAMES}
    args = {key: known[key] for key in _ARGUMENTS if isinstance(known.get(key), int)}
    decoding = {}
    if not is_task(report.names[name]):
        assert report.samples is not None
        args["samples_sha256"] = report.samples.sha256
        text["task_name"], decoding = "verbatim extraction", {"decoding": "greedy"}
    n = edited.n if edited else None
    return {
        "task_type": TASK,
        **text,
        "dataset_args": args,
        "metric_type": make_printable(known["metric"]),
        "metric_value": edited and edited.value,
        "metric_args": {"n": n, **decoding, "before_the_edit": before and before.value},
    }


_NAMES = ("dataset_type", "dataset_name")
_ARGUMENTS = ("num_fewshot", "prefix_length", "suffix_length")
"""Details of a figure that say how its data set was used."""
