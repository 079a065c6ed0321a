"""Makes the tables of a report from its figures. A row has a label, and a cell for every model.

The page, Markdown, the model card and the terminal all show these rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rich.filesize import decimal

from evals.measure.attacks.result import AttackResult, MembershipResult, Share
from evals.measure.differences import HeldOut
from evals.measure.memorization.measures import MEASURES
from evals.report.report import AllPassages, Report, TaskResult

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
    """A figure of one model and, for an edit, its paired difference from the base.

    `number` None: there is only a note.
    """

    form: Form
    number: float | None
    ci95: Ends = ()
    change: float | None = None
    change_ci95: Ends = ()
    note: str = ""

    @property
    def value(self) -> str:
        if self.number is None:
            return ""
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


def make_tables(report: Report) -> list[Table]:
    """Every table of measurements that has rows, in the order of the page."""
    made = (
        make_recital_table, make_attack_table, make_unlisted_table, make_cost_table,
        make_full_table,
    )  # fmt: skip
    return [table for make in made if (table := make(report)).rows]


def collect_parts(report: Report, part: str) -> list[Any]:
    """`part` of every edit, or nothing if an edit lacks it."""
    found = [getattr(edit, part) for edit in report.edits]
    return found if all(found) else []


def make_recital_table(report: Report) -> Table:
    """The memorization test: word for word, by how often passages were seen, and other measures."""
    heading, tests = "What it recites", collect_parts(report, "extraction")
    if not tests:
        return Table(heading, "", ())
    given, asked_for = (tests[0][f"{part}_length"] for part in ("prefix", "suffix"))
    text = (
        f"Each model gets the first {given} tokens of a passage. It recites the passage if its "
        f"most likely continuation matches the next {asked_for} tokens exactly."
    )
    rows = [_make_exact_row("recited word for word", tests)]
    if twins := collect_parts(report, "twin"):
        share, ways = twins[0].recited, [_describe_way(one.toward_recited) for one in twins]
        cells = tuple(Cell(SHARE, None, note=way) for way in ways)
        label = "recited by the twin, which never saw the passages"
        rows.append(Row(label, share.n, _make_share(share), cells))
    return Table(heading, text, (*rows, *_make_minor_rows(tests)))


def _describe_way(way: float | None) -> str:
    """How far an edit goes from the base to the twin; empty where these are equal."""
    return "" if way is None else f"{way:.0%} of the way to it"


def _make_minor_rows(tests: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """By how often passages were seen, and other measures."""
    n = tests[0]["n"]
    for place, part in enumerate(tests[0].get("by_count", ())):
        strata = [_pick_stratum(test, place) for test in tests]
        yield _make_exact_row(_describe_count(part["count"]), strata, main=False)
    for label, path, form in _MEASURED:
        figures = [_look_up(one, path) for one in (tests[0]["baseline"], *tests)]
        if all(figures):
            base, *edits = (_make_mean(form, figure) for figure in figures)
            yield Row(label, n, base, tuple(edits), main=False)
    rises = [test["paired"].get("selectivity") for test in tests]
    if all(rises):
        label = "selectivity, nats per token"
        hint = "the rise of the loss on the passages minus its rise on the control text"
        edits = [_make_mean(NATS, rise) for rise in rises]
        yield Row(label, n, None, tuple(edits), hint, main=False)


_MEASURED = [
    (one.phrase, one.path, SHARE if "%" in one.form else NATS) for one in MEASURES if one.phrase
]
_MEASURED.append(("loss on control text, nats per token", ("control", "nll"), NATS))


def _pick_stratum(test: dict[str, Any], place: int) -> dict[str, Any]:
    more = {key: test[key]["by_count"][place] for key in ("baseline", "paired")}
    return {**test["by_count"][place], **more}


def _look_up(figures: Any, path: Iterable[str]) -> Any:
    for part in path:
        figures = figures.get(part) or {}
    return figures


def _make_mean(form: Form, figure: dict[str, Any]) -> Cell:
    middle = next(figure[key] for key in ("mean", "rate", "value") if key in figure)
    return Cell(form, middle, figure["ci95"])


def _make_exact_row(label: str, tests: Sequence[dict[str, Any]], *, main: bool = True) -> Row:
    """`tests`: the figures of each edit, with `baseline` and `paired`."""
    cells = []
    for test in tests:
        paired, found = test["paired"], test["exact_match"]
        change = paired["exact_match_difference"]
        note = (
            f"{paired['forgotten']} no longer recited, {paired['newly_extracted']} newly, "
            f"{_format_p(paired['p_value'])}"
        )
        both = (found["rate"], found["ci95"], change["value"], change["ci95"])
        cells.append(Cell(SHARE, *both, note))
    base = _make_mean(SHARE, tests[0]["baseline"]["exact_match"])
    return Row(label, tests[0]["n"], base, tuple(cells), main=main)


def _describe_count(count: str) -> str:
    """Says how often the passages of a stratum were seen in training."""
    return {"0": "never seen", "1": "seen once"}.get(count, f"seen {count.replace('-', '–')} times")


def _format_p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def make_attack_table(report: Report) -> Table:
    """What each attack recovers, at each of its steps if it has any, and membership."""
    heading, audits = "What an attacker gets", collect_parts(report, "audit")
    if not audits:
        return Table(heading, "", ())
    rows: list[Row] = []
    for found in zip(*(audit.attacks for audit in audits), strict=True):
        if isinstance(found[0], AttackResult):
            rows += _make_attack_rows(found)
        elif all(one.base and one.edited for one in found):
            rows += _make_membership_rows(found, audits[0].n)
    control = audits[0].control
    what = "windows of text" if control.kind == "text" else "passages"
    text = (
        "The share of passages that each attack recovers from each model. Never trained on: the "
        f"share of {control.n:,} {what} that no model saw and so none can remember."
    )
    return Table(heading, text, tuple(rows))


def _make_membership_rows(found: Sequence[MembershipResult], n: int) -> Iterator[Row]:
    for score in found[0].base or ():
        areas = [found[0].base, *(one.edited for one in found)]
        base, *edits = (Cell(NATS, one[score].auc, one[score].ci95) for one in areas if one)
        hint = "area under the ROC curve; 0.5 is chance"
        yield Row(f"{found[0].name} by {score}", n, base, tuple(edits), hint, main=False)


def _make_attack_rows(found: Sequence[AttackResult]) -> Iterator[Row]:
    first, cells = found[0], []
    for one in found:
        notes = []
        edited = _make_share(one.edited)
        if edited.number is None:
            cells.append(edited)
            continue
        if one.control is not None:
            control = _make_share(one.control)
            notes.append(f"never trained on {control.value} {control.interval}")
        if one.twin is not None:
            way = _describe_way(one.toward_twin)
            notes.append(", ".join(filter(None, (f"twin {_make_share(one.twin).value}", way))))
        change, ends = one.paired.difference, one.paired.ci95
        cells.append(replace(edited, change=change, change_ci95=ends, note="; ".join(notes)))
    n, runs = first.edited.n, first.edited.runs
    label = f"recovered by {first.name}{runs and f', {runs}'}"
    yield Row(label, n, _make_share(first.base), tuple(cells), first.definition)
    curves = [one.curve for one in found if one.curve is not None]
    if len(curves) == len(found):
        shown = [curves[0].base, *(one.edited for one in curves)]
        for place, steps in enumerate(shown[0].stages):
            base, *edits = (Cell(SHARE, curve.any[place]) for curve in shown)
            label = f"by any, after {steps:,} steps of {first.name}{runs and ', one run'}"
            yield Row(label, n, base, tuple(edits), main=False)


def _make_share(share: Share) -> Cell:
    """A share of no passages has no value, so it says that none counts."""
    return Cell(SHARE, share.rate, share.ci95) if share.n else Cell(SHARE, None, note="none counts")


_METRICS = {
    "acc": "the share of right answers",
    "acc_norm": "the share of right answers, with choices compared by likelihood per character",
    "perplexity": "e to the power of the mean loss",
    "word_perplexity": "e to the power of the mean loss per word",
    "byte_perplexity": "e to the power of the mean loss per byte",
    "bits_per_byte": "the mean loss per byte, in bits",
}
"""What lm-eval's names of metrics mean."""


def make_cost_table(report: Report) -> Table:
    """What the edits cost: benchmarks, and loss on held-out text."""
    rows = []
    for name in report.edits[0].tasks:
        scored = [edit.tasks[name] for edit in report.edits if name in edit.tasks]
        if len(scored) == len(report.edits):
            rows.append(_make_task_row(name, scored))
    if texts := collect_parts(report, "heldout"):
        rows.append(_make_loss_row(texts))
    text = (
        "Every model gets the same documents. “No loss shown” does not prove that there is none: "
        "look at the interval. “Inconclusive” means that the interval is too wide to tell. Loss is "
        "the mean of −ln(probability of the true token), in nats per token; lower is better."
    )
    return Table("What it costs", text, tuple(rows))


def _make_task_row(name: str, scored: Sequence[TaskResult]) -> Row:
    first = scored[0]
    largest = max(abs(score) for score in (first.base, *(one.edited for one in scored)))
    form = Form(next((d for d, high in ((3, 10), (2, 100), (1, 1_000)) if largest < high), 0))
    lower = "" if first.higher_is_better else ", lower is better"
    meaning = f"{first.metric} is {_METRICS[first.metric]}" if first.metric in _METRICS else ""
    notes = [f"{one.verdict}, {_format_p(one.p_value)}" for one in scored]
    edits = tuple(
        Cell(form, one.edited, (), one.difference, one.ci95, note)
        for one, note in zip(scored, notes, strict=True)
    )
    hint = "; ".join(filter(None, ((first.description or "").rstrip("."), meaning)))
    return Row(f"{name}, {first.metric}{lower}", first.n, Cell(form, first.base), edits, hint)


def _make_loss_row(texts: Sequence[HeldOut], *, main: bool = True) -> Row:
    first, cells = texts[0], []
    for one in texts:
        rise, note = one.difference, f"{one.verdict}, {_format_p(one.difference.p_value)}"
        cells.append(Cell(NATS, one.edited.mean, one.edited.ci95, rise.mean, rise.ci95, note))
    what = "held-out text" if first.kind == "text" else "passages that no model was trained on"
    label = f"loss on {what}, nats per token"
    base = Cell(NATS, first.base.mean, first.base.ci95)
    return Row(label, first.n, base, tuple(cells), main=main)


def make_full_table(report: Report) -> Table:
    """All passages and windows, including those on which an edit was chosen."""
    found = collect_parts(report, "all_passages")
    rows = list(_make_share_rows(found))
    if found and all(one.heldout for one in found):
        rows.append(_make_loss_row([one.heldout for one in found], main=False))
    text = (
        "A search chose an edit on some of the passages and held-out text. The tables above leave "
        "those out. This one includes them, so it flatters the edit."
    )
    return Table("All passages, including those that the search used", text, tuple(rows))


def make_unlisted_table(report: Report) -> Table:
    """The passages that were left out of every list."""
    found = collect_parts(report, "unlisted")
    text = (
        "No search saw these passages, and no training did. The other tables leave them out. They "
        "show what becomes of passages that nobody listed."
    )
    return Table("Passages that nobody listed", text, tuple(_make_share_rows(found)))


def _make_share_rows(found: Sequence[AllPassages]) -> Iterator[Row]:
    """What is recited, and what each attack recovers; nothing without an edit."""
    if not found:
        return
    named = {"recited word for word": [one.recited for one in found]}
    for name in found[0].recovered:
        named[f"recovered by {name}"] = [one.recovered[name] for one in found]
    for label, shares in named.items():
        base, edits = shares[0].base, tuple(_make_share(one.edited) for one in shares)
        yield Row(label, base.n, _make_share(base), edits, main=False)


def make_size_table(report: Report) -> Table:
    """Parameters, bytes on disk, and cache bytes per token."""
    measured = [report.base.size, *(edit.size for edit in report.edits)]
    rows = []
    for label, key, form in (
        ("parameters", "parameters", COUNT),
        ("weights on disk", "weight_bytes", BYTES),
        ("key/value cache per token", "cache_bytes_per_token", BYTES),
    ):
        base, *edits = (Cell(form, getattr(size, key)) for size in measured)
        rows.append(Row(label, None, base, tuple(edits), main=False))
    return Table("Size", "", tuple(rows))
