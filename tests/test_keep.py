"""Contract: finished parts are not made again, and are never taken for others: not those of another
model, text, option, version, or code.

A file is whole or counts as missing, and a folder that cannot be written costs only time.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_tokenizer import save_tiny

from evals.choose.search.request import SearchRequest
from evals.measure.edits.engine import Engine
from evals.run.groups import list_tool_versions as list_them
from evals.run.keep import (
    ASIDE,
    Store,
    find_cache,
    hash_program,
    hash_question,
    identify,
    keep,
)
from evals.run.models import LoadedModel, open_model
from surgery.selection import EditedHeads

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, eq=False)
class Made:
    flags: np.ndarray[Any, Any]
    by_pair: dict[tuple[str, int], float]
    names: tuple[str, ...] = ()
    note: str = field(default="", metadata=ASIDE)


def make(**changes: Any) -> Made:
    return replace(Made(np.arange(6).reshape(2, 3) > 2, {("a", 1): 0.5}, ("x",)), **changes)


def refuse() -> Any:
    raise AssertionError("it was done before")


def test_what_was_computed_comes_back_as_it_was(tmp_path: Path) -> None:
    store, made = keep(tmp_path / "cache", "question"), make()
    value = {"made": [made, None], "$odd": (1.5, "text"), "count": np.int64(3)}
    assert store.get("part", lambda: value) is value
    again = store.get("part", refuse, Made)
    assert (again["$odd"], again["count"], again["made"][1]) == ((1.5, "text"), 3, None)
    found = again["made"][0]
    assert found.flags.dtype == bool
    assert found.flags.tolist() == made.flags.tolist()
    assert (found.by_pair, found.names) == (made.by_pair, made.names)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    for folder in (tmp_path / "cache", tmp_path / "cache" / store.question):
        assert folder.stat().st_mode & 0o77 == 0, "it may hold passages"
    assert Store().get("part", lambda: 7) == 7, "nothing is kept anywhere"


def test_other_work_has_another_name(tmp_path: Path) -> None:
    given = [
        *("a", 1, 1.5, None, (1, 2), {"a": 1}, {"a": 2}, EditedHeads(0, (1,), "zero"), make()),
        make(flags=np.zeros((2, 3), dtype=bool)),
        make(by_pair={("a", 2): 0.5}),
        *(np.zeros(4), np.zeros((2, 2)), np.zeros(4, dtype=np.float32)),
    ]
    names = [hash_question(one) for one in given]
    assert len({*names}) == len(given)
    assert keep(tmp_path, "a").narrow("more").question not in (keep(tmp_path, "a").question, *names)
    assert names[8] == hash_question(make(note="of no account"))
    with pytest.raises(TypeError, match="nothing says what identifies PosixPath"):
        identify(tmp_path)  # by what was read from it


def test_an_option_counts_if_it_can_change_a_result(tmp_path: Path) -> None:
    asked = {"model": "m", "samples": "s.jsonl", "max_extraction": 0.1}
    first = SearchRequest.of(**asked)
    for same in ({"model": "n"}, {"heldout": (tmp_path,)}, {"no_cache": True}, {"device": "cpu"}):
        assert identify(SearchRequest.of(**{**asked, **same})) == identify(first), same
    for other in ({"max_extraction": 0.2}, {"grain": "heads"}, {"batch_size": 3}, {"seed": 1}):
        assert identify(SearchRequest.of(**{**asked, **other})) != identify(first), other


@pytest.mark.parametrize("what", ["torch", "peft", "lm-eval", "code"])
def test_work_of_other_versions_or_code_is_not_taken_up(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, versions = SearchRequest.of(model="m", samples="s", max_extraction=0.1), list_them()
    assert {"torch", "transformers", "lm-eval", "datasets", "numpy"} <= versions.keys()
    before = request.run.store.question
    if what == "code":
        monkeypatch.setattr("evals.run.groups.hash_program", lambda: "other")
    else:
        changed = {**versions, what: "0.1"}
        monkeypatch.setattr("evals.run.groups.list_tool_versions", lambda: changed)
    assert request.run.store.question != before


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "no JSON",
        "[1, ",
        "[" * 100_000,
        '{"$array": ["|O", [1], "AAAA"]}',
        '{"$made": ["A", {}]}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    store = keep(tmp_path, "question")
    assert store.get("part", lambda: [0]) == [0]
    (file,) = tmp_path.rglob("*.json")
    file.write_text(damage)
    assert store.get("part", lambda: [1]) == [1]
    assert store.get("part", refuse) == [1]


def test_nothing_is_made_but_what_is_asked_for(tmp_path: Path) -> None:
    store = keep(tmp_path, "question")
    store.get("part", make)
    assert store.get("part", refuse, Made).names == ("x",)
    assert store.get("part", lambda: 1) == 1


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = keep(tmp_path / "file" / "below", "question")
    assert [store.get("part", lambda: 1) for _ in range(2)] == [1, 1]


# --- models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_model_is_its_content_and_how_it_runs(folder: Path, tmp_path: Path) -> None:
    first = identify(open_model(str(folder), device="cpu"))
    moved = folder.rename(tmp_path / "moved")
    assert identify(open_model(str(moved), device="cpu")) == first
    assert identify(open_model(str(moved), device="cpu", dtype="bfloat16")) != first
    flip_last_byte(moved / WEIGHTS)
    assert identify(open_model(str(moved), device="cpu")) != first


def test_batches_of_other_edits_rows_or_settings_are_not_taken_up(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.data import Samples

    rows = np.random.default_rng(0).integers(1, 250, (8, 11), dtype=np.int32)
    samples = Samples(rows, 6, tuple("abcdefgh"), "here")
    one, other = ((EditedHeads(block, (0, 1), "zero"),) for block in (0, 1))
    ran: list[object] = []
    measure = Engine._measure_batch
    monkeypatch.setattr(
        Engine, "_measure_batch", lambda *given: ran.append(given) or measure(*given)
    )

    def count(*edits: Any, some: Samples = samples, **options: Any) -> int:
        ran.clear()
        store = loaded.narrow(Store(tmp_path))
        Engine(loaded.model, some, batch_size=4, store=store, **options).measure(edits)
        return len(ran)

    assert [count(one), count(one)] == [2, 0]
    assert [count(other), count(one, other), count(one)] == [2, 2, 0]
    assert count(one, layout="stock") == 2
    assert count(one, some=replace(samples, prefix_length=5)) == 2
    assert count(one, some=samples.select(np.arange(8) < 6)) == 1, "its first batch is known"


# --- where it is, and what made it


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ATTN_SURGERY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_cache() == tmp_path / "attn-surgery"
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(tmp_path / "own"))
    assert find_cache() == tmp_path / "own"
    monkeypatch.delenv("ATTN_SURGERY_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.expanduser", fail)  # as where nobody has a home
    assert find_cache() == Path("~/.cache/attn-surgery")


def test_the_hash_of_the_program_is_of_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
