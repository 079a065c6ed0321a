"""Contract: a paired comparison agrees with theory and simulation, and noise gets no verdict.

Neither does too little: no loss is said to be shown only where one that matters would have been.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evals.measure import differences
from evals.measure.differences import describe_outcome, draw_conclusion, wilcoxon
from evals.run.lm_eval.scores import Scores
from evals.run.statistics import Interval, mcnemar, paired_difference
from evals.table.limits import ask_tasks, decide
from surgery.errors import MeasurementError
from surgery.record.measured import Change, Measured


def mean(values: list[Any]) -> float:
    return float(np.mean(values))


def perplexity(values: list[Any]) -> float:
    return float(np.exp(-np.mean(values)))


def weighted(values: list[Any]) -> float:
    total, weight = np.sum(values, axis=0)
    return float(np.exp(-total / weight))


def bits_per_byte(values: list[Any]) -> float:
    total, weight = np.sum(values, axis=0)
    return float(-total / weight / np.log(2))


def best(values: list[Any]) -> float:
    return float(max(len(value) for value in values))


def scores(values: Any, aggregation: str = "mean", form: Any = mean, better: bool = True) -> Scores:
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    documents = [str(index) for index in range(len(listed))]
    return Scores(listed, documents, aggregation, form, form(listed), better)


def compare_scores(base: Scores, edited: Scores, limit: float | None = None) -> Measured:
    """The figure of the edited model, with the change."""
    before, found = differences.compare_scores("task.t", base, edited, limit)
    assert (before.value, before.n, before.of) == (base.value, len(base.values), "base")
    return found


def moved(found: Measured) -> Change:
    assert found.change is not None
    return found.change


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_accuracy_is_compared_document_by_document(pairs):
    before, after = (np.asarray(column, dtype=float) for column in zip(*pairs, strict=True))
    found = compare_scores(scores(before), scores(after))
    lost = sum(a and not b for a, b in pairs)
    won = sum(b and not a for a, b in pairs)
    assert found.details["test"] == "mcnemar"
    assert moved(found).p_value == mcnemar(lost, won)
    assert moved(found).ci95 == paired_difference(lost, won, len(pairs))
    assert moved(found).difference == pytest.approx((won - lost) / len(pairs))
    assert found.details["drop"] == -moved(found).difference
    assert found.n == len(pairs)


@pytest.mark.parametrize(("n", "before", "after"), [(20, 16, 15), (10, 3, 1), (100, 93, 79)])
def test_a_drop_that_equals_its_limit_keeps_it(n: int, before: int, after: int) -> None:
    """In floating point, 0.8 - 0.75 is 0.050000000000000044."""
    both = (scores((np.arange(n) < right).astype(float)) for right in (before, after))
    found, limit = compare_scores(*both), (before - after) / n
    assert found.details["drop"] == -moved(found).difference == limit
    (decided,) = decide([found], ask_tasks({"t": limit}, ["t"]), "edited")
    assert decided.state != "missed"


def test_pairing_shows_what_two_separate_errors_would_hide():
    before = np.zeros(400)
    before[:200] = 1
    after = before.copy()
    after[:12] = 0  # 3 points of 400 documents: each model's own error is 2.5 points
    found = compare_scores(scores(before), scores(after))
    assert found.details["outcome"] == "loss"
    assert found.details["verdict"].startswith("loss of 0.0")
    back = compare_scores(scores(after), scores(before))
    assert back.details["outcome"] == "gain"
    assert back.details["verdict"].startswith("gain of 0.0")


def test_noise_gets_a_verdict_no_more_often_than_one_time_in_twenty():
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(200):
        before, after = rng.random((2, 60)) < 0.5
        found = compare_scores(scores(before.astype(float)), scores(after.astype(float)))
        called += found.details["outcome"] in ("loss", "gain")
    assert called <= 200 * 0.05


def test_noise_in_likelihoods_gets_none_either():
    rng = np.random.default_rng(2)
    called = 0
    for _ in range(30):
        before, after = -rng.exponential(3.0, (2, 40))
        kinds = (scores(row, "perplexity", perplexity, False) for row in (before, after))
        called += compare_scores(*kinds).details["outcome"] in ("loss", "gain")
    assert called <= 3


@pytest.mark.parametrize(
    ("aggregation", "form"),
    [
        ("perplexity", perplexity),
        ("weighted_perplexity", weighted),
        ("bits_per_byte", bits_per_byte),
    ],
)
def test_perplexities_are_paired_on_the_same_resamples(aggregation, form):
    rng = np.random.default_rng(3)
    easy = -rng.exponential(100.0, 80)  # documents differ a hundred times more than models do
    values = [easy, easy * 1.01]
    if aggregation != "perplexity":
        weights = rng.integers(50, 60, 80)
        values = [np.stack([column, weights], axis=1) for column in values]
    else:
        values = [column / 50 for column in values]
    found = compare_scores(*(scores(column, aggregation, form, False) for column in values))
    assert found.details["test"] == "wilcoxon"
    assert found.details["outcome"] == "loss"
    change, known = moved(found), found.details
    assert 0 < change.ci95[0] < change.difference < change.ci95[1]
    relative = change.difference / (found.value - change.difference)
    assert known["drop_is_relative"] == (aggregation != "bits_per_byte")
    expected = relative if known["drop_is_relative"] else change.difference
    assert known["drop"] == pytest.approx(expected)


def test_the_interval_of_a_mean_covers_the_true_difference():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(40):
        before = rng.normal(size=60)
        after = before - 0.3 + rng.normal(scale=0.5, size=60)
        low, high = moved(compare_scores(scores(before), scores(after))).ci95
        covered += low <= -0.3 <= high
    assert covered >= 34


def test_scores_that_only_all_documents_have_together():
    before = scores(["a" * 5] * 20, "best", best)
    after = scores(["a" * 3] * 20, "best", best)
    found = compare_scores(before, after)
    shown = found.details["test"], found.value, moved(found).difference
    assert shown == ("bootstrap", 3, -2)
    assert found.details["outcome"] == "loss"
    assert moved(found).p_value < 0.01
    same = compare_scores(before, before)
    assert (same.details["outcome"], moved(same).p_value) == ("inconclusive", 1.0)
    few = compare_scores(*(scores(["a" * length] * 5, "best", best) for length in (5, 3)))
    assert (moved(few).p_value, few.details["verdict"]) == (2**-4, "inconclusive (n = 5)")


@pytest.mark.parametrize(
    ("n", "gate", "verdict"),
    [
        (2, None, "inconclusive (n = 2)"),
        (200, None, "inconclusive (n = 200)"),
        (300, None, "no loss shown"),
        (300, 0.01, "inconclusive (n = 300)"),
        (200, 0.05, "no loss shown"),
        (2, 0.05, "inconclusive (n = 2)"),
        (1500, 0.0, "inconclusive (n = 1,500)"),
    ],
)
def test_a_share_needs_an_interval_no_wider_than_its_limit_or_two_points(n, gate, verdict):
    """Both models answer all alike: Bonett and Price's interval is then about 5.5 / n wide."""
    answers = np.arange(n) % 2.0
    found = compare_scores(scores(answers), scores(answers), gate)
    assert found.details["verdict"] == verdict
    assert found.details["outcome"] == ("none" if verdict == "no loss shown" else "inconclusive")
    assert found.details["resolution"] == (0.02 if gate is None else gate)


@pytest.mark.parametrize(
    ("noise", "gate", "outcome"),
    [(0.01, None, "none"), (0.1, None, "inconclusive"), (0.1, 0.2, "none")],
)
def test_a_perplexity_needs_an_interval_no_wider_than_two_percent_of_it(noise, gate, outcome):
    rng = np.random.default_rng(6)
    before = -rng.exponential(3.0, 100)
    after = before + rng.normal(scale=noise, size=100)
    pair = [scores(values, "perplexity", perplexity, False) for values in (before, after)]
    found, base = compare_scores(*pair, gate), pair[0].value
    assert found.details["outcome"] == outcome
    assert found.details["resolution"] == pytest.approx((gate or 0.02) * base)
    low, drop, high = (found.details[key] for key in ("drop_low", "drop", "drop_high"))
    ends = moved(found).ci95
    assert (high - low) * base == pytest.approx(ends[1] - ends[0])
    assert low < drop < high


@pytest.mark.parametrize("n", [1, 2, 29])
def test_resampling_few_documents_shows_nothing(n):
    """A bootstrap of one document is a point, and of documents that agree as well."""
    values = np.full(n, -3.0)
    found = compare_scores(*(scores(values, "perplexity", perplexity, False) for _ in range(2)))
    assert moved(found).ci95 == (0, 0)
    assert found.details["verdict"] == f"inconclusive (n = {n})"


def test_a_loss_that_is_shown_stays_one_however_wide_its_interval():
    wide = Interval(-0.5, -0.1)
    assert draw_conclusion(wide, 0.01, 0.02, 10, higher_is_better=True) == "loss"
    assert draw_conclusion(wide, 0.01, 0.02, 10, higher_is_better=False) == "gain"
    assert draw_conclusion(wide, 0.05, 0.02, 10_000) == "inconclusive"


@pytest.mark.parametrize("aggregation", ["mean", "perplexity"])
def test_the_same_model_twice_is_no_difference(aggregation):
    form = {"mean": mean, "perplexity": perplexity}[aggregation]
    values = -np.random.default_rng(5).exponential(3.0, 30)
    found = compare_scores(scores(values, aggregation, form), scores(values, aggregation, form))
    shown = moved(found).difference, moved(found).p_value, found.details["verdict"]
    assert shown == (0.0, 1.0, "no loss shown")


# Between, the library tries every permutation where scores are tied: it takes seconds each.
FEW_OR_MANY = st.integers(3, 7) | st.integers(14, 30)


@settings(deadline=None)
@given(FEW_OR_MANY.flatmap(lambda n: st.lists(st.floats(-5, 5), min_size=n, max_size=n)))
def test_wilcoxon_is_that_of_scipy(differences):
    before = np.zeros(len(differences))
    after = np.asarray(differences)
    if np.any(after):
        expected = stats.wilcoxon(after, zero_method="pratt").pvalue
        assert wilcoxon(before, after) == expected
    else:
        assert wilcoxon(before, after) == 1.0


@pytest.mark.parametrize(
    ("interval", "p_value", "better", "outcome"),
    [
        (Interval(-0.2, -0.1), 0.01, True, "loss"),
        (Interval(-0.2, -0.1), 0.01, False, "gain"),
        (Interval(0.1, 0.2), 0.01, True, "gain"),
        (Interval(0.1, 0.2), 0.01, False, "loss"),
        (Interval(0.1, 0.2), 0.05, True, "none"),
        (Interval(-0.1, 0.2), 0.01, True, "none"),
        (Interval(0.0, 0.0), 0.01, True, "none"),
    ],
)
def test_a_verdict_needs_test_and_interval(interval, p_value, better, outcome):
    assert draw_conclusion(interval, p_value, 1, 30, higher_is_better=better) == outcome


def test_verdicts_read_from_small_to_large():
    assert describe_outcome("loss", Interval(-0.0512, -0.02), 9) == "loss of 0.02 to 0.0512"
    assert describe_outcome("gain", Interval(0.01, 0.04), 9) == "gain of 0.01 to 0.04"
    assert describe_outcome("none", Interval(-1, 1), 9) == "no loss shown"
    assert describe_outcome("inconclusive", Interval(-1, 1), 1234) == "inconclusive (n = 1,234)"


def test_different_documents_are_not_compared():
    with pytest.raises(MeasurementError) as error:
        compare_scores(scores([1.0, 0.0]), scores([1.0]))
    assert str(error.value) == (
        "the base and the edited model answered different documents; measure both again, with one "
        "version of the task and one `limit`"
    )
