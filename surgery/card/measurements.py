"""Shows the figures of a report: their texts, and Markdown of them for report.md and the card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.filesize import decimal

from surgery.card.facts import as_code, as_line, make_printable
from surgery.card.percent import format_percent
from surgery.card.text import TASK, Measurements
from surgery.record.report import EditValue, Ends, Figure, Limit, Report, Table, Value

WORDS = {"kept": "kept", "missed": "MISSED", "undecided": "not decided"}
"""States for people."""


@dataclass(frozen=True)
class Shown:
    """A figure of one model, as texts that may be empty. `difference`: from the base.

    Intervals are in brackets. Differences of shares are in percentage points.
    """

    value: str
    interval: str
    difference: str
    note: str

    @property
    def details(self) -> list[str]:
        """Everything to show beside the value."""
        return [text for text in (self.interval, self.difference, self.note) if text]


def show(figure: Figure, value: Value | None) -> Shown | None:
    """`value`: one of the figure's."""
    if value is None:
        return None
    shown, difference = "", ""
    if value.value is not None and figure.form == "bytes":
        shown = decimal(int(value.value), precision=2)
    elif value.value is not None:
        shown = _show(figure, value.value) + ("%" if figure.form == "share" else "")
    if isinstance(value, EditValue) and (change := value.change) is not None:
        ends = _show_ends(figure, change.ci95, signed=True)
        difference = f"{_show(figure, change.value, signed=True)} {ends}".strip()
    return Shown(shown, _show_ends(figure, value.ci95), difference, value.note)


def _show(figure: Figure, number: float, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if figure.form == "share":
        text = sign * (number >= 0) + format_percent(number)
    else:
        text = f"{number:{sign},.{_count_digits(figure)}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")  # zero has no sign
    return text.replace("-", "−")


def _count_digits(figure: Figure) -> int:
    """Digits after the point of what is no share, the same for every model."""
    if figure.form != "number":
        return 3 if figure.form == "nats" else 0
    values = [one.value or 0 for one in (figure.base, *figure.edits) if one is not None]
    largest = max(map(abs, values), default=0)
    return next((digits for digits, end in ((3, 10), (2, 100), (1, 1_000)) if largest < end), 0)


def _show_ends(figure: Figure, ends: Ends | None, *, signed: bool = False) -> str:
    return f"[{', '.join(_show(figure, end, signed=signed) for end in ends)}]" if ends else ""


def list_tables(report: Report) -> Iterator[tuple[Table, list[Figure]]]:
    """The tables that have figures, each with its own."""
    for table in report.tables:
        if figures := [figure for figure in report.figures if figure.table == table.key]:
            yield table, figures


def describe_limit(limit: Limit) -> str:
    """A limit in one line."""
    return f"{limit.name}: {WORDS[limit.state]}: {limit.description}"


def name_edits(report: Report) -> list[str]:
    """Names for the edits in headings: "edited", or their numbers."""
    many = len(report.edits) > 1
    return [str(n) if many else "edited" for n in range(1, len(report.edits) + 1)]


def render_measurements(report: Report) -> str:
    """Verdicts, gates, warnings and tables in Markdown, with all names and sentences escaped."""
    lines: list[str] = []
    for place, (name, edit) in enumerate(zip(name_edits(report), report.edits, strict=True)):
        whose = f"{name}. {as_line(edit.name)}: " if len(report.edits) > 1 else ""
        limits = report.list_limits(place)
        lines += [whose + as_line(edit.verdict), ""]
        lines += [f"- gate {as_line(describe_limit(limit))}" for limit in limits]
        lines += [""] if limits else []
        if edit.warnings:
            lines += ["Before you rely on a figure:", ""]
            lines += [f"- {as_line(warning)}" for warning in edit.warnings] + [""]
    lines += [
        f"The base is {as_code(report.base.name)}. Brackets hold 95 % intervals. Differences from "
        "the base use the same passages and documents; for shares, they are in percentage points.",
        "",
    ]
    for table, figures in list_tables(report):
        if table.key != "size":
            lines += render_table(table, figures, name_edits(report))
    ran = {**report.provenance.versions, **report.edits[0].provenance}
    shown = ("dtype", "device", "lm-eval", "transformers")
    known = [f"{key} {ran[key]}" for key in shown if ran.get(key)]
    return "\n".join([*lines, f"Settings: {as_line(', '.join(known))}.", ""])


def render_table(table: Table, figures: Sequence[Figure], names: Sequence[str]) -> list[str]:
    """Lines of Markdown. `names`: of the edits."""
    columns = ["n", "base", *names]
    lines = [f"**{as_line(table.heading)}.** {as_line(table.text)}".strip(), ""]
    lines += [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for figure in figures:
        label = as_line(figure.label) + (f" ({as_line(figure.hint)})" if figure.hint else "")
        shown = (show(figure, value) for value in (figure.base, *figure.edits))
        texts = [
            as_line("; ".join(filter(None, [one.value, *one.details]))) if one else ""
            for one in shown
        ]
        n = "" if figure.n is None else f"{figure.n:,}"
        lines.append(f"| {label} | {' | '.join([n, *texts])} |")
    return [*lines, ""]


def build_measurements(report: Report) -> Measurements | None:
    """The figures of a report with one edit; None if its base is not the edit's source.

    Partly measured benchmarks are left out, since readers would take them for whole ones.
    """
    (edit,) = report.edits
    if edit.relation != "source":
        return None
    figures = report.figures
    if report.settings.get("limit") is not None:  # nor do their limits, which they hold, show
        figures = [one for one in figures if not is_task(one)]
    text = render_measurements(report.model_copy(update={"figures": figures}))
    return Measurements(
        f"{text}\nAll figures are in `report.json`.",
        [_make_result(one, report) for one in figures if one.table and _has_names(one)],
    )


def is_task(figure: Figure) -> bool:
    """Whether a figure is a benchmark's."""
    return "num_fewshot" in figure.details


def _has_names(figure: Figure) -> bool:
    return figure.details.keys() >= {"metric", *_NAMES}


def _make_result(figure: Figure, report: Report) -> dict[str, Any]:
    """An entry of the model index, for a figure whose details name its data set and metric."""
    (edited,), known = figure.edits, figure.details
    text = {key: make_printable(known[key]) for key in _NAMES}
    args = {key: known[key] for key in _ARGUMENTS if isinstance(known.get(key), int)}
    if not is_task(figure):
        args["samples_sha256"] = report.provenance.samples_sha256
        text["task_name"] = "verbatim extraction"
    decoding = {} if is_task(figure) else {"decoding": "greedy"}
    before = figure.base and figure.base.value
    return {
        "task_type": TASK,
        **text,
        "dataset_args": args,
        "metric_type": make_printable(known["metric"]),
        "metric_value": edited and edited.value,
        "metric_args": {"n": figure.n, **decoding, "before_the_edit": before},
    }


_NAMES = ("dataset_type", "dataset_name")
_ARGUMENTS = ("num_fewshot", "prefix_length", "suffix_length")
"""Details of a figure that say how its data set was used."""
