"""Searches a loaded model: chooses on one half of the text, measures on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from evals.choose.estimates import Indices, estimate_units
from evals.choose.grid import EditPoint, measure_points
from evals.choose.search.algorithm import Found, find
from evals.choose.search.enforcing import enforce_limits
from evals.choose.search.goal import Order
from evals.choose.search.opened import OpenedSearch
from evals.choose.search.trials import HALVES, Trials, Twice
from evals.measure.attacks.attack import AttackOutcome
from evals.measure.attacks.result import find_weakness
from evals.measure.edits.engine import BASE, Engine
from evals.run.console import say
from surgery.errors import MeasurementError, SamplesError, UnsupportedError
from surgery.selection import Selection, parse_selection
from surgery.variants import variant_of

FINALISTS = 3
"""Edits that are healed before one of them is chosen, beside the deep blocks."""
_AT_ONCE = 16
"""Edits to measure together, and then to record."""
Advance = Callable[[int], None]


@dataclass(frozen=True)
class SearchOutcome:
    """The result of a search.

    - `deep_blocks`: the edit to compare with. `selected`: None if nothing meets the goal.
    - `healed`: the best edits as they are once healed, of which the selected one is the first.
    - `points`: of every measured edit. Those that were tried have the fits of an export, each block
      after the edits below it; without `exhaustive`, the others have those of the unedited model.
    - `doubts`: attack → why it shows too little on the base for a limit on it to be kept.
    """

    found: Found
    base: Twice
    deep_blocks: Twice | None
    selected: Twice | None
    healed: Mapping[Selection, Twice]
    points: Mapping[Selection, EditPoint]
    doubts: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Selection:
        """The selected edit; if there is none, the one that leaves least, of those attacked."""
        if self.selected:
            return self.selected[0].selection
        return min(self.points.values(), key=self._rank).selection

    def _rank(self, point: EditPoint) -> tuple[float, ...]:
        left = [*point.attacked.values()][-1:]
        return -len(point.attacked), *left, point.recovered, point.cost


def run_search(
    opened: OpenedSearch,
    *,
    advance: Advance,
    looked: Advance = lambda done: None,
) -> SearchOutcome:
    """Searches. `advance` gets the number of edits just measured, `looked` of rows for estimates.

    Raises `MeasurementError` if the unedited model leaves nothing to search for, or nothing to
    search by.
    """
    trials = Trials(opened, opened.engines(opened.fitter.fit if opened.fitter else None))
    base = trials.measure_twice(BASE)
    _check_base(opened, base[0])
    deep, compared = _deep_blocks(opened, trials)
    found = _find(opened, trials.engines[0], base[0], advance, looked)
    tried: dict[Selection, EditPoint] = {}  # with the fits of an export

    def try_out(chosen: Indices) -> EditPoint:
        """Measures a set with the fits of an export, and attacks it if it meets the goal."""
        before = found.measured[chosen]
        if opened.fitter is not None:  # every process must take part
            opened.fitter.fit(before.selection)
        point = trials.measure(before.selection)
        if opened.keeps(point):
            point = trials.attack(_keep_tried(point, before))
            found.measured[chosen] = _keep_tried(before, point)
        tried[point.selection] = point
        return point

    def keeps(chosen: Indices) -> bool:
        return opened.keeps(try_out(chosen))

    found.compare_with(compared)
    if opened.others:
        drops = {f"task.{task}": drop for task, drop in opened.drop_limits.items()}
        most = opened.request.choice.max_evaluations
        best = enforce_limits(found, keeps, opened.attack_limits, most, drops)
    else:
        best = next((chosen for chosen in found.met if keeps(chosen)), None)
    selected, healed = None, dict[Selection, Twice]()
    if best is not None:
        finalists = _list_finalists(opened, found, best, keeps)
        healed = _heal(trials, finalists, [] if deep is None else [deep[0].selection])
        chosen = next((one for one in healed if one in finalists), finalists[0])
        selected = trials.measure_twice(chosen)
    points = {point.selection: point for point in found.measured.values()} | tried
    return SearchOutcome(found, base, deep, selected, healed, points, _find_doubts(trials.outcomes))


def _list_finalists(
    opened: OpenedSearch, found: Found, best: Indices, keeps: Callable[[Indices], bool]
) -> list[Selection]:
    """The best edits that keep every limit, `best` first: a few, and the deep blocks if they do.

    No attack runs for that. An edit that may miss the goal on other passages is none of them, if
    the best is sure to keep it.
    """
    doubtful, late = found.is_doubtful(best), set(opened.late)
    ready = [one for one in found.met if one != best and late <= found.measured[one].late]
    alike = [one for one in ready if found.is_doubtful(one) == doubtful]
    more = islice(filter(keeps, alike), FINALISTS - 1)
    deep = (one for one in alike if one in found.deep and keeps(one))
    every = dict.fromkeys([best, *more, *deep])
    return [found.measured[one].selection for one in every]


def _heal(
    trials: Trials, finalists: Sequence[Selection], others: Sequence[Selection]
) -> dict[Selection, Twice]:
    """Heals finalists, and others to compare with. The best comes first: one that still meets the
    goal, and costs least. Empty where nothing can be healed, or is to be."""
    opened = trials.opened
    if not (opened.request.choice.judge_steps or opened.healing):
        return {}
    goal, every = opened.request.goal, dict.fromkeys([*finalists, *others])
    try:
        healed = {one: trials.heal(one) for one in every}
    except (SamplesError, UnsupportedError) as error:
        say(f"the best edits are compared without healing them: {error}")
        return {}

    def rank(selection: Selection) -> tuple[bool, bool, Order]:
        point = healed[selection][0]
        return selection not in finalists, not goal.met(point), goal.order(point)

    return {one: healed[one] for one in sorted(healed, key=rank)}


def _find_doubts(outcomes: Mapping[tuple[Selection, str, int], AttackOutcome]) -> dict[str, str]:
    """Attack → why it shows too little on the base, by the half that chooses. All else meets the
    same trainings."""
    of_base = {
        name: one for (edit, name, half), one in outcomes.items() if (edit, half) == (BASE, 0)
    }
    doubts = {name: find_weakness(name, one) for name, one in of_base.items() if one.settings}
    return {name: doubt for name, doubt in doubts.items() if doubt is not None}


def _keep_tried(point: EditPoint, tried: EditPoint) -> EditPoint:
    """A point with what was tried on the same edit, with the fits of an export."""
    return replace(point, tried=tried.tried)


def _check_base(opened: OpenedSearch, base: EditPoint) -> None:
    """Raises `MeasurementError` if the unedited model leaves nothing to search for or by."""
    over = [f"{a} {rate:.1%}" for a, rate in base.known.items() if rate > opened.others.get(a, 1)]
    if base.recovered == 0 and over:
        raise MeasurementError(
            f"nothing to search by: {opened.measure.name} recovers no passage from the base",
            where=opened.samples.source,
            got=", ".join(over),
            fix="choose a wider `measure`, such as hints:8, and limit it with `max`",
        )
    if base.recovered == 0 or opened.keeps(base):
        raise MeasurementError(
            "nothing to search for: the unedited model meets the goal",
            where=opened.samples.source,
            got=f"{base.recovered:.1%} of the passages recovered ({opened.measure.name})",
        )


def _find(
    opened: OpenedSearch,
    engine: Engine,
    base: EditPoint,
    advance: Advance,
    looked: Advance,
) -> Found:
    """Searches with estimates and fits of the unedited model, unless it can measure all sets."""
    estimates, known = None, {BASE: base}
    if not opened.exhaustive:
        blocks = range(opened.loaded.dimensions.num_blocks)
        fits = opened.fitter.fit_alone(blocks, opened.variants) if opened.fitter else {}
        recovered = opened.measure.recovered(engine.base.evidence)
        estimates = estimate_units(
            opened.loaded.editable,
            opened.halves[0],
            recovered,
            opened.offered,
            opened.measure,
            fits,
            advance=looked,
        )
        # Fits of the unedited model, whatever is edited below a block.
        engine, _ = opened.engines(lambda selection: fits, "unedited")

    def refits(selection: Selection) -> bool:
        """Whether the fits are those of an export: always so where one block is edited."""
        fitted = any(variant_of(part.variant).fitted for part in selection)
        return opened.exhaustive or not fitted or len({part.block for part in selection}) == 1

    def evaluate(selections: Sequence[Selection]) -> list[EditPoint]:
        missing = [one for one in selections if one not in known]
        count = count_edits(advance, engine.rows)
        for begin in range(0, len(missing), _AT_ONCE):
            some = missing[begin : begin + _AT_ONCE]
            for point in measure_points(engine, some, HALVES[0], opened.names, advance=count):
                known[point.selection] = replace(point, refitted=refits(point.selection))
        return [known[selection] for selection in selections]

    most, find_refusal = opened.request.choice.max_evaluations, opened.loaded.editable.find_refusal
    for share in (1,) if opened.exhaustive or not opened.others else (4, 2, 1):
        found = find(
            evaluate,
            opened.offered,
            opened.request.goal,
            estimates,
            holds=lambda some: find_refusal(some, layout=opened.request.choice.layout) is None,
            max_evaluations=-(-most // share),
        )
        if found.met:  # the rest of the budget is for deeper cuts
            break
    return found


def count_edits(advance: Advance, rows: int) -> Advance:
    """Takes numbers of rows, of which every edit has so many, and tells `advance` of edits."""
    total = 0

    def count(done: int) -> None:
        nonlocal total
        before, total = total, total + done
        advance(total // rows - before // rows)

    return count


def _deep_blocks(
    opened: OpenedSearch, trials: Trials
) -> tuple[Twice | None, dict[Indices, EditPoint]]:
    """Measures `identity` on the fewest deepest blocks that keep all limits, and on a quarter (as
    Menta, Agrawal and Agarwal 2025, section 4), which takes their place if none do.

    None if the layout cannot hold it. Also returns what was measured for it, where that is an edit
    that the search may choose.
    """
    compared: dict[Indices, EditPoint] = {}
    goal = opened.request.goal
    blocks, heads = opened.loaded.dimensions.num_blocks, opened.loaded.dimensions.num_heads
    edits = [parse_selection(f"last:{n + 1}", "identity", blocks, heads) for n in range(blocks)]
    best, least, shallow = edits[-(-blocks // 4) - 1], None, False
    quarter = best
    try:
        for edit in edits:
            if shallow and edit != quarter:
                continue  # deeper ones cost more
            point = trials.measure(edit)
            point = trials.attack(point) if goal.met(point) else point
            met = opened.keeps(point)
            if (units := opened.find_units(edit)) is not None:
                compared[units] = point
            if met and (least is None or goal.order(point) < least):
                best, least = edit, goal.order(point)
            shallow = shallow or (goal.met(point) and not point.excess(opened.attack_limits))
        return trials.measure_twice(best), compared
    except UnsupportedError:
        return None, compared
