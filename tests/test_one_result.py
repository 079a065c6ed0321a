"""Contract: a result is one thing, from the moment of measuring to the page.

A figure is a `Measured`, a limit on it is a `Limit`, and one module decides it. The five commands
that measure print one JSON, which one page documents, and one module prints its figures.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, attn_surgery
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from evals.choose.grid import GridEdit
from evals.choose.search.report import SearchResult
from evals.choose.sweep.report import SweepResult
from surgery.exporting import export
from surgery.record.manifest import Record
from surgery.record.measured import Change, Limit, Measured
from surgery.record.report import EditRecord, Named, Report, Result, Table

RESULTS: dict[str, type[Result]] = {
    **dict.fromkeys(("extract", "audit", "evaluate"), Report),
    "sweep": SweepResult,
    "search": SearchResult,
}


@cache
def parse() -> dict[str, ast.Module]:
    """Every source file of ours → what it holds."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for package in ("surgery", "evals", "cli")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def list_fields(made: ast.AST) -> Iterator[tuple[str, str]]:
    """Class → a field that it declares."""
    for node in ast.walk(made):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield node.name, line.target.id


def test_two_classes_have_an_interval() -> None:
    """The figure, and its change. A limit is a figure."""
    every = (one for made in parse().values() for one in list_fields(made))
    assert {name for name, field in every if field == "ci95"} == {"Measured", "Change"}
    assert issubclass(Limit, Measured)


def find_calls(name: str) -> set[str]:
    """The files that call a function of this name."""
    return {
        file
        for file, made in parse().items()
        for node in ast.walk(made)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name
    }


def test_one_module_decides_limits() -> None:
    assert find_calls("judge") == {"evals/table/limits.py"}
    assert find_calls("Limit") == {"evals/table/limits.py"}


def test_one_module_prints_figures() -> None:
    """Others print tables, but none of figures: nothing else of the command line knows them."""
    rooms = ("surgery.card.measurements", "surgery.record.measured", "evals.choose.grid")
    knowing = {
        file
        for file, made in parse().items()
        for node in ast.walk(made)
        if isinstance(node, ast.ImportFrom)
        and node.module in rooms
        and file.startswith("cli/")
        and {alias.name for alias in node.names} != {"State"}
    }
    assert knowing == {"cli/tables/figures.py"}
    assert knowing < find_calls("print_table")


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Command → its JSON, for a tiny model that was cut, its base, and 40 passages."""
    root, model = tmp_path_factory.mktemp("results"), tiny_model()
    save_tiny(root / "base", model)
    export(root / "base", "0", output=root / "cut")
    write_rows(root / "passages.jsonl", recited_rows(model, 40))
    (root / "text.txt").write_text(TEXT)
    given = ("--samples", root / "passages.jsonl", "--prefix-length", 6, "--suffix-length", 5)
    given += ("--device", "cpu", "--json")
    pair = (root / "cut", "--baseline", root / "base", "--heldout", root / "text.txt", *given)
    one = (root / "base", "--heldout", root / "text.txt", *given)
    limit = ("--attack", "greedy", "--max", "greedy=0.5")
    calls: dict[str, tuple[object, ...]] = {
        "extract": pair,
        "audit": (*pair, *limit),
        "evaluate": (*pair, *limit, "--suite", "none", "--output", root / "report"),
        "sweep": one,
        "search": (*one, "--max-extraction", 0.5, "--max-evaluations", 4, "--output", root / "out"),
    }
    found = {}
    for command, call in calls.items():
        outcome = attn_surgery(command, *call)
        assert outcome.code in (0, 4), outcome
        found[command] = outcome.json
    return found


@pytest.mark.parametrize("command", RESULTS)
def test_the_json_of_five_commands_is_one(printed: dict[str, Any], command: str) -> None:
    """It reads back, and what all of them have is in one schema."""
    found, kind = printed[command], RESULTS[command]
    assert kind.model_validate(found).to_dict() == found
    common = Result.model_validate({key: found[key] for key in Result.model_fields})
    assert common.command == command
    assert common.find("recited", "base") is not None
    assert {row.of for row in common.figures} >= {edit["of"] for edit in found["edits"]} != set()
    limited = [one.name for one in common.limits]
    assert bool(limited) == (command in ("audit", "evaluate", "search")), limited


DOCUMENTED: tuple[type[Record], ...] = (
    *(Measured, Change, Limit, Named, Table, EditRecord, GridEdit),
    *(Report, SweepResult, SearchResult),
)
OF_FIGURES = ("schema_version", "ci95", "p_value", "lacks")
"""Keys that no other JSON has."""


def test_one_page_documents_it() -> None:
    pages = {path.name: path.read_text() for path in (ROOT / "docs").rglob("*.md")}
    page = pages.pop("report.md")
    keys = {key for kind in DOCUMENTED for key in kind.model_fields}
    assert {key for key in keys if not re.search(rf'[`"]{key}[`"]', page)} == set()
    for name, text in pages.items():
        told = {key for key in OF_FIGURES if re.search(rf"`{key}`", text)}
        assert not told, f"docs/{name} repeats {told}"
    assert not Path(ROOT / "evals" / "report").exists()
