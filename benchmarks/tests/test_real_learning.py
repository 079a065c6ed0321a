"""How the real model of the benchmarks learns: each new text once, and no longer than needed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click
import pytest

from benchmarks.asked import check_asked
from benchmarks.real.learning import MORE_LOSS, RECITED, _is_done, _take_turn


@pytest.mark.parametrize("number", [4, 7, 30])
def test_new_text_is_learned_once_and_the_rest_is_predicted_as_before(number: int) -> None:
    new: list[Any] = [("new", at) for at in range(25)]
    near: list[Any] = [("near", at) for at in range(5)]
    turns = [_take_turn(new, near, turn, number) for turn in range(6)]
    assert [len(turn) for turn in turns] == 6 * [number]
    every = Counter(turn for some in turns for turn in some)
    assert {count for (_, learned), count in every.items() if learned} == {1}
    learned = {window for (window, mark) in every if mark}
    assert learned == set(new[: 6 * number])
    assert {window for (window, mark) in every if not mark} <= set(near)


def test_learning_ends_once_enough_is_recited_at_little_cost() -> None:
    base = {"passages": 0.0, "heldout_loss": 4.0}
    for passages, more, ends in (
        (RECITED, MORE_LOSS / 2, True),
        (RECITED, 2 * MORE_LOSS, False),
        (RECITED - 0.01, 0.0, False),
    ):
        last = {"passages": passages, "heldout_loss": 4.0 + more}
        assert _is_done([base, last]) == ends
    assert not _is_done([base])


def test_a_folder_of_other_options_is_not_gone_on_with(tmp_path: Any) -> None:
    check_asked(tmp_path / "run", {"passages": 120})
    check_asked(tmp_path / "run", {"passages": 120})
    with pytest.raises(click.UsageError, match="run holds a run with another passages \\(120\\)"):
        check_asked(tmp_path / "run", {"passages": 480})
