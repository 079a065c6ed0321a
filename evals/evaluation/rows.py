"""Makes rows from a report's figures: a label, the base's figure, and one for each edit.

The page, Markdown, the model card and the terminal all show these rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from evals.attacks.result import AttackResult, MembershipResult, Share
from evals.evaluation.report import HeldOut, Report, TaskResult
from evals.evaluation.tables import BYTES, COUNT, NATS, SHARE, Cell, Form, Row, Table
from evals.memorization.measures import MEASURES


def make_tables(report: Report) -> list[Table]:
    """Every table of measurements that has rows, in the order of the page."""
    made = (make_recital_table, make_attack_table, make_cost_table, make_full_table)
    return [table for table in (make(report) for make in made) if table.rows]


def _collect_parts(report: Report, part: str) -> list[Any]:
    """`part` of every edit, or nothing if an edit lacks it."""
    found = [getattr(edit, part) for edit in report.edits]
    return found if all(found) else []


def make_recital_table(report: Report) -> Table:
    """The memorization test: word for word, by how often passages were seen, and other measures."""
    tests = _collect_parts(report, "extraction")
    text = ""
    if tests:
        given, asked_for = (tests[0][f"{part}_length"] for part in ("prefix", "suffix"))
        text = (
            f"Each model gets the first {given} tokens of a passage. It recites the passage if its "
            f"most likely continuation matches the next {asked_for} tokens exactly."
        )
    rows = list(_make_recital_rows(tests))
    healed = _collect_parts(report, "healed_base")
    if rows and healed and (share := healed[0].recited):
        label = "recited by the base, healed the same way"
        rows.insert(1, Row(label, share.n, _make_share(share), (None,) * len(healed)))
    if rows and (twins := _collect_parts(report, "twin")):
        share = twins[0].recited
        cells = tuple(None if one.toward_recited is None else Cell(SHARE, one.toward_recited)
                      for one in twins)  # fmt: skip
        hint = "each edit: the share of the way from the base to it"
        label = "recited by the twin, which never saw the passages"
        rows.insert(1, Row(label, share.n, _make_share(share), cells, hint))
    return Table("What it recites", text, tuple(rows))


def _make_recital_rows(tests: Sequence[dict[str, Any]]) -> Iterator[Row]:
    if not tests:
        return
    yield _make_exact_row("recited word for word", tests)
    for place, part in enumerate(tests[0].get("by_count", ())):
        strata = [
            {
                **test["by_count"][place],
                **{key: test[key]["by_count"][place] for key in ("baseline", "paired")},
            }
            for test in tests
        ]
        yield _make_exact_row(_describe_count(part["count"]), strata, main=False)
    for label, path, form in _MEASURED:
        figures = [[_look_up(test, path), _look_up(test, ("baseline", *path))] for test in tests]
        if all(map(all, figures)):
            base, edits = (
                _make_mean(form, figures[0][1]),
                [_make_mean(form, one) for one, _ in figures],
            )
            yield Row(label, tests[0]["n"], base, tuple(edits), main=False)
    rises = [_look_up(test, ("paired", "selectivity")) for test in tests]
    if all(rises):
        label = "selectivity, nats per token"
        hint = "the rise of the loss on the passages minus its rise on the control text"
        edits = [Cell(NATS, rise["value"], rise["ci95"]) for rise in rises]
        yield Row(label, tests[0]["n"], None, tuple(edits), hint, main=False)


_MEASURED = [
    (one.phrase, one.path, SHARE if "%" in one.form else NATS) for one in MEASURES if one.phrase
]
_MEASURED.append(("loss on control text, nats per token", ("control", "nll"), NATS))


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
        cells.append(
            Cell(SHARE, found["rate"], found["ci95"], change["value"], change["ci95"], note)
        )
    base = tests[0]["baseline"]["exact_match"]
    return Row(
        label, tests[0]["n"], Cell(SHARE, base["rate"], base["ci95"]), tuple(cells), main=main
    )


def _describe_count(count: str) -> str:
    """Says how often the passages of a stratum were seen in training."""
    return {"0": "never seen", "1": "seen once"}.get(count, f"seen {count.replace('-', '–')} times")


def _format_p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def make_attack_table(report: Report) -> Table:
    """What each attack recovers, at each of its steps if it has any, and membership."""
    audits = _collect_parts(report, "audit")
    rows: list[Row] = []
    for found in zip(*(audit.attacks for audit in audits), strict=True):
        if all(isinstance(one, AttackResult) for one in found):
            rows += _make_attack_rows(found)
        elif all(isinstance(one, MembershipResult) and one.base and one.edited for one in found):
            for score, area in found[0].base.items():
                edits = tuple(Cell(NATS, a.auc, a.ci95) for a in (f.edited[score] for f in found))
                label, hint = f"membership by {score}", "area under the ROC curve; 0.5 is chance"
                base = Cell(NATS, area.auc, area.ci95)
                rows.append(Row(label, audits[0].n, base, edits, hint, main=False))
    control = audits[0].control if audits else None
    what = "windows of text" if control and control.kind == "text" else "passages"
    text = (
        "The share of passages that each attack recovers from each model. Never trained on: the "
        f"share of {control.n:,} {what} that no model saw and so none can remember."
        if control
        else ""
    )
    return Table("What an attacker gets", text, tuple(rows))


def _make_attack_rows(found: Sequence[AttackResult]) -> Iterator[Row]:
    first, cells = found[0], []
    for one in found:
        note = ""
        if one.control is not None:
            control = _make_share(one.control)
            note = f"never trained on {control.value} {control.interval}"
        if one.twin is not None:
            way = "" if one.toward_twin is None else f", {one.toward_twin:.0%} of the way to it"
            note += f"{'; ' if note else ''}twin {_make_share(one.twin).value}{way}"
        change = (one.paired.difference, one.paired.ci95)
        cells.append(Cell(SHARE, one.edited.rate, one.edited.ci95, *change, note))
    label = f"recovered by {first.name}"
    yield Row(label, first.edited.n, _make_share(first.base), tuple(cells), first.definition)
    curves = [one.curve for one in found if one.curve is not None]
    if len(curves) == len(found):
        for place, steps in enumerate(curves[0].base.stages):
            base, *edits = (
                Cell(SHARE, curve.any[place])
                for curve in (curves[0].base, *(one.edited for one in curves))
            )
            label = f"by any, after {steps:,} steps of {first.name}"
            yield Row(label, first.edited.n, base, tuple(edits), main=False)


def _make_share(share: Share) -> Cell:
    return Cell(SHARE, share.rate, share.ci95)


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
    if texts := _collect_parts(report, "heldout"):
        rows.append(_make_loss_row(texts))
    healed = _collect_parts(report, "healed_base")
    if losses := [one.heldout for one in healed if one.heldout]:
        rows.append(_make_loss_row(losses, "; base healed the same way"))
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
    edits = tuple(
        Cell(
            form,
            one.edited,
            (),
            one.difference,
            one.ci95,
            f"{one.verdict}, {_format_p(one.p_value)}",
        )
        for one in scored
    )
    hint = "; ".join(filter(None, ((first.description or "").rstrip("."), meaning)))
    return Row(f"{name}, {first.metric}{lower}", first.n, Cell(form, first.base), edits, hint)


def _make_loss_row(texts: Sequence[HeldOut], more: str = "") -> Row:
    first = texts[0]
    cells = []
    for one in texts:
        rise, note = one.difference, f"{one.verdict}, {_format_p(one.difference.p_value)}"
        cells.append(Cell(NATS, one.edited.mean, one.edited.ci95, rise.mean, rise.ci95, note))
    what = "held-out text" if first.kind == "text" else "passages that no model was trained on"
    label = f"loss on {what}, nats per token{more}"
    return Row(label, first.n, Cell(NATS, first.base.mean, first.base.ci95), tuple(cells))


def make_full_table(report: Report) -> Table:
    """All passages and windows, including those that chose an edit."""
    found = _collect_parts(report, "all_passages")
    rows = []
    if found:
        named = {"recited word for word": [one.recited for one in found]}
        for name in found[0].recovered:
            named[f"recovered by {name}"] = [one.recovered[name] for one in found]
        for label, shares in named.items():
            edits = tuple(_make_share(one.edited) for one in shares)
            rows.append(
                Row(label, shares[0].base.n, _make_share(shares[0].base), edits, main=False)
            )
        if all(one.heldout for one in found):
            rows.append(_make_loss_row([one.heldout for one in found]))
    text = (
        "A search chose an edit on some of the passages and held-out text. The tables above leave "
        "those out. This one includes them, so it flatters the edit."
    )
    return Table("All passages, including those that chose an edit", text, tuple(rows))


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
