"""Reads what `sweep` and `search` print and write."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from command_line import Outcome

from evals.choose.grid import GridEdit, GridResult
from evals.choose.search.report import SearchResult
from evals.choose.sweep.report import SweepResult
from surgery.record.measured import Measured, On

R = TypeVar("R", bound=GridResult)


def read_sweep(found: Outcome) -> SweepResult:
    """What a sweep printed with --json."""
    assert found.code == 0, found.stderr
    return _read(SweepResult, found.stdout)


def read_search(found: Outcome | Path) -> SearchResult:
    """What a search printed with --json, or wrote into a folder."""
    if isinstance(found, Path):
        return _read(SearchResult, (found / "search.json").read_text())
    assert found.code == 0, found.stderr
    return _read(SearchResult, found.stdout)


def _read(form: type[R], text: str) -> R:
    """Every figure is of a model of the result."""
    result = form.model_validate_json(text)
    units = result.estimates if isinstance(result, SweepResult) else []
    known = {"base"} | {edit.of for edit in (*result.edits, *units)}
    assert {row.of for row in (*result.figures, *result.limits)} <= known
    return result


def take(result: GridResult, name: str, of: str | None = "base", on: On | None = None) -> Measured:
    """A figure that must be there."""
    assert of is not None
    row = result.find(name, of, on)
    assert row is not None, (name, of, on)
    return row


def value(result: GridResult, name: str, of: str | None = "base", on: On | None = None) -> float:
    found = take(result, name, of, on).value
    assert found is not None
    return found


def find_edit(result: GridResult, spec: str, variant: str) -> GridEdit:
    (found,) = (one for one in result.edits if (one.spec, one.variant) == (spec, variant))
    return found


def list_names(result: GridResult, of: str) -> set[str]:
    """The figures of a model."""
    return {row.name for row in result.figures if row.of == of}
