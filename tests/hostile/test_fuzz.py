"""Contract: whatever a foreign file holds, it is read or refused with an error of ours.

A short run of `hostile.fuzz`; docs/robustness.md has the figures of a long one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile.fuzz import Outcome, feed, fuzz
from hostile.readers import Reader, readers


@pytest.mark.slow
def test_two_thousand_inputs(tmp_path: Path) -> None:
    outcomes = fuzz(readers(tmp_path), 2_000, seed=7)
    failures = [failure for outcome in outcomes.values() for failure in outcome.failures]
    assert not failures, failures[0]
    for name, outcome in outcomes.items():
        assert outcome.refused, f"{name}: nothing was hostile enough"
        assert outcome.inputs == outcome.read + outcome.refused.total(), name
    assert sum(outcome.inputs for outcome in outcomes.values()) > 1_900


@pytest.mark.parametrize(
    "problem", [ValueError("theirs"), KeyError("key"), MemoryError(), RecursionError(), OSError(5)]
)
def test_what_is_a_failure(tmp_path: Path, problem: Exception) -> None:
    def read(path: Path) -> object:
        raise problem

    outcome = Outcome()
    feed(Reader(tmp_path / "file", b"", read), b"input", outcome)
    assert (outcome.inputs, outcome.read, len(outcome.failures)) == (1, 0, 1)
    assert type(problem).__name__ in outcome.failures[0]
    kept = Path(outcome.failures[0].splitlines()[0])
    assert kept.read_bytes() == b"input"
    kept.unlink()
