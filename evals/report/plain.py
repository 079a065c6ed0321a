"""The first page of a report: what was found, for people who are not engineers.

It needs no other page, and explains its terms. The figures are those of the report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from evals.measure.attacks.names import ASKS, ATTACKERS, find_attacker
from evals.measure.verdicts import TAUGHT
from evals.report.attacks import Area, describe_membership
from surgery.card.percent import format_bound, format_percent
from surgery.record.report import EditRecord, Figure, Limit, Report, State, Value

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
MOST_WARNINGS = 4
_NO_PROOF = (
    "No test can show that a passage is gone: these tests are not a privacy guarantee. Other "
    "questions or more training may still bring it out. If you must prove that it is gone, train "
    "the model without it."
)


def explain(report: Report, place: int) -> list[tuple[str, list[str]]]:
    """Headings, and the sentences below each, about one edit."""
    edit = report.edits[place]
    found = [
        ("What was asked", _list_questions(report, place)),
        ("What it recites", _describe_recited(report, place)),
        ("Who could still get what", _list_attackers(report, place)),
        ("The cost", _describe_costs(report, place)),
        ("To be sure", [*_list_needs(report.list_limits(place)), _NO_PROOF]),
        ("Before you rely on it", _list_warnings(edit)),
    ]
    return [(heading, [*said]) for heading, said in found if said]


def _list_questions(report: Report, place: int) -> list[str]:
    recited, known = report.find("recited"), report.settings
    if recited is None:
        said = "What can the model still do? No passages were tested."
    else:
        cut = [known.get(f"{part}_length") for part in ("prefix", "suffix")]
        were = "was" if recited.n == 1 else "were"
        said = (
            f"Does the model still give away passages that it was trained on? {recited.n:,} {were} "
            f"tested. It got the first {cut[0]} tokens of each, which are words or parts of words, "
            f"and had to write the next {cut[1]}."
        )
        if longer := recited.details.get("longer"):
            said += (
                f" {longer:,} of them go on after that, by up to "
                f"{recited.details['untested_tokens']:,} tokens, which were not tested."
            )
    limits = [_describe_limit(one) for one in report.list_limits(place)]
    return [said, *(limits or ["No limit was set."])]


def _describe_limit(limit: Limit) -> str:
    kind, _, name = limit.name.removesuffix(TAUGHT).partition(" ")
    most, word = f"{100 * limit.limit:g} %", STATES[limit.state][0].lower()
    what = f"the {limit.n:,} passages that it was taught" if limit.whole else "the passages"
    if kind == "max-drop":
        what = f"its score may fall by at most {limit.limit:g}"
        if limit.description.startswith("relative rise"):  # of what is better if lower
            what = f"its result may rise by at most {most}"
        return f"Limit: on the test {name}, {what}: {word}."
    if kind == "max-extraction":
        return f"Limit: it may recite at most {most} of {what}, word for word: {word}."
    who = f"the attack {name}, by someone who {find_attacker(name)},"
    return f"Limit: {who} may recover at most {most} of {what}: {word}."


def _describe_recited(report: Report, place: int) -> list[str]:
    figure, edit = report.find("recited"), report.edits[place]
    after = figure.edits[place] if figure else None
    if figure is None or after is None or after.value is None:
        return []
    before = "" if figure.base is None else f" The model before the edit: {_count(figure.base)}."
    said = f"{_count(after)} of {_name_rows(f'{figure.n:,}', after)}, word for word.{before}"
    rows = (row for row in edit.passages if row.exact and row.member is not False)
    names = [row.id or row.hash[:8] for row in rows]
    more = int(after.details.get("count") or 0) - len(names)
    if names:
        said += f" These are: {', '.join(names)}{f' and {more} more' if more > 0 else ''}."
    return [said, *_describe_taught(report, place)]


def _describe_taught(report: Report, place: int) -> Iterator[str]:
    """What is left of the passages that it was taught, where the other figures are of others."""
    edit, figure = report.edits[place], report.find("taught.recited")
    value = figure.edits[place] if figure else None
    if figure is None or value is None or (edit.chose.get("taught") or 0) < (figure.n or 0):
        return
    yield f"Of the {figure.n:,} other passages, which it was taught, it recites {_count(value)}."
    found = [one for one in report.figures if one.key.startswith("taught.recovered.")]
    shares = [(at, one.label) for one in found if (at := one.edits[place]) and at.value is not None]
    if shares:
        most, label = max(shares, key=lambda one: one[0].value or 0.0)
        yield f"Of what was tried, most are {label}: {_count(most)}."


def _name_rows(n: str, value: Value) -> str:
    """The passages that a value is of. Without an interval, they are all that it was taught."""
    taught = value.ci95 is None and "count" in value.details
    return f"the {n} passages that were listed" if taught else f"{n} passages"


def _list_attackers(report: Report, place: int) -> list[str]:
    """For each attacker the strongest of the attacks that were tried, if any was."""
    recited = report.find("recited")
    if recited is None:
        return []
    tried: dict[str, list[Figure]] = {who: [] for who in ATTACKERS}
    for figure in report.figures:
        if figure.key.startswith("recovered.") and figure.main and figure.edits[place]:
            tried.setdefault(find_attacker(str(figure.details["name"])), []).append(figure)
    said = {who: _describe_worst(report, place, found) for who, found in tried.items() if found}
    if not tried[ASKS] and (value := recited.edits[place]):
        rows = _name_rows(f"{recited.n:,}", value)
        said[ASKS] = f"{_count(value)} of {rows}, word for word. No more was tried"
    told = [f"Someone who {who}: {said[who]}." for who in tried if who in said]
    left = [who for who in tried if who not in said]
    return [*told, *([f"Not tried: someone who {', or '.join(left)}."] if left else [])]


def _describe_worst(report: Report, place: int, found: list[Figure]) -> str:
    """What the strongest of some attacks recover. Several may tie, most often at nothing."""
    counting = [one for one in found if _rate(one.edits[place]) is not None]
    if not counting:
        names = ", ".join(str(one.details["name"]) for one in found)
        return f"no passage counts for what was tried ({names})"
    most = max(_rate(one.edits[place]) or 0 for one in counting)
    tied = [one for one in counting if _rate(one.edits[place]) == most]
    figure = max(tied, key=lambda one: _rate(one.base) or 0)
    said = f"{_tell_share(place, tied)}, with {_name_tied(tied, len(counting), most)}"
    if figure.base is not None:
        count, name = _count(figure.base), figure.details["name"]
        said += f"; before the edit, {count if len(tied) == 1 else f'{count} with {name}'}"
    if not most:
        said += f"; {describe_membership(_list_areas(report, place))}"
    return said


def _rate(value: Value | None) -> float | None:
    return None if value is None else value.value


def _tell_share(place: int, tied: list[Figure]) -> str:
    """How many of how many passages, and how many it may be: by the attack that counts fewest."""
    values = [value for one in tied if (value := one.edits[place]) is not None]
    ns = [
        int(n)
        for one, value in zip(tied, values, strict=True)
        for n in [value.details.get("n", one.n)]  # attacks may run on more passages of one edit
        if isinstance(n, int)
    ]
    n = " to ".join(dict.fromkeys(f"{end(ns):,}" for end in (min, max)))
    shares = (one.details.get("bound") for one in values if one.ci95 is not None)
    bounds = [bound for bound in shares if isinstance(bound, float)]
    likely = f" (likely at most {format_bound(max(bounds))} %)" if bounds else ""
    count = _count(values[0]) if len({*ns}) == 1 else f"{format_percent(values[0].value or 0)} %"
    return f"{count if values[0].value else 'none'} of {_name_rows(n, values[0])}{likely}"


def _name_tied(tied: list[Figure], number: int, most: float) -> str:
    """`number`: of all that count a passage."""
    names = [str(one.details["name"]) for one in tied]
    if number == 1:
        return names[0]
    if not most:
        return f"any of {number} attacks"
    which = f"the strongest of {number} attacks"
    return f"{which}, {names[0]}" if len(names) == 1 else f"{which}, which tie: {', '.join(names)}"


def _list_areas(report: Report, place: int) -> dict[str, Area]:
    """Membership score → its AUC and interval."""
    found = ((one.key, one.edits[place]) for one in report.figures)
    return {
        key.partition(".")[2]: (value.value, value.ci95)
        for key, value in found
        if key.startswith("membership.") and value is not None and value.value is not None
    }


def _count(value: Value) -> str:
    """A number of passages, or a share where it is the mean of several runs."""
    count, draws = (value.details.get(name) for name in ("count", "draws"))
    whole = isinstance(count, int) and (draws is None or draws == 1)
    return f"{count}" if whole else f"{format_percent(value.value or 0)} %"


def _describe_costs(report: Report, place: int) -> list[str]:
    said, loss = [], report.find("heldout")
    cost = loss.edits[place] if loss else None
    if loss is not None and cost is not None and (change := cost.change) is not None:
        share = 100 * (1 - math.exp(-change.value))
        how = f"{abs(share):.1f} % {'lower' if share >= 0 else 'higher'}"
        doubt = {"none": "; that may be chance", "inconclusive": "; too little text to tell"}
        said.append(
            "In text that it was not trained on (the held-out text), it gives the true next token "
            f"a probability that is {how} than before, on average (that is {change.value:+.3f} "
            f"nats, the unit of a language model's loss; n = {loss.n:,}"
            f"{doubt.get(str(cost.details.get('outcome')), '')})."
        )
    tasks = [one for one in report.figures if one.key.startswith("task.") and one.main]
    ends = [one.edits[place] for one in tasks]
    states = [str(one.details.get("outcome")) for one in ends if one is not None]
    if states:
        named = {"loss": "worse", "gain": "better", "inconclusive": "too close to tell"}
        counts = [f"{word} on {states.count(key)}" for key, word in named.items() if key in states]
        same = states.count("none")
        counts += [f"no worse on {same}, as far as they show"] if same else []
        where = "the one test" if len(states) == 1 else f"{len(states)} tests"
        ns = [one.n or 0 for one in tasks]
        n = " to ".join(dict.fromkeys(f"{end(ns):,}" for end in (min, max)))
        text = f"On {where} of what it can do (n = {n}), it is {', '.join(counts)}."
        if report.settings.get("limit") is not None:
            text += " Only a part of each test was run."
        said.append(text)
    return said or ["Not measured."]


def _list_needs(limits: list[Limit]) -> Iterator[str]:
    """What would decide the limits that are open."""
    for text in dict.fromkeys(one.lacks for one in limits if one.lacks):
        yield f"{text[0].upper()}{text[1:]}."


def _list_warnings(edit: EditRecord) -> list[str]:
    """The first warnings, as sentences: the sheet may go alone."""
    said = [f"{text[0].upper()}{text[1:]}." for text in edit.warnings[:MOST_WARNINGS]]
    if more := len(edit.warnings) - len(said):
        said.append(f"{more} more {'warning stands' if more == 1 else 'warnings stand'} below.")
    return said
