"""Contract of the measures of an edit's cost: each is what its description says, on any KL."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_search import make_point
from tiny_tokenizer import tiny_model

from evals.choose.grid import measure_points
from evals.choose.search.goal import Goal
from evals.data import Samples
from evals.data.windows import repeat_windows
from evals.measure.edits.costs import COUNTED, MEASURES, find_copied, find_worst, measure_costs
from evals.measure.edits.engine import BASE, Engine
from surgery.selection import EditedHeads

EDIT = (EditedHeads(0, (0, 1), "zero"),)


def test_a_token_is_copied_if_it_stood_earlier_in_its_window() -> None:
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 6, (5, 9)).astype(np.int32)
    expected = [[row[at] in row[:at] for at in range(1, 9)] for row in windows.tolist()]
    np.testing.assert_array_equal(find_copied(windows), expected)


def test_the_first_half_of_a_window_is_repeated() -> None:
    windows = np.arange(40 * 7, dtype=np.int32).reshape(40, 7)
    repeated = repeat_windows(windows)
    assert repeated.shape[1] == 6
    assert len(repeated) < 40
    np.testing.assert_array_equal(repeated[:, :3], repeated[:, 3:])
    np.testing.assert_array_equal(repeated[:, :3], windows[: len(repeated), :3])


@given(st.integers(0, 2), st.integers(2, 30), st.integers(6, 40), st.integers(0, 2**32 - 1))
def test_tokens_that_open_every_window_are_not_repeated(
    opening: int, number: int, length: int, seed: int
) -> None:
    """A model never reads <bos> in the middle of a text. Only the second half is measured."""
    text = np.random.default_rng(seed).integers(10, 99, (number, length - opening))
    text[0, 0], text[1, 0] = 8, 9
    windows = np.insert(text, [0] * opening, range(opening), axis=1).astype(np.int32)
    repeated, half = repeat_windows(windows), length // 2
    assert repeated.shape[1] == 2 * half - opening
    np.testing.assert_array_equal(repeated[:, :half], windows[: len(repeated), :half])
    np.testing.assert_array_equal(repeated[:, half:], repeated[:, opening:half])
    second = np.broadcast_to(np.arange(repeated.shape[1]) >= half, repeated.shape)[:, 1:]
    kl = np.zeros((number, length - 1))
    found = measure_costs(kl, np.zeros(kl.shape, dtype=bool), second.astype(float))
    assert found["repeated"] == 1
    again = measure_costs(kl, np.zeros(kl.shape, dtype=bool), 1.0 - second)
    assert again["repeated"] == 0


@pytest.mark.parametrize(
    "rows",
    [
        [[5, 6, 7, 8, 9, 3]],  # a single window shows nothing
        [[5, 6, 7, 8], [5, 9, 5, 8]],  # a word that stands in the text, too
        [[5, 6, 7, 8], [4, 6, 7, 8]],
    ],
)
def test_words_that_begin_windows_are_repeated(rows: list[list[int]]) -> None:
    windows = np.asarray(rows, dtype=np.int32)
    half = windows[:, : windows.shape[1] // 2]
    np.testing.assert_array_equal(repeat_windows(windows), np.concatenate([half, half], axis=1))


def test_each_measure_is_of_its_tokens() -> None:
    kl = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=np.float32)
    copied = np.array([[True, False, False], [False, False, True]])
    repeated = np.array([[9.0, 1.0, 3.0]], dtype=np.float32)
    found = measure_costs(kl, copied, repeated)
    assert found == pytest.approx({"kl": 3.5, "copied": 3.5, "repeated": 2.0, "tail": 5.95})
    assert found.keys() == MEASURES.keys()
    assert measure_costs(kl, ~np.ones_like(copied), repeated)["copied"] == 0


def test_the_worst_measure_that_counts_is_the_cost() -> None:
    alike = dict.fromkeys(MEASURES, 0.1)
    for name in COUNTED:
        assert find_worst(alike | {name: 0.2}) == (name, 0.2)
    assert find_worst(alike | {"tail": 9.0})[1] == 0.1
    assert find_worst({"kl": 0.25}) == ("kl", 0.25)


def test_a_search_minimizes_the_worst_measure_that_counts() -> None:
    point = make_point(EDIT, 0.0, 0.5, **{"kl.repeated": 9.0, "kl.tail": 20.0})
    assert point.cost == Goal(0.1).order(point)[0] == 9


def test_the_engine_measures_them_on_the_text_that_it_is_given() -> None:
    """The mean is that of every token; the unedited model costs nothing."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 60, (20, 12)).astype(np.int32)
    passages = Samples(tokens[:4], 6, tuple("abcd"), "numbers")
    engine = Engine(tiny_model(), passages, tokens[4:], repeated=repeat_windows(tokens[4:]))
    base, edited = engine.measure([BASE, EDIT])
    assert base.costs == dict.fromkeys(MEASURES, 0)
    assert edited.costs["kl"] == pytest.approx(edited.heldout_kl.mean())
    assert min(edited.costs.values()) > 0
    assert edited.costs["tail"] > edited.costs["kl"]
    (point,) = measure_points(engine, [EDIT], "all", ["greedy"])
    named = {name: name if name == "kl" else f"kl.{name}" for name in MEASURES}
    shown = {name: point.plain[key] for name, key in named.items()}
    assert shown == pytest.approx(edited.costs)
    plain = Engine(tiny_model(), passages, tokens[4:]).measure([EDIT])[0]
    assert plain.costs == {}
    np.testing.assert_allclose(plain.heldout_kl, edited.heldout_kl, atol=1e-6)
