"""The search keeps its contract whatever the measures are: it never gives an edit that misses the
goal, never misses one that was measured, measures no edit twice and none beyond its budget, and
gives the same answer every time.

Measures are computed here, from random gains and costs of heads that act together, with passages
that break at a threshold. The halves share nothing; what may be proposed is what can be exported.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from checkpoints import neo_config, neox_config, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.samples import Samples
from evals.search.algorithm import search
from evals.search.front import Point, pareto_front
from evals.search.goals import MaxExtraction, MaxLossIncrease
from evals.search.held_back import halves
from evals.search.units import (
    every_set,
    last_quarter,
    merged,
    number_of_sets,
    possible,
    refuser,
    units,
)
from surgery.errors import SamplesError, UnsupportedError
from surgery.exporting import export
from surgery.hub.finding import find_model
from surgery.selection import Part, heads_of

VARIANTS = ("identity", "zero")
PASSAGES = 40


class Landscape:
    """Points of edits of a model that does not exist; what was asked for is on record.

    Every head breaks passages a little and costs a little, more so together; a passage is recited
    until what broke it adds up to 1.
    """

    def __init__(self, seed: int, blocks: int, heads: int) -> None:
        rng = np.random.default_rng(seed)
        shape = (blocks, heads, len(VARIANTS))
        self.gain = rng.exponential(1.0, (*shape, PASSAGES)) * rng.uniform(0, 1, (*shape, 1))
        self.price = rng.exponential(0.1, shape)
        self.together = rng.uniform(0, 0.3, (blocks, blocks))
        self.asked: list[tuple[Part, ...]] = []

    def __call__(self, selections):
        self.asked += selections
        return [self.point(selection) for selection in selections]

    def point(self, selection) -> Point:
        edited = [(p.block, h, VARIANTS.index(p.variant)) for p in selection for h in p.heads]
        gain = sum((self.gain[index] for index in edited), np.zeros(PASSAGES))
        cost = sum(self.price[index] for index in edited)
        pairs = combinations(sorted({block for block, _, _ in edited}), 2)
        kl = float(cost * (1 + sum(self.together[pair] for pair in pairs)))
        exact = gain < 1
        return Point(
            selection=tuple(selection),
            exact_match=float(exact.mean()),
            memorization_score=float(1 / (1 + gain.mean())),
            recall=float(np.exp(-gain).mean()),
            heldout_loss=3 + 0.9 * kl,
            heldout_kl=kl,
        )


@st.composite
def tasks(draw):
    blocks, heads = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    landscape = Landscape(draw(st.integers(0, 2**32 - 1)), blocks, heads)
    variants = draw(st.sampled_from([VARIANTS[:1], VARIANTS]))
    choice = units(blocks, heads, draw(st.sampled_from(["blocks", "heads"])), variants)
    limit = draw(st.floats(0, 1))
    goal = draw(st.sampled_from([MaxExtraction(limit), MaxLossIncrease(limit)]))
    return landscape, choice, goal, draw(st.integers(1, 60))


def beats(one: Point, other: Point, goal) -> bool:
    """Pareto dominance: no worse in both, better in one."""
    better_or_equal = one.exact_match <= other.exact_match and goal.cost(one) <= goal.cost(other)
    return better_or_equal and (one.exact_match, goal.cost(one)) != (
        other.exact_match,
        goal.cost(other),
    )


@given(tasks())
@settings(deadline=None)
def test_the_answer_is_the_best_measured_edit_that_meets_the_goal(task):
    landscape, choice, goal, budget = task
    found = search(landscape, choice, goal, max_evaluations=budget)
    met = [point for point in found.points if goal.met(point, found.base)]
    if not met:
        assert found.best is None
    elif isinstance(goal, MaxExtraction):
        assert found.best.exact_match <= goal.limit
        assert found.best.heldout_kl == min(point.heldout_kl for point in met)
    else:
        assert found.best.heldout_loss - found.base.heldout_loss <= goal.limit
        assert found.best.exact_match == min(point.exact_match for point in met)
        assert found.best.exact_match < found.base.exact_match


@given(tasks())
@settings(deadline=None)
def test_the_budget_holds_and_nothing_is_measured_twice(task):
    landscape, choice, goal, budget = task
    found = search(landscape, choice, goal, max_evaluations=budget)
    edits = [selection for selection in landscape.asked if selection]
    assert len(edits) == len(set(edits)) == len(found.points) <= budget
    assert landscape.asked.count(()) == 1
    for selection in edits:
        heads_of(selection)  # raises where a head is edited twice
        assert set(merged_units(selection, choice)) <= set(choice)


def merged_units(selection, choice):
    """The units that a selection is made of."""
    if len(choice[0].heads) == len({head for part in choice for head in part.heads}):
        return selection
    return [Part(part.block, (head,), part.variant) for part in selection for head in part.heads]


@given(tasks())
@settings(deadline=None)
def test_the_front_is_what_nothing_beats(task):
    landscape, choice, goal, budget = task
    found = search(landscape, choice, goal, max_evaluations=budget)
    costs = [goal.cost(point) for point in found.front]
    assert costs == sorted(costs)
    assert not [p for p in found.front for q in found.points if beats(q, p, goal)]
    unbeaten = {
        (p.exact_match, goal.cost(p))
        for p in found.points
        if not any(beats(q, p, goal) for q in found.points)
    }
    assert {(p.exact_match, goal.cost(p)) for p in found.front} == unbeaten
    if found.best is not None:
        assert (found.best.exact_match, goal.cost(found.best)) in unbeaten


@given(tasks())
@settings(deadline=None)
def test_the_same_measures_give_the_same_answer(task):
    landscape, choice, goal, budget = task
    once = search(landscape, choice, goal, max_evaluations=budget)
    asked, landscape.asked = landscape.asked, []
    again = search(landscape, choice, goal, max_evaluations=budget)
    assert once == again
    assert asked == landscape.asked


@given(tasks(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_only_what_holds_is_measured(task, seed):
    landscape, choice, goal, budget = task
    offered = np.random.default_rng(seed).permutation(len(choice))[: max(1, len(choice) // 2)]
    kept = {choice[index] for index in offered}

    def holds(selection):
        return all(unit in kept for unit in merged_units(selection, choice)) and len(selection) < 3

    search(landscape, choice, goal, holds=holds, max_evaluations=budget)
    assert all(holds(selection) for selection in landscape.asked if selection)


@given(tasks())
@settings(deadline=None)
def test_backward_elimination_leaves_no_unit_to_spare(task):
    """As long as the budget reaches, every set with one unit less than the best was measured."""
    landscape, choice, goal, budget = task
    found = search(landscape, choice, goal, max_evaluations=4 * budget)
    if found.best is None or len(found.points) == 4 * budget:
        return
    best = merged_units(found.best.selection, choice)
    measured = {point.selection for point in found.points}
    for unit in best if len(best) > 1 else []:
        assert merged(part for part in best if part != unit) in measured


@given(tasks())
@settings(deadline=None)
def test_where_all_sets_fit_into_the_budget_the_answer_is_the_optimum(task):
    landscape, choice, goal, _ = task
    if number_of_sets(choice) > 300:
        return
    found = search(landscape, choice, goal, max_evaluations=number_of_sets(choice))
    assert found.exhaustive
    points = [landscape.point(merged(chosen)) for chosen in every_set(choice)]
    met = [point for point in points if goal.met(point, found.base)]
    assert found.best == (min(met, key=goal.order) if met else None)


def test_a_search_comes_near_the_optimum_with_a_fraction_of_the_measurements():
    """511 sets of 9 heads; 45 measurements are 9 % of them."""
    excess = []
    for seed in range(20):
        landscape, choice = Landscape(seed, 3, 3), units(3, 3, "heads", VARIANTS[:1])
        goal = MaxExtraction(0.1)
        found = search(landscape, choice, goal, max_evaluations=45)
        every = (landscape.point(merged(chosen)) for chosen in every_set(choice))
        optimum = min(p.heldout_kl for p in every if goal.met(p, found.base))
        excess.append(found.best.heldout_kl / optimum - 1)
    assert np.mean(excess) < 0.05
    assert max(excess) < 0.5


def test_units_that_make_a_whole_block_are_one_part():
    heads = units(2, 3, "heads", ["zero"])
    assert heads[0] == Part(0, (0,), "zero")
    assert merged(heads[:3]) == units(2, 3, "blocks", ["zero"])[:1]
    assert merged([heads[4], Part(1, (0,), "mean"), heads[5]]) == (
        Part(1, (0,), "mean"),
        Part(1, (1, 2), "zero"),
    )


@pytest.mark.parametrize(
    ("blocks", "expected"), [(24, range(18, 24)), (12, range(9, 12)), (6, (4, 5)), (1, (0,))]
)
def test_the_papers_recipe_is_identity_on_the_last_quarter(blocks, expected):
    assert last_quarter(blocks, 2) == tuple(Part(b, (0, 1), "identity") for b in expected)


def test_equal_points_stand_on_the_front_once():
    points = [Point((Part(block, (0,), "zero"),), 0.5, 0.5, 0.5, 3.0, 0.1) for block in (1, 0)]
    assert pareto_front(points, lambda point: point.heldout_kl) == points[1:]


class TestWhatMayBeProposed:
    def test_gpt_neo_holds_no_affine_map_of_a_single_head(self, tmp_path):
        write_checkpoint(tmp_path, neo_config())
        every = units(4, 2, "heads", ["identity", "zero", "mean"])
        kept, refused = possible(every, refuser(find_model(tmp_path), "auto"))
        assert {part.variant for part in kept} == {"zero", "mean"}
        assert list(refused) == ["identity"]
        with pytest.raises(UnsupportedError, match="no layout holds this edit"):
            possible(units(4, 2, "heads", ["identity"]), refuser(find_model(tmp_path), "auto"))

    def test_one_layout_holds_all_parts(self, tmp_path):
        write_checkpoint(tmp_path, neo_config())
        compact, stock = Part(0, (0, 1), "identity"), Part(1, (0,), "zero")
        refusal = refuser(find_model(tmp_path), "auto")
        assert refusal((compact,)) is None
        assert refusal((stock,)) is None
        assert refusal((compact, stock)) is not None
        assert refuser(find_model(tmp_path), "stock")((compact,)) is not None

    def test_what_an_earlier_edit_changed_is_left_alone(self, tmp_path):
        write_checkpoint(tmp_path / "base", neox_config())
        export(tmp_path / "base", "1", output=tmp_path / "edited", variant="zero")
        refusal = refuser(find_model(tmp_path / "edited"), "auto")
        kept, _ = possible(units(4, 2, "blocks", ["zero"]), refusal)
        assert [part.block for part in kept] == [0, 2, 3]


def made_samples(rows: int, **columns) -> Samples:
    tokens = np.arange(rows * 4, dtype=np.int32).reshape(rows, 4)
    return Samples(tokens, 2, tuple(f"row-{row}" for row in range(rows)), source="made", **columns)


class TestHalves:
    @given(st.integers(4, 60), st.integers(2, 40), st.integers(0, 2**32 - 1))
    def test_they_share_nothing_and_leave_out_nothing(self, rows, windows, seed):
        rng = np.random.default_rng(seed)
        members, counts = rng.random(rows) < 0.7, rng.integers(1, 4, rows)
        members[:2] = True
        samples = made_samples(rows, members=members, counts=counts)
        text = np.arange(windows * 3, dtype=np.int32).reshape(windows, 3)
        one, other = halves(samples, text, seed)
        assert sorted(one.samples.ids + other.samples.ids) == sorted(
            name for name, member in zip(samples.ids, members, strict=True) if member
        )
        assert sorted([*one.windows.tolist(), *other.windows.tolist()]) == text.tolist()
        for count in range(1, 4):
            numbers = [int((half.samples.counts == count).sum()) for half in (one, other)]
            assert abs(numbers[0] - numbers[1]) <= 1
        again = halves(samples, text, seed)
        assert [half.samples.ids for half in again] == [one.samples.ids, other.samples.ids]

    def test_another_seed_gives_others(self):
        text = np.arange(80, dtype=np.int32).reshape(40, 2)
        first, second = (halves(made_samples(40), text, seed)[0] for seed in (0, 1))
        assert first.samples.ids != second.samples.ids
        assert first.windows.tolist() != second.windows.tolist()

    def test_too_few(self):
        text = np.zeros((2, 3), dtype=np.int32)
        with pytest.raises(SamplesError, match=r"made: too few samples .*expected at least 2"):
            halves(made_samples(1), text, 0)
        members = np.array([True, False, False])
        with pytest.raises(SamplesError, match="made: too few members to choose on one half"):
            halves(made_samples(3, members=members), text, 0)
        with pytest.raises(SamplesError, match="too few windows of held-out text"):
            halves(made_samples(3), text[:1], 0)
