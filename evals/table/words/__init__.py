"""Sentences about the figures of a report. The templates beside this file say them.

A template gives one clause, or one sentence, a line. What it may ask for is in `view.py`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from evals.table.limits import say_percent
from evals.table.words.view import View
from surgery.card.measurements import describe_limit, name_limit, say_above
from surgery.card.percent import format_bound, format_percent
from surgery.record.measured import TAUGHT, Measured, State
from surgery.record.report import EditRecord, Report

MOST_NAMES = 5  # in a sentence


def describe(report: Report) -> Report:
    """The report, with the result of every edit in words."""
    edits = [_describe_edit(report, edit) for edit in report.edits]
    return report.model_copy(update={"edits": edits})


def _describe_edit(report: Report, edit: EditRecord) -> EditRecord:
    view = View(report, edit)
    said = {name: _join(render(name, view=view)) for name in ("line", "verdict")}
    return edit.model_copy(update=said)


STATES: dict[State, tuple[str, str]] = {
    "kept": ("Kept", "with 95 % confidence, no more than the limit would be recovered or lost."),
    "missed": (
        "Missed",
        "what was measured is above the limit, or the search that chose this edit found none that "
        "keeps its limits.",
    ),
    "undecided": (
        "Not decided",
        "the tests do not show it either way: too little was tested; or a test shows nothing, as "
        "it finds no more than the limit in the model before the edit, too; or the model predicts "
        "nothing at all; or an attack that got little could not have got much, or got more in a "
        "setting that does not count.",
    ),
}


def explain(report: Report, edit: EditRecord) -> list[tuple[str, list[str]]]:
    """Headings, and the sentences below each, for readers who know no terms of the field."""
    found: list[tuple[str, list[str]]] = []
    known = {"states": STATES, "attackers": report.attackers}
    for line in render("plain", view=View(report, edit), **known):
        if line.startswith("# "):
            found.append((line.removeprefix("# "), []))
        else:
            found[-1][1].append(_join([line]))
    return [(heading, said) for heading, said in found if said]


class Bar(NamedTuple):
    """What someone gets of the passages: a share, a bound on it if there is one, and both in
    words. `model`: before or after the edit; "" if there is no base."""

    model: str
    share: float
    most: float | None
    text: str


def compare_attackers(report: Report, edit: EditRecord) -> dict[str, tuple[int, list[Bar]]]:
    """Someone who … → how many attacks of this kind were tried, and what the strongest gets.

    Leaves out whoever was not tried, or for whom no passage counts.
    """
    view = View(report, edit)
    if view.recited is None:
        return {}
    found: dict[str, tuple[int, list[Bar]]] = {}
    for who in dict.fromkeys((*report.attackers, *view.by_attacker)):
        tried = view.by_attacker.get(who, [])
        best = max((one for one in tried if one.row.n), key=lambda one: one.strength, default=None)
        pair = (best.base, best.row) if best else (None, None)
        if not tried and who == report.attackers[0]:  # asking is what was tested
            pair = (view.find_base(view.recited), view.recited)
        names = ("before", "after") if report.base else ("", "")
        bars = [_make_bar(name, row) for name, row in zip(names, pair, strict=True) if row]
        found |= {who: (len(tried), bars)} if bars else {}
    return found


def _make_bar(model: str, row: Measured) -> Bar:
    known = row.details.get("bound") if model != "before" and row.ci95 else None
    most = known if isinstance(known, float) else None
    bound = f", likely at most {format_bound(most)} %" if most is not None else ""
    return Bar(model, row.value or 0.0, most, tell(row) + bound)


def render(name: str, **given: Any) -> list[str]:
    """The lines of a template, those that are not empty."""
    text = _load().get_template(f"{name}.jinja").render(**given)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line]


def _join(clauses: list[str]) -> str:
    """Clauses as sentences."""
    sentences = (f"{clause[0].upper()}{clause[1:]}" for clause in clauses)
    return " ".join(
        sentence if sentence.endswith(".") else f"{sentence}." for sentence in sentences
    )


@lru_cache
def _load() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("evals.table", "words"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # the pages escape what they show
    )
    environment.globals["TAUGHT"] = TAUGHT
    environment.filters |= {
        "commas": lambda number: f"{number:,}",
        "digits": lambda number, form: format(number, form),
        "percent": format_percent,
        "at_most": format_bound,
        "limit_percent": say_percent,
        "some": shorten_list,
        "told": tell,
        "range": tell_range,
        "above": say_above,
        "typed": name_limit,
        "described": describe_limit,
    }
    return environment


def shorten_list(names: list[str], most: int = MOST_NAMES) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def tell(row: Measured) -> str:
    """How many of how many, without the noun; of several runs, the share."""
    if row.runs is not None and row.runs > 1:
        return f"{format_percent(row.value or 0.0)}% of {row.n:,}"
    return f"{row.details['count']} of {row.n:,}"


def tell_range(numbers: list[int]) -> str:
    """A number, or the least and the largest of some."""
    return " to ".join(dict.fromkeys(f"{end(numbers):,}" for end in (min, max)))
