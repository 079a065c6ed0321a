"""Contract: a row leaves the table of what was wanted only if another one is lower in every number
that has a limit, and both have it."""

from __future__ import annotations

from benchmarks.results import Cell
from benchmarks.wanted import beats

MOST = {"above": 0.01, "cost": 0.06, "form": 0.05}
SHORT = {"above": Cell(value=0.8, n=192), "cost": 0.2, "form": -0.5, "way": "erased"}
LONG = {"above": Cell(value=0.4, n=192), "cost": 0.1, "form": -0.7, "way": "erased"}


def test_a_row_beats_one_that_is_higher_in_all_numbers() -> None:
    assert beats(LONG, SHORT, MOST)
    assert not beats(SHORT, LONG, MOST)
    assert not beats(LONG, LONG, MOST)


def test_a_row_that_is_higher_in_one_number_beats_nothing() -> None:
    assert not beats(LONG | {"form": -0.4}, SHORT, MOST)


def test_a_number_that_was_not_measured_beats_nothing() -> None:
    cheap = {key: value for key, value in LONG.items() if key != "above"}
    assert not beats(cheap, SHORT, MOST)
    assert not beats(LONG, {key: value for key, value in SHORT.items() if key != "above"}, MOST)
