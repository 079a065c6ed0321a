"""Contract: finished work is not done again, by whoever shares the folder, and is never taken
for other work: not that of another model, text, option, version, or code.

A file is whole or counts as missing, and a folder that cannot be written costs only time. Of two
that want the same, one waits. Nothing is kept of a model that has changed meanwhile.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_tokenizer import save_tiny

from evals.choose.search.request import SearchRequest
from evals.measure.edits.engine import Engine
from evals.run.models import LoadedModel, open_model
from surgery import store as store_module
from surgery.selection import EditedHeads
from surgery.store import ASIDE, Store, find_cache, hash_program, identify

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
    store, made = Store(tmp_path / "cache"), make()
    value = {"made": [made, None], "$odd": (1.5, "text"), "count": np.int64(3)}
    assert store.get("key", lambda: value) is value
    again = store.get("key", refuse, Made)
    assert again["$odd"] == (1.5, "text")
    assert again["count"] == 3
    ((found, nothing),) = [again["made"]]
    assert nothing is None
    assert found.flags.dtype == bool
    assert found.flags.tolist() == made.flags.tolist()
    assert (found.by_pair, found.names) == (made.by_pair, made.names)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())  # no lock stays
    assert (tmp_path / "cache").stat().st_mode & 0o77 == 0, "it may hold passages"
    assert json.loads(gzip.decompress(file.read_bytes()))["key"] == ["key"]
    assert Store().get("key", lambda: 7) == 7, "nothing is kept anywhere"


def test_other_work_has_another_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    given = [
        *("a", 1, 1.5, None, (1, 2), {"a": 1}, {"a": 2}, EditedHeads(0, (1,), "zero"), make()),
        make(flags=np.zeros((2, 3), dtype=bool)),
        make(by_pair={("a", 2): 0.5}),
        *(np.zeros(4), np.zeros((2, 2)), np.zeros(4, dtype=np.float32)),
    ]
    names = [store.name(identify(one)) for one in given]
    assert len({*names, store.narrow("more").name(identify("a"))}) == len(given) + 1
    assert names[8] == store.name(identify(make(note="of no account")))
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
    request = SearchRequest.of(model="m", samples="s.jsonl", max_extraction=0.1)
    versions, _ = request.run.store.given
    assert {"torch", "transformers", "lm-eval", "datasets", "numpy"} <= versions.keys()
    before = request.run.store.name("key")
    if what == "code":
        monkeypatch.setattr("evals.run.groups.hash_program", lambda: "other")
    else:
        changed = {**versions, what: "0.1"}
        monkeypatch.setattr("evals.run.groups.list_tool_versions", lambda: changed)
    assert request.run.store.name("key") != before


@pytest.mark.parametrize("damage", [b"", b"not gzip", "truncated", "other key", "value", "nested"])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: bytes | str) -> None:
    store = Store(tmp_path)
    store.keep("key", list(range(1000)))
    (file,) = tmp_path.rglob("*.json.gz")
    whole = file.read_bytes()
    bad: dict[str, bytes] = {
        "truncated": whole[: len(whole) // 2],
        "nested": gzip.compress(b"[" * 100_000),
        "other key": gzip.compress(b'{"key": ["other"], "value": 1}'),
        "value": gzip.compress(b'{"key": ["key"], "value": {"$array": ["|O", [1], "AAAA"]}}'),
    }
    file.write_bytes(damage if isinstance(damage, bytes) else bad[damage])
    assert store.find("key") is None
    assert store.get("key", lambda: [1]) == [1]
    assert store.get("key", refuse) == [1]


def test_nothing_is_made_but_what_is_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep("key", make())
    assert store.find("key") is None
    assert store.find("key", Made) is not None


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "below")
    assert [store.get("key", lambda: 1) for _ in range(2)] == [1, 1]


def test_who_wants_the_same_waits_for_it(tmp_path: Path) -> None:
    begun, ends, found = threading.Event(), threading.Event(), list[int]()

    def compute() -> int:
        begun.set()
        ends.wait(60)
        return 5

    first = threading.Thread(target=lambda: found.append(Store(tmp_path).get("key", compute)))
    second = threading.Thread(target=lambda: found.append(Store(tmp_path).get("key", refuse)))
    first.start()
    assert begun.wait(60)
    second.start()
    assert Store(tmp_path).get("other", lambda: 1) == 1, "other work waits for nobody"
    time.sleep(0.1)
    assert not found
    ends.set()
    first.join(60)
    second.join(60)
    assert found == [5, 5]


KILLED = """
import os, sys, time
from pathlib import Path
from surgery.store import Store

def compute():
    print("begun", flush=True)
    time.sleep(60)

Store(Path(sys.argv[1])).get("key", compute)
"""


def test_who_is_killed_keeps_nobody_waiting(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert Store(tmp_path).get("key", lambda: 3) == 3
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert kept.suffix == ".gz"


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


def test_own_code_counts_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.py"
    file.write_text("A = 1\n")
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(__file__=str(file)))
    found = [identify("mine:A")]
    store_module._hash_own.cache_clear()
    file.write_text("A = 2\n")
    found.append(identify("mine:A"))
    store_module._hash_own.cache_clear()
    assert found[0] != found[1]
    assert identify("hints:2") == "hints:2"
