"""Contract: a bed of attackers has each way once for each strength, keeps apart what it taught and
what it tests, and tells the command that repeats it without a path.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.attackers import COLUMNS, TUNED, Bed, _tell, main
from benchmarks.rivals.bed import write_samples
from evals.measure.attacks.relearn_strongest import list_kinds

BED = Bed(
    "lab:gpt-neo", "lab:gpt-neo", (), ("lab:gpt-neo",), "4-5:identity", "1", None, None, Path("o"),
    (20, 60), (),
)  # fmt: skip


def test_each_way_is_there_once_for_each_strength() -> None:
    names = list(BED.list_defenses())
    assert len({BED.place(name) for name in names}) == len(names) == 2 + 2 * 2 * (2 + 1) + 1
    for way in ("the cut", "context:8"):
        assert f"erased by {way}, hardened, 60 steps" in names
    private = replace(BED, public="lab:pythia", steps=(60,)).list_defenses()
    assert {"erased by the public base", "trained again on what is not listed"} < {*private}


def test_tuned_trainings_are_of_the_grid_of_the_attack() -> None:
    assert {one.learned for one in TUNED} <= {kind.name for kind in list_kinds()}


def test_records_that_are_kept_are_not_those_that_test_the_form(tmp_path: Path) -> None:
    unseen = BED.passages.select(~BED.passages.trained_on)
    write_samples(replace(unseen, members=None, counts=None), tmp_path / "never.jsonl")
    tested = replace(BED, never=tmp_path / "never.jsonl").unseen
    every = {row.tobytes() for row in unseen.tokens}
    assert {row.tobytes() for row in tested} < every
    assert len(tested) == len(every) // 2
    assert len(BED.unseen) == len(every)


def test_a_command_is_told_without_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def catch(context: click.Context) -> None:
        told.append(_tell(context))

    monkeypatch.setattr(main, "invoke", catch)
    given = "--cut 0:zero --teacher 1 --twin /home/me/twin --steps 20 --steps 60 --tuned 0 --only"
    model = tmp_path / "model"
    model.mkdir()
    CliRunner().invoke(main, [str(model), *given.split(), "erased by*", "--output", "/tmp/o"])
    assert told == [
        "model --cut 0:zero --teacher 1 --twin twin --steps 20 --steps 60 --tuned 0 "
        "--only 'erased by*' --output o"
    ]


def test_columns_have_keys_of_their_own() -> None:
    assert len({column.key for column in COLUMNS}) == len(COLUMNS)
