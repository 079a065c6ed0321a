"""Contract: work goes on only by the code that began it, even where the version stays the same."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.jobs import result_folder
from evals.jobs.result_folder import Journals
from evals.run.journal import hash_program
from surgery.errors import SamplesError


def test_progress_of_other_code_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: Any = SimpleNamespace(check_unchanged=lambda: None)
    first = Journals(tmp_path / "out").open(dict, loaded)
    with first.open_to_append():
        first.append({"step": 1})
    again = Journals(tmp_path / "out").open(dict, loaded)
    assert again.read(dict) == [{"step": 1}]
    monkeypatch.setattr(result_folder, "hash_program", lambda: "other")
    changed = Journals(tmp_path / "out").open(dict, loaded)
    with pytest.raises(SamplesError, match="other inputs, options, or code; remove it"):
        changed.read(dict)


def test_the_hash_is_of_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_again = hash_program.__wrapped__
    assert hash_again() == hash_program()
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / "code.py"
    file.write_text("a = 1")
    monkeypatch.setitem(sys.modules, "evals", SimpleNamespace(__file__=str(tmp_path / "x.py")))
    found = {hash_program(), hash_again()}
    file.write_text("a = 2")
    found.add(hash_again())
    file.rename(tmp_path / "inner" / "other.py")
    found.add(hash_again())
    assert len(found) == 4
