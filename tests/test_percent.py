"""Contract: a share that is not none is never written as none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.card.percent import format_percent


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0"), (0.5, "50.0"), (1.0, "100.0"), (0.0004, "0.04"), (0.00002, "0.002")],
)
def test_digits(share: float, text: str) -> None:
    assert format_percent(share) == text


@given(st.floats(1e-9, 1))
def test_something_is_never_nothing(share: float) -> None:
    shown = float(format_percent(share))
    assert shown > 0
    assert shown == pytest.approx(100 * share, abs=0.0501)
    assert float(format_percent(-share)) == -shown
