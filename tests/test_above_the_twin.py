"""The model that never saw the passages is the zero: shares of an edit are also shown above its."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evals.measure.attacks.attack import AttackOutcome
from evals.measure.attacks.names import make_attack
from evals.measure.attacks.result import Outcomes, measure_outcomes
from evals.run.statistics import mcnemar, paired_difference
from evals.table.measured import measure_share
from surgery.card.measurements import say_above
from surgery.record.measured import BASE, EDITED, TWIN, Change, find
from tests.example_report import twinned

N = 12


@given(arrays(np.bool_, (3, N)).filter(lambda flags: flags[2].any()))
def test_it_is_the_paired_difference_on_the_passages_that_count(flags) -> None:
    twin, edited, tried = flags
    above = measure_share("recovered.any", edited, tried, on="all", twin=twin).above_twin
    pairs = [(bool(a), bool(b)) for a, b, counts in zip(twin, edited, tried, strict=True) if counts]
    lost, gained = pairs.count((True, False)), pairs.count((False, True))
    assert above == Change(
        difference=(gained - lost) / len(pairs),
        ci95=paired_difference(lost, gained, len(pairs)),
        p_value=mcnemar(lost, gained),
        lost=lost,
        gained=gained,
    )
    low, high = above.ci95
    assert low < 0 < high or len(pairs) > 1, "one passage shows nothing"


@given(st.data(), st.integers(2, 4))
def test_of_several_runs_it_is_the_difference_of_their_means(data, draws) -> None:
    twin, edited, tried = data.draw(
        arrays(np.bool_, (3, draws, N)).filter(lambda flags: flags[2].any())
    )
    row = measure_share("recovered.relearn", edited, tried, on="all", twin=twin)
    alone = measure_share("recovered.relearn", twin, tried, on="all")
    assert row.above_twin.difference == pytest.approx(row.value - alone.value)
    low, high = row.above_twin.ci95
    assert -1 <= low <= high <= 1


def test_of_passages_that_were_taught_it_has_no_interval() -> None:
    flags = np.arange(N) < 3
    above = measure_share("recited", flags, on="taught", twin=~flags).above_twin
    assert (above.difference, above.ci95) == (-0.5, None)
    assert measure_share("recited", flags, ~flags & flags, twin=flags).above_twin is None
    assert measure_share("recited", flags).above_twin is None


def test_an_attack_shows_it_for_the_edit_alone() -> None:
    """With one that learns as much from a model that never saw the passages, it is 0."""
    some, none = np.arange(N) < 5, np.zeros(N, dtype=np.bool_)
    found = Outcomes(*(AttackOutcome.of_all(flags) for flags in (~none, some, some)))
    rows = list(measure_outcomes(make_attack("any"), found, EDITED, "all"))
    above = find(rows, "recovered.any").above_twin
    assert (above.difference, above.lost, above.gained, above.p_value) == (0, 0, 0, 1)
    assert all(find(rows, "recovered.any", of).above_twin is None for of in (BASE, TWIN))
    alone = Outcomes(found.base, found.edited)
    (row,) = (
        row for row in measure_outcomes(make_attack("any"), alone, EDITED, "all")
        if row.of == EDITED
    )  # fmt: skip
    assert row.above_twin is None


@pytest.mark.parametrize(
    ("edited", "twin", "on", "said"),
    [
        (9, 1, "all", "+80.0 points [+31.4, +100.0] above a model that never saw them"),
        (2, 1, "all", "+10.0 points [−19.6, +36.2]: no more than a model that never saw them, as "
                      "far as 10 passages show"),
        (1, 1, "all", "0.0 points [−23.1, +23.1]: no more than a model that never saw them, as far "
                      "as 10 passages show"),
        (0, 9, "all", "−90.0 points [−100.0, −41.3]: less than a model that never saw them"),
        (9, 1, "taught", "+80.0 points above a model that never saw them"),
        (1, 1, "taught", "0.0 points: no more than a model that never saw them, as far as 10 "
                         "passages show"),
    ],
)  # fmt: skip
def test_an_interval_that_holds_0_is_no_proof(edited, twin, on, said) -> None:
    places = np.arange(10)
    row = measure_share("recited", places < edited, on=on, twin=places < twin)
    assert say_above(row) == said
    assert say_above(row.model_copy(update={"above_twin": None})) == ""


def test_the_verdict_says_it() -> None:
    report = twinned()
    row = find(report.figures, "recited")
    assert "no more than a model that never saw them, as far as 18" in say_above(row)
    assert f"3 of 18 passages word for word ({say_above(row)}); the base" in report.edits[0].verdict
