"""Intervals and tests agree with textbook formulas and simulations, and are reproducible."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from evals.data.windows import cut_windows
from evals.run import statistics
from evals.table.measured import measure_mean


@given(st.integers(1, 200), st.data())
def test_wilson_solves_its_equation(n, data):
    count = data.draw(st.integers(0, n))
    interval = statistics.wilson(count, n)
    z = 1.959963984540054
    for end in (interval.low, interval.high):
        if 0 < end < 1:  # |p̂ − p| = z √(p (1 − p) / n)
            assert abs(count / n - end) == pytest.approx(
                z * math.sqrt(end * (1 - end) / n), rel=1e-6
            )
    assert interval.low <= count / n <= interval.high


@pytest.mark.parametrize(("count", "n"), [(0, 20), (20, 20)])
def test_wilson_is_open_to_surprise_at_the_ends(count, n):
    interval = statistics.wilson(count, n)
    assert interval.high - interval.low == pytest.approx(1.96**2 / (n + 1.96**2), rel=1e-3)


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second):
    discordant = only_first + only_second
    least = min(only_first, only_second)
    slow = sum(math.comb(discordant, k) for k in range(least + 1)) * 2 / 2**discordant
    assert statistics.mcnemar(only_first, only_second) == pytest.approx(min(1.0, slow))


@given(st.integers(1, 300), st.data())
def test_paired_difference_holds_what_was_seen(n, data):
    only_first = data.draw(st.integers(0, n))
    only_second = data.draw(st.integers(0, n - only_first))
    interval = statistics.paired_difference(only_first, only_second, n)
    assert -1 <= interval.low < interval.high <= 1
    assert interval.low <= (only_second - only_first) / n <= interval.high


def test_paired_difference_covers_the_truth_95_times_in_100():
    n, first, second = 60, 0.25, 0.05  # true discordant shares
    covered = 0.0
    for a in range(n + 1):
        p_a = binom.pmf(a, n, first)
        if p_a < 1e-9:
            continue
        for b in range(n - a + 1):
            interval = statistics.paired_difference(a, b, n)
            if interval.low <= second - first <= interval.high:
                covered += p_a * binom.pmf(b, n - a, second / (1 - first))
    assert 0.93 < covered < 0.98


def test_bootstrap_is_seeded_and_close_to_the_normal_interval():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    once, again = (statistics.bootstrap((values,), np.mean) for _ in range(2))
    assert once == again
    half = 1.96 * values.std() / math.sqrt(400)
    assert once.low == pytest.approx(values.mean() - half, abs=0.02)
    assert once.high == pytest.approx(values.mean() + half, abs=0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 9, 130, 2**14 + 1, 2**15 + 1])
def test_many_means_at_a_time_are_those_one_by_one(n, dtype, monkeypatch):
    """Also where the last ones are fewer, and where one alone is more than fits."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    values = np.random.default_rng(2).normal(size=n).astype(dtype)
    one_by_one = statistics.resample((values,), np.mean)
    assert np.array_equal(statistics.resample_mean(values), one_by_one)


def test_bootstrap_resamples_groups_on_their_own():
    small, large = np.zeros(10), np.full(1_000, 3.0)
    interval = statistics.bootstrap((small, large), lambda a, b: b.mean() - a.mean())
    assert interval == statistics.Interval(3.0, 3.0)


def test_one_draw_is_a_plain_rate():
    hits = np.arange(40)[None] % 4 == 0
    counted = np.arange(40)[None] < 30
    plain = statistics.estimate_count(int((hits & counted).sum()), 30)
    assert statistics.estimate_share(hits, counted) == plain
    pair = statistics.compare_draws(hits, ~hits, counted)
    assert pair == statistics.compare_flags(hits[counted], ~hits[counted])


def test_several_draws_give_their_mean_and_an_interval_of_draws_and_rows():
    hits = np.zeros((5, 50), dtype=bool)
    hits[0, :20] = True  # luck: one draw brings back twenty, the others none
    counted = np.ones_like(hits)
    counted[1, 49] = False
    found = statistics.estimate_share(hits, counted)
    assert (found.n, found.hits, found.value) == (50, 20, pytest.approx(0.08))
    low, high = found.interval
    assert low <= statistics.wilson(4, 50).low
    assert high > statistics.wilson(4, 50).high, "the draws differ by more than chance in rows"
    few = np.zeros((5, 100), dtype=bool)
    few[0, 1] = few[3, 2] = True  # 0.4 of 100 in the mean: as none, it would support a limit
    some = statistics.estimate_share(few, np.ones_like(few))
    assert some.value == pytest.approx(0.004)
    assert some.interval.high >= statistics.wilson(1, 100).high > statistics.wilson(0, 100).high
    none = statistics.estimate_share(np.zeros_like(hits), counted)
    assert (none.hits, none.interval) == (0, statistics.wilson(0, 50))
    nothing = statistics.estimate_share(hits, np.zeros_like(hits))
    assert (nothing.n, nothing.interval) == (0, (0.0, 1.0))


def test_the_difference_of_draws_is_that_of_their_rates():
    rng = np.random.default_rng(1)
    before, after = rng.random((4, 60)) < 0.8, rng.random((4, 60)) < 0.3
    counted = np.ones_like(before)
    found = statistics.compare_draws(before, after, counted)
    rates = [statistics.estimate_share(one, counted).value for one in (before, after)]
    assert found.difference == pytest.approx(rates[1] - rates[0])
    low, high = found.interval
    assert low < found.difference < high
    one = statistics.paired_difference(found.lost, found.gained, 60)
    assert high - low >= one.high - one.low - 0.02


def test_resamples_that_count_nothing_are_left_out():
    """They have no rate. The others make the interval as wide as it must be."""
    counted, hits = np.zeros((2, 2, 12), dtype=bool)
    counted[0, :3] = counted[1, 3:6] = hits[0, :3] = True
    one = statistics.wilson(2, 3)
    assert 0 < one.low < one.high < 1
    assert statistics.estimate_share(hits, counted).interval == (0, 1), (
        "either draw alone is likely"
    )
    pair = statistics.compare_draws(np.zeros_like(hits), hits, counted)
    assert pair.interval.high == 1 > statistics.paired_difference(0, 1.5, 3).high


@given(arrays(np.bool_, (3, 3, 8)).filter(lambda flags: flags[2].any()))
def test_draws_that_count_few_rows_have_intervals(flags):
    before, after, counted = flags
    low, high = statistics.estimate_share(after, counted).interval
    assert 0 <= low <= high <= 1
    pair = statistics.compare_draws(before, after, counted)
    assert -1 <= pair.interval.low <= pair.interval.high <= 1
    assert 0 < pair.p_value <= 1


def test_draws_that_disagree_show_no_difference():
    """20 of 100 rows differ in the mean, but all of that is one draw of five."""
    before = np.ones((5, 100), dtype=bool)
    after, every = before.copy(), before
    after[0] = False
    found = statistics.compare_draws(before, after, every)
    assert (found.lost, found.gained) == (20, 0)
    assert found.interval.low < 0 <= found.interval.high
    assert found.p_value > 0.05 > statistics.mcnemar(20, 0)
    assert statistics.compare_draws(before, ~before, every).p_value < 0.01
    few = np.ones((5, 3), dtype=bool)
    assert statistics.compare_draws(few, ~few, few).p_value == statistics.mcnemar(3, 0) == 0.25


def test_strata_are_counts_or_powers_of_two():
    few = np.asarray([1, 5, 5, 0])
    assert [(label, mask.tolist()) for label, mask in statistics.split_strata(few)] == [
        ("0", [False, False, False, True]),
        ("1", [True, False, False, False]),
        ("5", [False, True, True, False]),
    ]
    many = np.arange(20)
    labels = [label for label, _ in statistics.split_strata(many)]
    assert labels == ["0", "1", "2-3", "4-7", "8-15", "16-31"]
    masks = np.stack([mask for _, mask in statistics.split_strata(many)])
    assert (masks.sum(axis=0) == 1).all()
    assert many[masks[3]].tolist() == [4, 5, 6, 7]


class Letters:
    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) for letter in text]}


def test_control_windows_are_whole_and_spread_over_the_texts():
    texts = ["abcdefgh", "xyz", "12345"]
    windows = cut_windows(texts, Letters(), 3)
    assert ["".join(map(chr, row)) for row in windows] == ["abc", "def", "xyz", "123"]
    assert windows.dtype == np.int32
    some = cut_windows(texts, Letters(), 1, most=3)
    assert ["".join(map(chr, row)) for row in some] == ["a", "x", "5"]


def test_an_interval_of_held_out_text_draws_documents() -> None:
    """Windows of one document are alike: many of a few documents tell little more than one each."""
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(8), 20)
    rises = rng.normal(0, 1, 8)[documents] + rng.normal(0, 0.01, 160)
    base = np.full(160, 3.0)
    told = {"documents": documents, "base": base}
    row = measure_mean("heldout", base + rises, of="edited", on="all", **told)
    assert row.change is not None
    assert row.change.ci95 is not None
    low, high = row.change.ci95
    assert high - low > 0.6  # of windows it would be 0.3
    alone = measure_mean("heldout", base + rises, documents=np.zeros(160, np.int64), base=base)
    assert alone.change is not None, "a single document is drawn by its windows"
