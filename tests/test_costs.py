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
from evals.data.windows import repeat_random, repeat_windows
from evals.measure.edits.costs import (
    COUNTED,
    MEASURES,
    Skills,
    find_copied,
    find_worst,
    measure_costs,
)
from evals.measure.edits.engine import BASE, Engine
from surgery.in_memory import Editable
from surgery.selection import EditedHeads

EDIT = (EditedHeads(0, (0, 1), "zero"),)
NO_SKILLS = Skills(0, 0.0)


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
    nothing = np.zeros(kl.shape, dtype=bool)
    found = measure_costs(kl, nothing, second.astype(float), NO_SKILLS, NO_SKILLS)
    assert found["kl.repeated"] == 1
    again = measure_costs(kl, nothing, 1.0 - second, NO_SKILLS, NO_SKILLS)
    assert again["kl.repeated"] == 0
    random = repeat_random(windows)
    assert random.shape == repeated.shape
    np.testing.assert_array_equal(random[:, :opening], repeated[:, :opening])
    np.testing.assert_array_equal(random[:, opening:half], random[:, half:])
    assert set(random[:, opening:].flat) <= set(text.flat), "no special token"


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
    skills = Skills(29, 1.0), Skills(59, 1.5)
    found = measure_costs(kl, copied, repeated, *skills)
    expected = {"kl": 3.5, "kl.copied": 3.5, "kl.repeated": 2.0, "kl.tail": 5.95}
    expected |= {"induction_fall": 0.5, "accuracy_fall": np.log(2)}
    assert found == pytest.approx(expected)
    assert found.keys() == MEASURES.keys()
    assert measure_costs(kl, ~np.ones_like(copied), repeated, *skills)["kl.copied"] == 0


def test_the_worst_measure_that_counts_is_the_cost() -> None:
    alike = dict.fromkeys(MEASURES, 0.1)
    for name in COUNTED:
        assert find_worst(alike | {name: 0.2}) == (name, 0.2)
    assert find_worst(alike | {"kl.tail": 9.0})[1] == 0.1
    assert find_worst({"kl": 0.25}) == ("kl", 0.25)


def test_a_search_minimizes_the_worst_measure_that_counts() -> None:
    point = make_point(EDIT, 0.0, 0.5, **{"kl.repeated": 9.0, "kl.tail": 20.0})
    assert point.cost == Goal(0.1).order(point)[0] == 9


def test_the_engine_measures_them_on_the_text_that_it_is_given() -> None:
    """The mean is that of every token; the unedited model costs nothing."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 60, (20, 12)).astype(np.int32)
    passages = Samples(tokens[:4], 6, tuple("abcd"), "numbers")
    engine = Engine(tiny_model(), passages, tokens[4:], costs=True)
    base, edited = engine.measure([BASE, EDIT])
    assert base.costs == dict.fromkeys(MEASURES, 0)
    assert edited.costs["kl"] == pytest.approx(edited.heldout_kl.mean())
    assert min(nats for name, nats in edited.costs.items() if "kl" in name) > 0
    assert edited.costs["kl.tail"] > edited.costs["kl"]
    (point,) = measure_points(engine, [EDIT], "all", ["greedy"])
    assert {name: point.plain[name] for name in MEASURES} == pytest.approx(edited.costs)
    plain = Engine(tiny_model(), passages, tokens[4:]).measure([EDIT])[0]
    assert plain.costs == {}
    np.testing.assert_allclose(plain.heldout_kl, edited.heldout_kl, atol=1e-6)


def test_another_model_is_measured_against_the_engine_of_the_first() -> None:
    """As an edit of the first is: here both are the same weights."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 60, (20, 12)).astype(np.int32)
    passages, model = Samples(tokens[:4], 6, tuple("abcd"), "numbers"), tiny_model()
    engine = Engine(model, passages, tokens[4:], costs=True)
    (edited,) = engine.measure([EDIT])
    made = Editable(model).apply(Editable(model).plan(EDIT), {})
    other = Engine(made, passages, tokens[4:], costs=True, against=engine).base
    assert other.costs == pytest.approx(edited.costs, abs=1e-5)
    np.testing.assert_allclose(other.heldout_kl, edited.heldout_kl, atol=1e-6)


def test_accuracy_and_induction_are_of_what_the_model_predicts() -> None:
    """Four random tokens, twice: nothing tells the first of the second half."""
    right = np.array([[True, False, True]])
    nll = np.array([[4.0, 4.0, 4.0, 9.0, 1.0, 1.0, 1.0]])
    assert Skills.of(right, nll) == Skills(2, 3.0)
