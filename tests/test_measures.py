"""Every measure equals a slow and obvious implementation of its definition.

Each is checked on rows drawn by hypothesis against code that follows the definition word by word,
with loops, exact fractions, or the library's own sampling.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evals.measure.memorization import measures, membership
from evals.run.predictions import Predictions, Sampling, measure_predictions
from evals.run.statistics import bootstrap, wilson


@st.composite
def token_pairs(draw, least=1):
    shape = (draw(st.integers(1, 5)), draw(st.integers(least, 12)))
    few = st.integers(0, 3)  # few different tokens, so that rows agree often
    return draw(arrays(np.int32, shape, elements=few)), draw(arrays(np.int32, shape, elements=few))


log_likelihoods = arrays(
    np.float32, (3, 10), elements=st.floats(-20, 0, width=32, allow_subnormal=False)
)


@given(token_pairs())
def test_exact_match_score_and_first_divergence(pair):
    said, suffix = pair
    for row, (mine, true) in enumerate(zip(said.tolist(), suffix.tolist(), strict=True)):
        right = [a == b for a, b in zip(mine, true, strict=True)]
        assert measures.exact_match(said, suffix)[row] == (mine == true)
        assert measures.token_accuracy(said, suffix)[row] == sum(right) / len(right)
        first = right.index(False) if False in right else len(right)
        assert measures.first_divergence(said, suffix)[row] == first


def whole(values):
    """Suffixes as long as the rows of `values`."""
    return np.zeros(values.shape, dtype=np.int32)


@given(log_likelihoods)
def test_suffix_nll_is_the_mean(log_p):
    slow = [-sum(map(float, row)) / len(row) for row in log_p]
    np.testing.assert_allclose(
        measures.suffix_nll(log_p, whole(log_p)), slow, rtol=1e-6, atol=1e-12
    )


def edit_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(
        edit_distance(a[1:], b) + 1,
        edit_distance(a, b[1:]) + 1,
        edit_distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


@settings(max_examples=15)
@given(
    arrays(np.int32, (2, 6), elements=st.integers(0, 3)),
    arrays(np.int32, (2, 6), elements=st.integers(0, 3)),
)
def test_near_match_is_the_normalized_edit_distance(said, suffix):
    slow = [
        1 - edit_distance(a, b) / 6 for a, b in zip(said.tolist(), suffix.tolist(), strict=True)
    ]
    np.testing.assert_allclose(measures.near_match_similarity(said, suffix), slow)


@given(
    st.fractions(Fraction(1, 50), Fraction(49, 50)), st.fractions(Fraction(1, 20), Fraction(19, 20))
)
def test_attempts_needed_is_the_least_n_of_the_definition(p_z, p):
    def holds(n):
        return 1 - (1 - p_z) ** n >= p

    least = next(n for n in range(1, 1_000) if holds(n))
    assert measures.attempts_needed(np.log([float(p_z)]), float(p))[0] == least
    for n in (1, least, least + 2):
        assert (measures.attempts_needed(np.log([float(p_z)]), float(p))[0] <= n) == holds(n)


def test_attempts_at_the_ends():
    needed = measures.attempts_needed(np.asarray([-np.inf, 0.0, -600.0]), 0.5)
    assert needed[0] == np.inf
    assert needed[1] == 1
    assert needed[2] == pytest.approx(math.log(2) * math.exp(600), rel=1e-9)


def positions_of(logits, suffix, sampling):
    """`measure_predictions` with an identity in place of the output embedding."""
    return measure_predictions(
        torch.from_numpy(logits), torch.nn.Identity(), torch.from_numpy(suffix), sampling=sampling,
        distributions=sampling is not None,
    )  # fmt: skip


logits_3_4_9 = arrays(np.float32, (3, 4, 9), elements=st.floats(-8, 8, width=16))
suffix_3_4 = arrays(np.int64, (3, 4), elements=st.integers(0, 8))


@given(logits_3_4_9, suffix_3_4)
def test_distributions_are_measured_over_the_vocabulary(logits, suffix):
    found = positions_of(logits, suffix, Sampling())
    for row in range(3):
        for at in range(4):
            weights = [math.exp(float(x)) for x in logits[row, at]]
            p = [weight / sum(weights) for weight in weights]
            log_p = [math.log(x) for x in p]
            mean = sum(x * y for x, y in zip(p, log_p, strict=True))
            assert found.entropy[row, at] == pytest.approx(-mean, rel=1e-4, abs=1e-5)
    slow = [[float(x) for x in row] for row in found.entropy]
    entropy = next(one for one in measures.MEASURES if one.name == "completion_entropy")
    made = measures.Pass(suffix, positions_of(logits, suffix, Sampling()), 3)
    np.testing.assert_allclose(entropy.of(made), [sum(row) / 4 for row in slow], rtol=1e-6)


@given(logits_3_4_9, suffix_3_4, st.integers(1, 12), st.sampled_from([0.5, 1.0, 1.7]))
def test_sampling_probability_is_that_of_the_librarys_sampler(logits, suffix, top_k, temperature):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper

    scheme = Sampling(top_k, temperature)
    drawn = positions_of(logits, suffix, scheme).log_drawn
    flat = torch.from_numpy(logits).flatten(0, 1)
    flat = TemperatureLogitsWarper(temperature)(None, flat)
    flat = TopKLogitsWarper(top_k)(None, flat)
    p = flat.softmax(-1).gather(-1, torch.from_numpy(suffix).flatten()[:, None]).view(3, 4).numpy()
    np.testing.assert_allclose(np.exp(drawn), p, rtol=1e-4, atol=1e-7)
    product = p.astype(np.float64).prod(axis=1)
    log_p_z = measures.log_extraction_probability(drawn)
    np.testing.assert_allclose(np.exp(log_p_z), product, rtol=1e-3, atol=1e-12)


def test_sampling_finds_a_passage_as_often_as_its_probability_says():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 6, generator=generator)
    suffix = logits.argmax(-1)
    scheme = Sampling(top_k=3, temperature=1.3)
    drawn = positions_of(logits.numpy(), suffix.numpy(), scheme).log_drawn
    p_z = math.exp(measures.log_extraction_probability(drawn)[0])
    kept = (logits / 1.3).masked_fill(logits < logits.topk(3).values[..., -1:], -torch.inf)
    draws = [
        kept[0, at].softmax(-1).multinomial(20_000, True, generator=generator) for at in range(3)
    ]
    hits = torch.stack([draws[at] == suffix[0, at] for at in range(3)]).all(0).float().mean()
    assert float(hits) == pytest.approx(p_z, abs=4 * math.sqrt(p_z * (1 - p_z) / 20_000))


def measure_area(scores, members):
    return membership.measure_area("membership.loss", scores, members, "edited")


def test_a_score_that_tells_nothing_rarely_seems_to(monkeypatch):
    """One score, with its own interval: a false alarm is about as rare as the interval says. The
    most extreme of four scores would give two to three times as many."""
    monkeypatch.setattr("evals.run.statistics.RESAMPLES", 400)
    draw, members = np.random.default_rng(1), np.arange(120) < 60
    rows = [measure_area(draw.normal(size=120), members) for _ in range(400)]
    assert sum(not row.ci95[0] <= 0.5 <= row.ci95[1] for row in rows) <= 0.07 * 400


@given(
    arrays(np.float64, 7, elements=st.integers(0, 4).map(float)),
    arrays(np.bool_, 7).filter(lambda m: 0 < m.sum() < 7),
)
def test_auc_is_the_share_of_pairs_in_the_right_order(scores, members):
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[members] for b in scores[~members]
    ]
    found = measure_area(scores, members)
    assert found.value == pytest.approx(sum(pairs) / len(pairs))
    assert found.ci95 == tuple(sorted(found.ci95))


def test_an_auc_far_below_one_half_is_over_correction():
    scores = np.concatenate([np.linspace(0, 1, 50), np.linspace(2, 3, 50)])
    members = np.arange(100) < 50
    assert measure_area(scores, members).details["overcorrected"]
    assert not measure_area(-scores, members).details["overcorrected"]
    rng = np.random.default_rng(0)
    assert not measure_area(rng.normal(size=100), members).details["overcorrected"]


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_perfect_separation_shows_no_more_than_pairs_without_a_row_in_common(inside, outside, wins):
    """Whose chance to all agree is AUC to the power of their number."""
    pairs = min(inside, outside)
    scores = np.concatenate([np.arange(inside), np.arange(outside) + (-50 if wins else 50)])
    found = measure_area(scores.astype(float), np.arange(inside + outside) < inside)
    assert (found.value, found.n) == (wins, inside)
    assert found.ci95 == wilson(pairs * wins, pairs)
    over = not wins and pairs > 3
    assert found.details["overcorrected"] == over, "1 of 70 by chance, of 4 and 4 rows"


def test_few_rows_have_a_wide_interval():
    members = np.arange(8) < 4
    found = measure_area(np.asarray([1, 2, 3, 5, 4, 6, 7, 8.0]), members)
    assert found.value == 1 / 16
    assert found.ci95[1] >= wilson(1, 4).high > 0.5
    assert not found.details["overcorrected"]
    rng = np.random.default_rng(0)
    scores, members = rng.normal(size=100), np.arange(100) < 50
    area = bootstrap((scores[members], scores[~members]), membership._area)
    assert measure_area(scores, members).ci95 == area, "many rows speak alone"


def test_positions_are_measured_in_pieces_without_a_seam():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(40, 20, 11)).astype(np.float32)
    suffix = rng.integers(0, 11, (40, 20))
    whole = positions_of(logits, suffix, Sampling(3))
    parts = [positions_of(logits[i : i + 1], suffix[i : i + 1], Sampling(3)) for i in range(40)]
    joined = Predictions.concatenate(parts)
    assert joined.greedy.tolist() == whole.greedy.tolist()
    np.testing.assert_allclose(joined.log_likelihood, whole.log_likelihood, rtol=1e-5)
    np.testing.assert_allclose(joined.log_drawn, whole.log_drawn, rtol=1e-5)


def test_the_documentation_has_every_measure_and_its_source():
    text = (Path(__file__).parent.parent / "docs" / "which-passages.md").read_text()
    assert "|`membership.loss`|" in text
    for one in measures.MEASURES:
        more = " *" if {"decoded", "entropy", "log_drawn"} & set(one.needs) else ""
        more = f" (in rows `{one.column}`)" if one.figure else more
        key = f"|`{one.figure or one.name}`{more}|"
        (row,) = (line for line in text.splitlines() if line.startswith(key))
        definition, source = row.split("|")[2:4]
        assert definition
        assert one.source.split(",")[0] in source
        assert "https://arxiv.org/abs/" in source or not one.source
