"""The figures of `extract`, `audit`, `evaluate`, `sweep`, and `search`, for people."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.tables import print_table
from cli.terminal import echo, note

if TYPE_CHECKING:
    from evals.choose.grid import GridEdit, GridResult
    from evals.choose.search.report import SearchResult
    from evals.choose.search.request import SearchRequest
    from evals.choose.sweep.report import SweepResult
    from evals.jobs.recipes import Place, Recipe
    from surgery.card.measurements import Line
    from surgery.record.measured import Limit, Measured, State, Unit
    from surgery.record.report import Report, SamplesRecord

_MOST_IDS, _MOST = 20, 12


def print_report(
    report: Report,
    *places: Path,
    table: bool = True,
    given_away: Mapping[str, Sequence[str]] | None = None,
) -> State | None:
    """Verdicts, figures, limits, and where the pages are. Of `evaluate`, the main figures.

    On stderr, also without `table`: each warning once, and what is not shown to be kept: limits,
    and those of the search. `given_away`: passage → the attacks that recover it, of one model
    alone. Returns the state of all edits together, None without limits.
    """
    from evals.table.limits import settle
    from surgery.card.measurements import describe_limit, list_tables

    _note_what_is_open(report)
    if table:
        if report.samples is not None:
            echo(f"{_say_samples(report.samples)}; 95 % intervals in brackets")
        for edit in report.edits:
            for sentence in re.split(r"(?<=\.) (?=[A-Z])", edit.verdict):
                echo(sentence)
        brief = report.command == "evaluate"
        shown = list(list_tables(report))
        main = [line for one, lines in shown if one.on is None for line in lines]
        _print_lines(report, [line for line in main if line.named.main or not brief], brief=brief)
        for one, lines in shown:
            if one.on is not None and not brief:
                echo(f"{one.heading}:")
                _print_lines(report, lines)
        _print_given_away(report, given_away or {})
        for limit in report.limits:
            echo(f"limit: {describe_limit(limit)}")
        for place in places:
            echo(f"report: {place / 'report.html'}")
    return settle(edit.state for edit in report.edits)


def _say_samples(samples: SamplesRecord, n: int | None = None) -> str:
    from evals.data import say_lengths

    lengths = say_lengths(samples.prefix_length, samples.suffix_length, samples.secrets)
    return f"{samples.rows if n is None else n:,} passages, {lengths}"


def _note_what_is_open(report: Report) -> None:
    from surgery.card.measurements import WORDS, name_limit

    for line in dict.fromkeys(text for edit in report.edits for text in edit.warnings):
        note(f"warning: {line}")
    for limit in report.limits:
        if limit.state != "kept":
            said = f"limit {WORDS[limit.state].lower()}: {name_limit(limit)}: {limit.description}"
            note(said)
    for edit in report.edits:
        if edit.state is not None and edit.edit is not None and edit.edit.missed_alone:
            what = "missed: the search that chose this edit found none that keeps its limits"
            note(what)


def _print_lines(report: Report, lines: Sequence[Line], *, brief: bool = False) -> None:
    """A row for each figure, without columns that say nothing. `brief`: without the intervals of
    values."""
    from surgery.card.measurements import find_beside, show, show_change

    found: list[tuple[str, list[str]]] = [
        ("", [line.named.label for line in lines]),
        ("n", ["" if line.n is None else f"{line.n:,}" for line in lines]),
    ]

    def add(heading: str, rows: Iterable[tuple[Line, Measured | None]]) -> None:
        shown = [show(report, line, row) for line, row in rows]
        ends = ["" if one is None or brief else one.interval for one in shown]
        values = ["" if one is None else one.value or one.note for one in shown]
        found.append((heading, [f"{a} {b}".strip() for a, b in zip(values, ends, strict=True)]))

    add("base", ((line, line.base) for line in lines))
    add("edited" if report.base else "value", ((line, line.edits[0]) for line in lines))
    last = [line.edits[0] for line in lines]
    beside = [find_beside(report, row) for row in last]
    shown = [show(report, line, row) for line, row in zip(lines, last, strict=True)]
    found.append(("difference [95% interval]", [one.difference if one else "" for one in shown]))
    add("never trained on", zip(lines, (control for control, _ in beside), strict=True))
    add("twin", zip(lines, (twin for _, twin in beside), strict=True))
    pairs = zip(last, (twin for _, twin in beside), strict=True)
    above = [row.above_twin if row and twin else None for row, twin in pairs]
    found.append(("above the twin [95% interval]", [show_change(one) for one in above]))
    found.append(("notes", [one.note if one and one.value else "" for one in shown]))
    kept = [(heading, cells) for heading, cells in found if not heading or any(cells)]
    if lines:
        rows = list(zip(*(cells for _, cells in kept), strict=True))
        words = 1 if kept[-1][0] == "notes" else 0
        print_table([heading for heading, _ in kept], rows, words=words)


def print_side_by_side(report: Report, names: Sequence[str]) -> None:
    """The main figures of the base and of every edit, a column each, without intervals."""
    from surgery.card.measurements import list_tables, show

    lines = [one for table, some in list_tables(report) if table.on is None for one in some]
    rows = [
        [
            line.named.label,
            "" if line.n is None else f"{line.n:,}",
            *(one.value if one else "" for one in (show(report, line, row) for row in models)),
        ]
        for line in lines
        if line.named.main
        for models in [(line.base, *line.edits)]
    ]
    print_table(["", "n", *names], rows)


def _print_given_away(report: Report, given_away: Mapping[str, Sequence[str]]) -> None:
    """Names the passages that come out, those first that most attacks recover."""
    ids = sorted(given_away, key=lambda name: -len(given_away[name]))
    if ids:
        number = sum("attack" in named.details for named in report.names.values())
        echo(f"recovered, and by how many of the {number} attacks:")
    for name in ids[:_MOST_IDS]:
        echo(f"  {name}: {len(given_away[name])}")
    if (more := len(ids) - _MOST_IDS) > 0:
        echo(f"  and {more:,} more; --rows FILE names all of them, and the attacks")


RESULTS: dict[str, Any] = {
    "limits": lambda view: _say_state(view.edit.state),
    "held-out loss, nats": lambda view: _show_change(view.heldout),
    "form, nats": lambda view: _show_change(view.form),
    "recited": lambda view: _show(view.recited),
    "strongest attack": lambda view: _say_strongest(view),
    "benchmarks": lambda view: _say_tasks(view),
}
"""The columns of the results of `mitigate`: what the report says of each."""


def print_results(
    report: Report, recipes: Sequence[Recipe], places: Sequence[Place], chosen: int, judged: int
) -> None:
    """The results of a mitigation side by side. `report`: the one that chose, on so many passages;
    the verdict rests on others."""
    from evals.table.words.view import View

    views = [View(report, edit) for edit in report.edits]
    columns = {heading: [make(view) for view in views] for heading, make in RESULTS.items()}
    columns["largest cost"] = [_say_cost(place) for place in places]
    kept = {heading: cells for heading, cells in columns.items() if any(cells)}
    rows = [
        [recipe.name, recipe.what, *(cells[at] for cells in kept.values())]
        for at, recipe in enumerate(recipes)
    ]
    echo(f"All results, on the {chosen:,} passages that chose; {judged:,} others judge the best:")
    print_table(["name", "result", *kept], rows, labels=2)


def _say_cost(place: Place) -> str:
    return "" if place.cost is None else f"{place.cost:+.1%} ({place.cost_of})"


def _say_state(state: str | None) -> str:
    from surgery.card.measurements import WORDS

    return "" if state is None else WORDS[state]


def _show(row: Measured | None, unit: Unit | None = None) -> str:
    """A value without its interval."""
    from surgery.card.measurements import show_number

    if row is None or row.value is None:
        return ""
    text = show_number(row.value, unit or row.unit, 3)
    return f"{text}%" if row.unit == "share" else text


def _show_ends(row: Measured | None) -> str:
    """The interval of a share."""
    ends = row.ci95 or () if row else ()
    return f"[{', '.join(f'{100 * end:.1f}%' for end in ends)}]"


def _show_change(row: Measured | None) -> str:
    return "" if row is None or row.change is None else f"{row.change.difference:+.3f}"


def _say_strongest(view: Any) -> str:
    """Where none recovers any, also what a membership score tells."""
    worst = view.strongest
    if worst is None:
        return ""
    if worst.row.value:
        return f"{worst.name} {worst.row.value:.1%}"
    area = "membership not tried" if view.area is None else f"AUC {view.area.value:.2f}"
    return f"none recovers any; {area}"


def _say_tasks(view: Any) -> str:
    if not view.tasks:
        return ""
    lost, unclear = len(view.list_tasks("loss")), len(view.list_tasks("inconclusive"))
    return f"{lost} of {len(view.tasks)} lose{f', {unclear} inconclusive' if unclear else ''}"


_SWEPT = (
    ("exact", "recited"),
    ("held-out loss", "heldout"),
    ("KL", "kl"),
    ("next token", "next_token_accuracy"),
    ("suffix NLL", "suffix_nll"),
    ("entropy", "completion_entropy"),
    ("est. KL", "estimated_kl"),
    ("est. margin", "estimated_margin"),
)
"""The columns of a sweep: heading and figure. Tasks come after the first three."""


def print_sweep(result: SweepResult) -> None:
    """A row for each edit. Figures that were not measured have no column."""
    from surgery.record.measured import BASE

    edits = sorted(result.edits, key=lambda edit: (edit.blocks, "." in edit.spec, edit.parts))
    tasks = [(task, f"task.{task}") for task in result.tasks]
    columns = [one for one in (*_SWEPT[:3], *tasks, *_SWEPT[3:]) if one[1] in result.names]
    echo(
        f"{result.model.name}: {_say_samples(result.samples, result.n)}; losses and KL in nats per "
        "token"
    )
    rows = [["none", "", *_list_cells(result, BASE, columns)]]
    rows += [[edit.spec, edit.variant, *_list_cells(result, edit.of, columns)] for edit in edits]
    print_table(("edit", "variant", *(heading for heading, _ in columns)), rows, labels=2)
    if tasks:
        ns = {task: result.find(name, BASE) for task, name in tasks}
        asked = (
            f"{task} ({known['metric']}, n = {ns[task].n if ns[task] else 0:,})"  # type: ignore[union-attr]
            for task, known in result.tasks.items()
        )
        echo(f"tasks: {', '.join(asked)}")
    if result.read("recited", BASE):
        _print_best(result.model_copy(update={"edits": edits}))
    if result.estimates:
        _print_estimates(result)


def _list_cells(result: GridResult, of: str, columns: Iterable[tuple[str, str]]) -> Iterator[str]:
    for _, name in columns:
        yield _show(result.find(name, of)) or "-"


def _print_best(result: SweepResult) -> None:
    """The edit that recites least, of equal ones the one that costs least."""
    from evals.choose.sweep.report import find_best_edit
    from surgery.record.measured import BASE

    best = find_best_edit(result)
    shares = (result.read("recited", of) or 0.0 for of in (BASE, best.of))
    change = " to ".join(f"{share:.1%}" for share in shares)
    echo(
        f"best: --drop-attn {best.spec} --variant {best.variant}: exact match {change} at "
        f"{result.rise(best.of):+.3f} nats per held-out token (KL {result.read('kl', best.of):.3f})"
    )


def _print_estimates(result: SweepResult) -> None:
    """The heads and blocks that no other beats in both estimates."""
    from evals.choose.sweep.report import find_front
    from surgery.record.measured import BASE

    tokens = "recited tokens" if result.read("recited", BASE) else "the passages' tokens"
    echo(
        f"estimates of {len(result.estimates)} heads and blocks. These move the margins of "
        f"{tokens} most for their cost:"
    )
    for one in find_front(result)[-_MOST:]:
        kl, margin = (result.read(f"estimated_{name}", one.of) for name in ("kl", "margin"))
        echo(f"  {one.label}: KL {kl:.4f} nats, margins {margin:.3f} nats²")


def print_search(result: SearchResult) -> None:
    """The unedited model, the deepest blocks, and the choice, on both halves, and what the
    held-back passages say of each limit."""
    assert result.selected is not None
    selected, measure, back = result.selected, result.measure, "held back"
    what = "recited" if measure == "greedy" else f"recovered ({measure})"
    echo(
        f"{result.model.name}: chosen on {result.n} passages, {result.n_held_back} held back. "
        "loss: the rise on held-out text; KL: how far predictions moved there; both in nats per "
        "token"
    )
    echo(f"chosen: {_describe_edit(result, result.find_edit(selected))}")
    _print_halves(result, what)
    offered = f"built from {result.units.offered} units (a block or a head, in one variant)"
    every = "all that these options allow" if result.exhaustive else offered
    row = result.find(f"recovered.{measure}", selected, "held back")
    echo(
        f"{result.evaluations} edits measured, {every}. Of the held-back passages, {what}: "
        f"{_show(row)} {_show_ends(row)}"
    )
    _explain_choice(result)
    _print_finalists(result)
    echo(f"Cost on held-back text, in nats: {_describe_costs(result, selected)}")
    limits = [limit for limit in result.list_limits(selected) if limit.on == back]
    for one in limits:
        _print_limit(result, one)
    if not any(result.names[limit.name].details.get("trains") for limit in limits):
        echo(
            "No attack that trains the model has a limit, and training may bring back what the "
            "edit only hides. To search for an edit that resists, add --max relearn=0.05."
        )
    if (rise := result.read("healed.heldout_rise", selected, "held back")) is not None:
        echo(
            f"Limits are those of the healed edit, which costs {rise:+.3f} nats per token relative "
            "to the unedited model. The table shows the cut."
        )
    echo(_describe_held_back(result, limits))


def _print_halves(result: SearchResult, what: str) -> None:
    from surgery.record.measured import BASE

    halves: Any = ("held back", "chosen on")
    models = [("unedited", BASE)]
    if result.deep_blocks is not None:
        spec = result.find_edit(result.deep_blocks).spec
        models.append((f"deep blocks: {spec} identity", result.deep_blocks))
    models.append(("chosen", str(result.selected)))

    def make_cells(of: str, on: Any) -> list[str]:
        point = result.point(of, on)
        rise, kl = result.rise(of, on), point.heldout_kl
        return [f"{point.recovered:.1%}", f"{rise:+.3f}", f"{kl:.3f}"]

    print_table(
        ("edit", *(f"{half}: {name}" for half in halves for name in (what, "loss", "KL"))),
        [(label, *(cell for on in halves for cell in make_cells(of, on))) for label, of in models],
    )


def _print_finalists(result: SearchResult) -> None:
    """What the best edits cost before they are healed and after, and what they then know."""
    if not result.finalists:
        return
    echo(
        "The best edits, healed: cost in nats per token before and after, and what is recovered "
        "then of the passages that chose"
    )
    rows = []
    for of in result.finalists:
        healed, edit = result.healed_point(of), result.find_edit(of)
        left = [healed.recovered, healed.plain["recovered.hints:8"]]
        name = f"{_describe_edit(result, edit)}{' (chosen)' * (of == result.selected)}"
        costs = [f"{point.cost:.3f}" for point in (result.point(of), healed)]
        rows.append((name, *costs, *(f"{share:.1%}" for share in left)))
    print_table(("edit", "cost", "healed", result.measure, "hints:8"), rows)


def _print_limit(result: SearchResult, limit: Limit) -> None:
    """What the held-back passages, or documents, say of a limit."""
    from evals.table.limits import say_percent

    if limit.what == "task":
        echo(f"On the held-back half of the documents, the {limit.description}.")
    elif limit.subject != result.measure or limit.name.startswith("healed."):
        which = "held-back passages"
        if (limit.n or 0) < result.n_held_back:
            which += " that the attacker did not hold, in one run"
        echo(
            f"{limit.subject} of the {which} (n = {limit.n:,}): {_show(limit)} "
            f"{_show_ends(limit)}, limit {say_percent(limit.limit)}"
        )


def _describe_costs(result: SearchResult, of: str) -> str:
    """Every measure of the cost; the worst of those that count comes first."""
    from evals.measure.edits.costs import MEASURES

    point = result.point(of, "held back")
    worst, _ = point.worst
    costs = {name: point.plain[name] for name in MEASURES if name in point.plain}
    order = sorted(costs, key=lambda name: name != worst)
    return ", ".join(f"{name} {costs[name]:.3f}{' (worst)' * (name == worst)}" for name in order)


def _describe_held_back(result: SearchResult, limits: Sequence[Limit]) -> str:
    """The verdict on the held-back passages, and what to do about it."""
    if result.state == "kept":
        return "On the held-back passages: kept."
    if result.state == "missed":
        return "On the held-back passages: missed. Search with a stricter limit than you need."
    lacks = dict.fromkeys(limit.lacks for limit in limits if limit.lacks)
    why = "; ".join(lacks) or "there are too few passages, or windows of held-out text"
    return f"On the held-back passages: not decided. {why[0].upper()}{why[1:]}."


def _explain_choice(result: SearchResult) -> None:
    """Says why edits that keep the limits, and cost less or leave less, are not the choice."""
    deep, selected = result.deep_blocks, str(result.selected)

    cheaper = deep and result.point(deep).cost < result.point(selected).cost
    if cheaper and result.deep_meets_goal and not result.deep_offered:
        echo(
            "The deep blocks keep the limits and are better, but were not on offer. To let the "
            "search choose them, add --variant identity, with --grain blocks or mixed."
        )
    for key, why in (
        ("doubtful", "they may exceed a limit on other passages"),
        (
            "untried",
            "an attack with a limit was not tried on them: judging by the edits on which it was, "
            "it would recover too much",
        ),
    ):
        if number := result.passed_over[key]:
            edits = "1 edit that costs" if number == 1 else f"{number} edits that cost"
            echo(f"Passed over: {edits} less by what was measured, because {why}.")


def _describe_edit(result: GridResult, edit: GridEdit) -> str:
    from surgery.selection import by_variant, format_selection

    return "; ".join(
        f"{format_selection(some, result.num_heads)} {variant}"
        for variant, some in by_variant(edit.parts).items()
    )


def write_next_commands(result: SearchResult, request: SearchRequest, plan: Path) -> list[str]:
    """The commands that make the chosen cut, and heal it, if the limits are of a healed cut."""
    from surgery.card.command import spell

    given: dict[str, Sequence[object]] = {"--revision": [request.revision], "--plan": [plan]}
    given["--calibration"] = list(request.texts.calibration) if result.calibration else []
    given["--output"] = ["OUT"]
    commands = [["attn-surgery", "export", request.model, *spell(given)]]
    if request.heal:
        healing: dict[str, Sequence[object]] = {
            f"--{name.replace('_', '-')}": [""] if value is True else [value]
            for name, value in request.passages  # healing keeps them from coming back
            if value
        }
        healing |= {"--text": request.heal, "--steps": [request.healing.steps]}
        healing |= {"--adapters": [request.healing.adapters], "--output": ["HEALED"]}
        commands.append(["attn-surgery", "heal", "OUT", *spell(healing, ["--id-column"])])
    return [shlex.join(words) for words in commands]
