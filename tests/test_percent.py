"""Contract: a share that is not none is never written as none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.card.percent import format_bound, format_percent


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0"), (0.5, "50.0"), (1.0, "100.0"), (0.0004, "0.04"), (0.00002, "0.002")],
)
def test_digits(share: float, text: str) -> None:
    assert format_percent(share) == text


def test_an_upper_end_is_rounded_up() -> None:
    assert format_bound(0.010276) == "1.1", "1.0 would be within a limit of 1 %"
    assert format_bound(0.00012) == "0.02"
    assert format_bound(0.07) == "7.0"


@given(st.floats(0, 1))
def test_an_upper_end_holds(share: float) -> None:
    assert 100 * share - 1e-9 <= float(format_bound(share)) <= 100


@given(st.floats(1e-9, 1))
def test_something_is_never_nothing(share: float) -> None:
    shown = float(format_percent(share))
    assert shown > 0
    assert shown == pytest.approx(100 * share, abs=0.0501)
    assert float(format_percent(-share)) == -shown
