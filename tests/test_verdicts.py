"""Contract: a limit is kept only by a test that shows it.

It is a one-sided claim, with 95 % confidence, by the exact bound of Clopper and Pearson. A test
that finds nothing in the base, or a model that predicts nothing, leaves every limit open.
"""

from __future__ import annotations

import math
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Outcome, attn_surgery
from example_report import limit_on, share
from hypothesis import given, settings
from hypothesis import strategies as st
from reciting import recited_rows, write_rows
from scipy.stats import binom, binomtest
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from evals.lab import samples_path
from evals.run.models import open_model
from evals.run.statistics import bound_share, count_needed, estimate_share
from evals.table.limits import find_smallest, find_void
from evals.table.measured import measure_share
from surgery.exporting import export


@given(st.integers(1, 3000), st.data())
def test_the_bound_of_a_share_is_that_of_clopper_and_pearson(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    test = binomtest(count, n, alternative="less")
    exact = test.proportion_ci(confidence_level=0.95, method="exact").high
    assert bound_share(count, n) == pytest.approx(exact, rel=1e-9)
    assert bound_share(count, n) >= count / n


@pytest.mark.parametrize(
    ("limit", "needed"), [(0.1, 29), (0.05, 59), (0.01, 299), (0.005, 598), (0.001, 2995)]
)
def test_how_many_passages_a_limit_takes(limit: float, needed: int) -> None:
    """None of them recovered: (1 − limit)ⁿ is 5 % at most."""
    assert count_needed(limit) == needed
    assert (1 - limit) ** needed <= 0.05 < (1 - limit) ** (needed - 1)
    assert count_needed(0.0) is None
    assert count_needed(limit, limit) is None
    assert find_smallest(needed) <= limit < find_smallest(needed - 1)


@given(st.integers(0, 20), st.integers(1, 500), st.floats(0.001, 0.9))
def test_fewer_passages_at_the_same_rate_would_not_do(count: int, n: int, limit: float) -> None:
    share = min(count, n) / n
    needed = count_needed(limit, share)
    if needed is not None:
        assert bound_share(share * needed, needed) <= limit
        assert needed == 1 or bound_share(share * (needed - 1), needed - 1) > limit


def test_the_bound_errs_in_5_of_100_cases_at_most() -> None:
    """The share of samples of 60 whose bound lies below the true rate."""
    for true in (0.01, 0.05, 0.1, 0.3, 0.7):
        missed = sum(binom.pmf(k, 60, true) for k in range(61) if bound_share(k, 60) < true)
        assert missed <= 0.05


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=6))
def test_a_mean_of_draws_is_exact(draws: list[tuple[int, int]]) -> None:
    """A mean that equals a limit keeps it: 1 and 2 of 10 are 0.15, not 0.15000000000000002."""
    hits, counted = np.zeros((2, len(draws), 40), dtype=bool)
    for at, (some, of) in enumerate(draws):
        counted[at, :of] = True
        hits[at, : min(some, of)] = True
    exact = sum((Fraction(min(some, of), of) for some, of in draws), Fraction()) / len(draws)
    found = measure_share("recovered.relearn", hits, counted)
    assert found.value == float(exact)
    assert found.value <= float(found.details["bound"] or 0) <= 1
    assert limit_on(found, float(exact)).state != "missed"


def test_a_bound_of_draws_is_never_below_that_of_one() -> None:
    few = np.zeros((5, 100), dtype=bool)
    few[0, 1] = few[3, 2] = True
    found = estimate_share(few, np.ones_like(few))
    assert found.bound >= bound_share(1, 100)
    luck = np.zeros((5, 50), dtype=bool)
    luck[0, :20] = True
    spread = estimate_share(luck, np.ones_like(luck))
    assert spread.bound > bound_share(4, 50), "the draws differ by more than chance in rows"
    assert spread.bound <= spread.interval.high
    none = estimate_share(np.zeros_like(few), np.ones_like(few))
    assert none.bound == bound_share(0, 100)


@pytest.mark.parametrize(
    ("recovered", "n", "limit", "state", "needed"),
    [
        (0, 299, 0.01, "kept", None),
        (0, 298, 0.01, "undecided", 299),
        (1, 299, 0.01, "undecided", 657),
        (3, 299, 0.01, "missed", None),
        (0, 12, 0.05, "undecided", 59),
    ],
)
def test_a_limit_is_a_one_sided_claim(recovered, n, limit, state, needed) -> None:
    found = limit_on(share("recovered.any", recovered, n), limit)
    assert (found.state, found.needed) == (state, needed)
    assert found.bound == bound_share(recovered, n)
    assert found.ci95[1] > found.bound, "the interval that is shown is two-sided"


@pytest.mark.parametrize(
    ("base", "limit", "state"),
    [
        (0.0, 0.1, "undecided"),
        (0.05, 0.1, "undecided"),
        (0.1, 0.1, "undecided"),
        (0.125, 0.1, "kept"),
        (0.05, 0.01, "kept"),
        (None, 0.1, "undecided"),
    ],
)
def test_what_the_base_does_not_give_either_shows_nothing(base, limit, state) -> None:
    """A model that never recited much may still be tested, by a limit below what it recites."""
    found = limit_on(share("recovered.greedy", 0, 400), limit, base)
    assert (found.state, found.needed) == (state, None)
    assert (found.lacks is None) == (state == "kept")
    if base == 0:
        assert found.description == (
            "share of passages recovered by greedy is 0, within the limit of 0.1; the same test "
            "finds nothing in the base, so it shows nothing of the edit: test passages that the "
            "base gives away"
        )
    if base == 0.05 and state != "kept":
        assert "finds 5.0% in the base, which is within the limit, too" in found.description


def test_what_is_missed_is_missed_whatever_the_base_gives() -> None:
    for base in (None, 0.0, 0.5):
        assert limit_on(share("recovered.any", 9, 40), 0.1, base).state == "missed"
    nothing = limit_on(share("recovered.any", 0, 0), 0.1, 0.0)
    assert nothing.description.endswith("no passage counts for it")


@given(st.floats(2, 12), st.floats(0, 20))
def test_a_model_that_only_guesses_decides_nothing(base: float, edited: float) -> None:
    """Unless the base guesses as badly: then the text tells nothing."""
    guess = math.log(50_000)
    said = find_void(50_000, (base, edited))
    assert (said is not None) == (base < 0.99 * guess <= edited)
    assert find_void(50_000, None, (3.0, guess)) is not None
    assert find_void(50_000, None, (3.0, 15.0)) is None, "so do passages that were forgotten"
    assert find_void(50_000, None) is None
    same = find_void(50_000, (base, edited), same=True)
    assert same == "the base has the same weights as the model, so no edit is judged"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its cut, copies of both, passages that it recites, and some that it never saw."""
    root, model = tmp_path_factory.mktemp("verdicts"), tiny_model()
    save_tiny(root / "base", model)
    export(root / "base", "0", output=root / "cut")
    shutil.copytree(root / "cut", root / "cut-too")
    rows = recited_rows(model, 40)
    write_rows(root / "recited.jsonl", rows)
    write_rows(
        root / "never.jsonl",
        [{**row, "tokens": [*row["tokens"][:6], *range(3, 8)]} for row in rows],
    )
    (root / "text.txt").write_text(TEXT)
    return root


def attack(folder: Path, model: str, base: str, samples: str, limit: float) -> Outcome:
    return attn_surgery(
        *("audit", folder / model, "--baseline", folder / base, "--samples", folder / samples),
        *("--heldout", folder / "text.txt", "--prefix-length", 6, "--suffix-length", 5),
        *("--attack", "greedy", "--max", f"greedy={limit}", "--device", "cpu"),
    )


@pytest.mark.parametrize(
    ("model", "base", "samples", "limit", "code", "said"),
    [
        ("cut", "base", "recited.jsonl", 0.5, 0, "It keeps every limit"),
        ("cut", "cut-too", "recited.jsonl", 0.5, 4, "the base has the same weights as the model"),
        ("cut", "cut", "recited.jsonl", 0.5, 4, "the base has the same weights as the model"),
        ("base", "base", "recited.jsonl", 0.5, 3, "it misses max greedy"),
        ("cut", "base", "never.jsonl", 0.5, 4, "the same test finds nothing in the base"),
    ],
)
def test_an_audit_that_shows_nothing(folder, model, base, samples, limit, code, said) -> None:
    outcome = attack(folder, model, base, samples, limit)
    assert outcome.code == code, outcome
    assert said in outcome.stdout
    if code == 4:
        where = "limit not decided: max greedy: share of passages recovered by greedy is "
        assert where in outcome.stderr
        assert f", within the limit of 0.5; {said}" in outcome.stderr


def test_an_evaluation_of_a_model_against_itself_decides_nothing(folder: Path) -> None:
    outcome = attn_surgery(
        *("evaluate", folder / "cut", "--baseline", folder / "cut-too"),
        *("--samples", folder / "recited.jsonl", "--prefix-length", 6, "--suffix-length", 5),
        *("--suite", "none", "--max-extraction", 0.5, "--device", "cpu"),
        *("--output", folder / "report"),
    )
    assert outcome.code == 4, outcome
    same = "the base has the same weights as the model, so no edit is judged"
    assert f"within the limit of 0.5; {same}\n" in outcome.stderr
    assert f"warning: {same}\n" in outcome.stderr


@pytest.mark.slow
def test_a_model_without_a_head_decides_nothing(tmp_path: Path) -> None:
    """It recites nothing, as it predicts nothing. The same with and without held-out text."""
    model = open_model("lab:pythia", device="cpu")
    torch.nn.init.zeros_(model.model.get_output_embeddings().weight)
    model.model.save_pretrained(tmp_path / "headless")
    model.tokenizer.save_pretrained(tmp_path / "headless")
    rows = samples_path("pythia").read_text(encoding="utf-8").splitlines()[:40]
    (tmp_path / "s.jsonl").write_text("\n".join(rows))
    pair = (tmp_path / "headless", "--baseline", "lab:pythia", "--samples", tmp_path / "s.jsonl")
    for command, *more in (
        ("audit", "--attack", "greedy", "--max", "greedy=0.1"),
        ("evaluate", "--suite", "none", "--max-extraction", 0.1, "--output", tmp_path / "out"),
    ):
        outcome = attn_surgery(command, *pair, *more, "--device", "cpu")
        assert outcome.code == 4, outcome
        assert "the model predicts nothing: its loss on " in outcome.stderr
        assert "is no better than that of a guess among its " in outcome.stderr
