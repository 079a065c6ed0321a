"""The search keeps its contract whatever the measures and the estimates are: it never gives an edit
that misses the goal, never misses one that was measured, measures no edit twice and none beyond its
budget, and gives the same answer every time.

Measures are computed here, from random gains and costs of heads that act together, with passages
that break at a threshold; estimates may have nothing to do with them. The halves share nothing;
what may be proposed is what can be exported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations, islice
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import neo_config, neox_config, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from evals.choose.estimates import Estimates
from evals.choose.grid import (
    EditPoint,
    measure_points,
    pareto_front,
)
from evals.choose.search.algorithm import find
from evals.choose.search.goal import SURE, Goal
from evals.choose.search.opened import open_search
from evals.choose.search.request import SearchRequest
from evals.choose.search.run import count_edits, run_search
from evals.choose.units import keep_possible, list_sets, list_units, merge_units, units_clash
from evals.data import Samples
from evals.data.held_back import split_halves
from evals.measure.memorization.recovery import NAMES, make_recovery
from evals.table.measured import measure_value
from surgery.errors import SamplesError, UnsupportedError
from surgery.exporting import export
from surgery.in_memory import Editable
from surgery.loading import load_model
from surgery.selection import EditedHeads, Selection, heads_of

VARIANTS = ("identity", "zero")
GRAINS = ("blocks", "heads", "mixed")
PASSAGES = 40
few = settings(max_examples=settings.default.max_examples // 4)


def refuser(folder: Path, layout: str) -> Callable[[Selection], UnsupportedError | None]:
    return partial(Editable(load_model(folder)).find_refusal, layout=layout)


def make_point(
    selection: Selection, left: float, kl: float = 0.1, *, right: float = 0.5, loss: float = 3.0,
    **more: float,
) -> EditPoint:  # fmt: skip
    """An edit that leaves a share of the passages to every measure. `more`: other figures."""
    values = {"recited": left, **{f"recovered.{name}": left for name in NAMES}, "kl": kl,
              "next_token_accuracy": right, "heldout": loss, **more}  # fmt: skip
    return EditPoint(selection, tuple(measure_value(*one) for one in values.items()))


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
        self.asked: list[tuple[EditedHeads, ...]] = []

    def __call__(self, selections):
        self.asked += selections
        return [self.point(selection) for selection in selections]

    def point(self, selection) -> EditPoint:
        edited = [(p.block, h, VARIANTS.index(p.variant)) for p in selection for h in p.heads]
        gain = sum((self.gain[index] for index in edited), np.zeros(PASSAGES))
        cost = sum(self.price[index] for index in edited)
        pairs = combinations(sorted({block for block, _, _ in edited}), 2)
        kl = float(cost * (1 + sum(self.together[pair] for pair in pairs)))
        left, right = float((gain < 1).mean()), float(1 / (1 + gain.mean()))
        return make_point(tuple(selection), left, kl, right=right, loss=3 + 0.9 * kl)


def padded(rows) -> np.ndarray:
    return np.stack([*rows, np.zeros_like(rows[0])])


def estimates_of(landscape: Landscape, choice, *, noise: float = 0.0) -> Estimates:
    """First-order estimates of the landscape; with `noise` 1 they are of another one."""
    rng = np.random.default_rng(7)
    shape = landscape.price.shape

    def of(values, unit):
        return sum(values[unit.block, head, VARIANTS.index(unit.variant)] for head in unit.heads)

    price = (1 - noise) * landscape.price + noise * rng.exponential(0.1, shape)
    gain = (1 - noise) * landscape.gain + noise * rng.exponential(0.5, landscape.gain.shape)
    moved = np.stack([np.sqrt(of(gain, unit)) for unit in choice])
    return Estimates(
        units=tuple(choice),
        held=np.ones((len(choice), 1), dtype=bool),
        cost=padded([np.sqrt(of(price, u)) * rng.choice([-1, 1], 64) for u in choice]),
        moved=padded(moved[:, :, None] * rng.choice([-1, 1], (len(choice), PASSAGES, 4))),
        margins=np.full((PASSAGES, 4), 1.0),
        passages=PASSAGES,
        others=PASSAGES,
        measure=make_recovery("greedy"),
    )


@pytest.mark.parametrize(("grain", "expected"), [("heads", 0), ("mixed", 4), ("blocks", 4)])
def test_only_whole_blocks_are_blocks(grain: str, expected: int) -> None:
    """Single heads leave much choice, so that sets of one or two of them may be luck."""
    choice = list_units(2, 3, grain, VARIANTS[:2])
    found = estimates_of(Landscape(0, 2, 3), choice).blocks
    assert len(found) == expected
    assert all(len(choice[at].heads) == 3 for at in found)


@st.composite
def tasks(draw):
    blocks, heads = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    landscape = Landscape(draw(st.integers(0, 2**32 - 1)), blocks, heads)
    variants = draw(st.sampled_from([VARIANTS[:1], VARIANTS]))
    choice = list_units(blocks, heads, draw(st.sampled_from(GRAINS)), variants)
    limit = draw(st.floats(0, 1))
    goal = Goal(limit)
    budget = draw(st.integers(1, 60))
    exhaustive = len(list(islice(list_sets(choice), budget + 1))) <= budget
    estimates = None if exhaustive else estimates_of(landscape, choice, noise=1.0)
    return landscape, choice, goal, budget, estimates


def beats(one: EditPoint, other: EditPoint) -> bool:
    """Pareto dominance: no worse in both, better in one."""
    better_or_equal = one.recovered <= other.recovered and one.cost <= other.cost
    return better_or_equal and (one.recovered, one.cost) != (other.recovered, other.cost)


@given(tasks())
@few
def test_a_search_keeps_its_word(task):
    landscape, choice, goal, budget, estimates = task
    found = find(landscape, choice, goal, estimates, max_evaluations=budget)
    edits = [selection for selection in landscape.asked if selection]
    points = list(found.measured.values())
    assert len(edits) == len(set(edits)) == len(points) <= budget
    assert landscape.asked.count(()) == 1
    for selection in edits:
        heads = [len(some) for some in heads_of(selection).values()]
        assert sum(heads) == sum(len(part.heads) for part in selection), "a head is edited twice"
    for chosen, point in found.measured.items():
        assert merge_units(choice[unit] for unit in chosen) == point.selection

    met = [point for point in points if goal.met(point)]
    best = [found.measured[chosen] for chosen in found.met]
    assert len(best) == len(met)
    assert {point.selection for point in best} == {point.selection for point in met}
    widest = max(len(unit.heads) for unit in choice)
    expected, highest = {point.selection: 0.0 for point in met}, 1.0
    if found.estimates is not None:
        expected = {
            p.selection: float(found.estimates.predict(chosen).rate[0])
            for chosen, p in found.measured.items()
            if len(chosen) > 2 or {len(choice[unit].heads) for unit in chosen} != {widest}
        }
        highest = goal.kept_at(PASSAGES, SURE)
    sure = [point for point in met if expected.get(point.selection, 0) <= highest]
    assert next(iter(best), None) == min(sure or met, key=goal.order, default=None)

    front = pareto_front(points)
    costs = [point.cost for point in front]
    assert costs == sorted(costs)
    unbeaten = {(p.recovered, p.cost) for p in points if not any(beats(q, p) for q in points)}
    assert {(p.recovered, p.cost) for p in front} == unbeaten


@given(st.floats(0, 1), st.integers(1, 5000), st.floats(0.5, 0.99))
def test_other_passages_keep_a_limit_as_often_as_was_asked(limit, passages, confidence):
    rate = Goal(limit).kept_at(passages, confidence)
    assert 0 <= rate <= 1
    if limit * passages < 1 and limit > 1e-6:  # it allows one of more passages
        assert rate >= Goal(0).kept_at(passages, confidence)
        passages = max(passages, ceil(1 / limit))
        confidence = min(confidence, binom.cdf(1, passages, rate))
    most = int(limit * passages + 1e-9)
    kept = binom.cdf(most, passages, rate)
    assert kept == pytest.approx(confidence) if most < passages else kept == 1


@given(tasks())
@few
def test_the_same_measures_give_the_same_answer_and_more_budget_only_adds(task):
    landscape, choice, goal, budget, estimates = task
    once, again, more = (
        find(landscape, choice, goal, estimates, max_evaluations=most)
        for most in (budget, budget, 2 * budget)
    )
    assert (once.met, once.measured) == (again.met, again.measured)
    assert once.measured.items() <= more.measured.items()


@given(tasks(), st.integers(0, 2**32 - 1))
@few
def test_only_what_holds_is_measured(task, seed):
    landscape, choice, goal, budget, estimates = task
    offered = np.random.default_rng(seed).permutation(len(choice))[: max(1, len(choice) // 2)]
    kept = {choice[index] for index in offered}

    def holds(selection):
        return len(selection) < 3 and all(
            any(set(part.heads) <= set(unit.heads) for unit in kept if unit.block == part.block)
            for part in selection
        )

    find(landscape, choice, goal, estimates, holds=holds, max_evaluations=budget)
    assert all(holds(selection) for selection in landscape.asked if selection)


@given(st.lists(st.integers(0, 300)), st.integers(1, 90))
def test_progress_counts_whole_edits(batches, rows):
    told: list[int] = []
    count = count_edits(told.append, rows)
    for place, batch in enumerate(batches, 1):
        count(batch)
        assert sum(told) == sum(batches[:place]) // rows


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["greedy", "any"])
def test_a_search_does_not_lose_to_a_plain_scan(measure):
    """On a trained model: all whole blocks alone, and as many pairs as the same budget pays for."""
    request = SearchRequest.of(
        model="lab:pythia", samples="lab:pythia", max_extraction=0.01, measure=measure,
        variant=VARIANTS, device="cpu",
    )  # fmt: skip
    opened = open_search(request)
    members = np.flatnonzero(opened.samples.trained_on)
    rows = np.sort(np.random.default_rng(1).permutation(members)[:120])
    opened = replace(opened, samples=opened.samples.select(rows), windows=opened.windows[:96])
    told: list[int] = []
    outcome = run_search(opened, advance=told.append)
    assert len(outcome.points) - 1 <= sum(told) <= 2 * opened.request.choice.max_evaluations
    blocks = list_units(
        opened.loaded.dimensions.num_blocks, opened.loaded.dimensions.num_heads, "blocks", VARIANTS
    )
    pairs = [(a, b) for a, b in combinations(blocks, 2) if not units_clash(a, b)]
    selections = [*((unit,) for unit in blocks), *pairs][: request.choice.max_evaluations]
    engine, _ = opened.engines()
    points = measure_points(engine, selections, "chosen on", [measure])
    met = [point for point in points if opened.request.goal.met(point)]
    assert met
    assert outcome.selected is not None
    assert outcome.selected[0].cost <= min(point.cost for point in met)


def test_units_that_make_a_whole_block_are_one_part():
    heads = list_units(2, 3, "heads", ["zero"])
    assert heads[0] == EditedHeads(0, (0,), "zero")
    assert merge_units(heads[:3]) == list_units(2, 3, "blocks", ["zero"])[:1]
    assert merge_units([heads[4], EditedHeads(1, (0,), "mean"), heads[5]]) == (
        EditedHeads(1, (0,), "mean"),
        EditedHeads(1, (1, 2), "zero"),
    )


def test_equal_points_stand_on_the_front_once():
    points = [make_point((EditedHeads(block, (0,), "zero"),), 0.5) for block in (1, 0)]
    assert pareto_front(points) == points[1:]


class TestWhatMayBeProposed:
    def test_one_layout_holds_all_parts(self, tmp_path):
        write_checkpoint(tmp_path, neo_config())
        compact, stock = EditedHeads(0, (0, 1), "identity"), EditedHeads(1, (0,), "zero")
        refusal = refuser(tmp_path, "auto")
        assert refusal((compact,)) is None
        assert refusal((stock,)) is None
        assert refusal((compact, stock)) is not None
        assert refuser(tmp_path, "stock")((compact,)) is not None

    def test_what_an_earlier_edit_changed_is_left_alone(self, tmp_path):
        write_checkpoint(tmp_path / "base", neox_config())
        export(tmp_path / "base", "1", output=tmp_path / "edited", variant="zero")
        refusal = refuser(tmp_path / "edited", "auto")
        kept, _ = keep_possible(list_units(4, 2, "blocks", ["zero"]), 2, refusal)
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
        one, other = split_halves(samples, text, seed)
        assert sorted(one.samples.ids + other.samples.ids) == sorted(
            name for name, member in zip(samples.ids, members, strict=True) if member
        )
        assert sorted([*one.windows.tolist(), *other.windows.tolist()]) == text.tolist()
        for count in range(1, 4):
            numbers = [int((half.samples.counts == count).sum()) for half in (one, other)]
            assert abs(numbers[0] - numbers[1]) <= 1
        again = split_halves(samples, text, seed)
        assert [half.samples.ids for half in again] == [one.samples.ids, other.samples.ids]

    @given(st.integers(8, 200), st.sampled_from([0.1, 0.25, 0.5, 0.75]), st.integers(0, 99))
    def test_any_share_may_choose(self, rows, share, seed):
        counts = np.random.default_rng(seed).integers(1, 3, rows)
        text = np.arange(12, dtype=np.int32).reshape(4, 3)
        one, other = split_halves(made_samples(rows, counts=counts), text, seed, share)
        assert len(one.samples) == np.ceil(np.round(share * rows, 9))
        assert len(one.windows) == 2, "of held-out text, half"
        assert {*one.samples.ids} | {*other.samples.ids} == {f"row-{row}" for row in range(rows)}
        for count in (1, 2):
            number = int((one.samples.counts == count).sum())
            assert abs(number - share * (counts == count).sum()) <= 1

    @given(st.integers(2, 6), st.sampled_from([0.25, 0.5]), st.integers(0, 99))
    def test_passages_that_overlap_stay_together(self, texts, share, seed):
        """`collect` cuts windows that overlap: one that chose an edit tells of the next."""
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 4, texts)
        sizes[0] = 1
        rows = [
            text[at : at + 32]
            for text, size in zip(rng.integers(0, 9999, (texts, 80)), sizes, strict=True)
            for at in range(0, 16 * size, 16)
        ]
        rows += list(rng.integers(0, 9999, (20, 32)))
        names = tuple(f"{text}-{n}" for text, size in enumerate(sizes) for n in range(size))
        names += tuple(f"alone {n}" for n in range(20))
        order = rng.permutation(len(rows))
        samples = Samples(
            np.array(rows, dtype=np.int32)[order], 16, tuple(names[at] for at in order), "made"
        )
        text = np.arange(12, dtype=np.int32).reshape(4, 3)
        halves = split_halves(samples, text, seed, share)
        one, other = ({name[:2] for name in half.samples.ids if "-" in name} for half in halves)
        assert not one & other
        assert abs(len(halves[0].samples) - share * len(samples)) <= 2

    def test_one_text_that_fills_all_passages_cannot_be_split(self):
        text = np.random.default_rng(0).integers(0, 9999, 200)
        rows = np.stack([text[at : at + 32] for at in range(0, 160, 16)]).astype(np.int32)
        samples = Samples(rows, 16, tuple(map(str, range(len(rows)))), "made")
        windows = np.arange(12, dtype=np.int32).reshape(4, 3)
        expected = (
            r"made: a share of 0.5 leaves no passage to choose on \(got 10 passages, which "
            r"overlap, so that they count as 1\); give another `choose`, or more passages that "
            r"do not overlap"
        )
        with pytest.raises(SamplesError, match=expected):
            split_halves(samples, windows, 0)

    def test_another_seed_gives_others(self):
        text = np.arange(80, dtype=np.int32).reshape(40, 2)
        first, second = (split_halves(made_samples(40), text, seed)[0] for seed in (0, 1))
        assert first.samples.ids != second.samples.ids
        assert first.windows.tolist() != second.windows.tolist()

    def test_too_few(self):
        text = np.zeros((2, 3), dtype=np.int32)
        with pytest.raises(SamplesError, match=r"made: too few samples .*expected at least 2"):
            split_halves(made_samples(1), text, 0)
        members = np.array([True, False, False])
        with pytest.raises(SamplesError, match="made: too few members to choose on some"):
            split_halves(made_samples(3, members=members), text, 0)
        with pytest.raises(SamplesError, match="too few windows of held-out text"):
            split_halves(made_samples(3), text[:1], 0)
