"""Contract: a report that leaves this machine has no place for the text of a passage.

- The manifest records the report and its pages. One that was changed, or that belongs to another
  model, is refused, and its figures are on the card as they are in the report.
- The schema takes numbers, hashes, names, and sentences of one line: nothing under any other key.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import snapshot
from example_report import (
    alone,
    ask_for,
    bare,
    example,
    example_of,
    measurement_of,
    put_report,
)
from pydantic import ValidationError

import surgery
from cli.commands.edit.export import command as export
from cli.commands.edit.heal import command as heal
from cli.commands.measure.evaluate import command as evaluate
from evals.jobs.evaluating import attach
from evals.run.statistics import Interval
from evals.table.measured import measure_value
from surgery.card.facts import as_line
from surgery.card.measurements import Shown, build_measurements, list_tables, show
from surgery.errors import ManifestError, OutputError
from surgery.publishing.upload import find_publishable
from surgery.record.manifest import Manifest, read_manifest
from surgery.record.report import Report
from surgery.record.reports import read_report

pytestmark = pytest.mark.usefixtures("blank_pictures")
PASSAGE = "Some years ago, never mind how long precisely, having little or no money in my p"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edited model with the example as its report."""
    work = tmp_path_factory.mktemp("published")
    source = write_checkpoint(work / "source", neox_config(max_position_embeddings=64))
    folder = surgery.export(source, "1", output=work / "edited").output
    put_report(folder, example_of(folder))
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "edited"))


def manifest_of(folder: Path) -> Manifest:
    found = read_manifest(folder)
    assert found is not None
    return found


@pytest.mark.parametrize("make", [example, bare, alone])
def test_a_report_reads_back_as_it_was_written(make: Callable[[], Report]) -> None:
    report = make()
    assert Report.model_validate_json(report.to_text()).to_dict() == report.to_dict()


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inner, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def test_a_report_that_was_changed_is_refused(folder: Path) -> None:
    """Every number, every sentence, and its pages."""
    manifest, file = manifest_of(folder), folder / "report.json"
    (whole, sent), text = read_report(folder, manifest), file.read_text()
    assert whole is not None
    assert set(sent) == {"report.json", "report.html", "report.md"}
    report = json.loads(text)
    sentences = [("edits", 0, "verdict"), ("names", "recited", "label")]
    for *way, last in [*numbers(report), *sentences]:
        place = reduce(getitem, way, report)
        before, place[last] = place[last], 7 if isinstance(place[last], float) else PASSAGE
        file.write_text(json.dumps(report))
        with pytest.raises(
            OutputError, match=r"report\.json: is not the one that surgery\.json re"
        ):
            read_report(folder, manifest)
        place[last] = before
    file.write_text(text)
    for name in ("report.html", "report.md"):
        page = (folder / name).read_text()
        (folder / name).write_text(page + PASSAGE)
        with pytest.raises(OutputError, match=rf"{name}: is not the one that surgery\.json"):
            read_report(folder, manifest)
        (folder / name).write_text(page)
    file.unlink()
    with pytest.raises(OutputError, match=r"report\.json: is missing"):
        read_report(folder, manifest)


def test_a_report_is_put_beside_its_model_whole_or_not_at_all(folder: Path) -> None:
    """With its card. One of a model that has changed since, or whose card is broken, is not."""
    before = snapshot(folder)
    with pytest.raises(OutputError, match="changed while it was measured; evaluate it again"):
        attach(measurement_of(example()), 0, folder)
    evaluation, card = measurement_of(example_of(folder)), folder / "README.md"
    whole = card.read_text()
    card.write_text(whole.replace("<!-- /attn-surgery:limits -->", ""))
    with pytest.raises(ManifestError, match="lacks one of the comments around it"):
        attach(evaluation, 0, folder)
    card.write_text(whole)
    assert snapshot(folder) == before
    attach(evaluation, 0, folder)
    report, _ = read_report(folder, manifest_of(folder))
    assert report is not None
    assert report.edits[0].name == folder.name
    assert as_line(report.edits[0].verdict) in card.read_text()


def test_a_report_that_no_manifest_records_is_refused(folder: Path) -> None:
    """As earlier versions left one. A folder without any file of a report has none."""
    manifest = manifest_of(folder).model_copy(update={"reports": {}})
    (folder / "surgery.json").write_text(manifest.to_text())
    with pytest.raises(OutputError, match=r"remove it, and evaluate again"):
        find_publishable(folder)
    for name in ("report.json", "report.html", "report.md"):
        (folder / name).unlink()
    assert read_report(folder, manifest) == (None, {})


def test_the_report_of_another_model_is_refused_whatever_is_recorded(folder: Path) -> None:
    for report, words in (
        (example(), "belongs to another model"),
        (example_of(folder, relation="unrelated"), "that is not recorded as the source"),
    ):
        put_report(folder, report)
        with pytest.raises(OutputError, match=words):
            read_report(folder, manifest_of(folder))


COMMANDS = {"export": export, "heal": heal, "evaluate": evaluate}
LINEAR = [{"block": 1, "heads": [0, 1, 2, 3], "variant": "linear"}]


def test_an_earlier_schema_is_refused_in_one_line(folder: Path) -> None:
    earlier = {"schema_version": 5, "figures": [], "edits": []}
    put_report(folder, example_of(folder), **{"report.json": json.dumps(earlier)})
    what = r"is a report of another version of attn-surgery \(expected schema 6, got 5\); evaluate"
    with pytest.raises(OutputError, match=what):
        find_publishable(folder)


def test_the_card_shows_what_was_measured_of_the_whole(folder: Path) -> None:
    """And of a part only what was measured whole."""
    report = example_of(folder)
    whole = build_measurements(report)
    assert whole is not None
    assert as_line(report.edits[0].verdict) in whole.text
    assert "copy, acc" in whole.text
    said = ["only a part of each benchmark was measured (limit)"]
    part = build_measurements(example_of(folder, asked=ask_for(limit=2000), warnings=said))
    assert part is not None
    assert [one["metric_type"] for one in part.results] == ["exact_match", "next_token_accuracy"]
    assert "copy, acc" not in part.text
    assert "(limit)" in part.text
    assert build_measurements(example_of(folder, relation="unrelated")) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("edits/0/passages/0/prefix", "Call me Ishmael"),
        ("edits/0/passages/0/id", "\u767d\u9be8"),
        ("edits/0/passages/0/tokens", [464, 3797]),
        ("edits/0/passages/0/baseline/text", "Call"),
        ("edits/0/provenance/note", ["Call me Ishmael"]),
        ("edits/0/provenance/Call me Ishmael", "x"),
        ("edits/0/name", PASSAGE * 3),
        ("edits/0/name", "Call me\nIshmael"),
        ("edits/0/verdict", PASSAGE * 99),
        ("edits/0/Call", "me Ishmael"),
        ("figures/0/rows", [{"Text": "Call me Ishmael"}]),
        ("figures/0/text", "Call me Ishmael"),
        ("figures/0/details/note", "Call me\nIshmael"),
        ("figures/0/details/rows", ["Call me Ishmael"]),
        ("figures/0/on", "another"),
        ("figures/0/of", "nobody"),
        ("figures/0/unit", "text"),
        ("figures/1/of", "base"),
        ("figures/1/name", "nameless"),
        ("names/recited/text", "Call me Ishmael"),
        ("names/recited/label", "Call me\nIshmael"),
        ("limits/0/text", "Call me Ishmael"),
        ("limits/0/description", "Call me\nIshmael"),
        ("tables/0/rows", ["Call me Ishmael"]),
        ("samples/text", "Call me Ishmael"),
        ("settings/text", [["Call"]]),
        ("text", "Call me Ishmael"),
        ("schema_version", 5),
    ],
)
def test_there_is_no_place_for_text(path: str, value: Any) -> None:
    report = example().to_dict()
    *way, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    reduce(getitem, way, report)[last] = value
    with pytest.raises(ValidationError):
        Report.model_validate(report)


def test_what_is_not_finite_is_no_figure() -> None:
    """Hours after the measurement began, it is no error."""
    for value in (float("inf"), float("nan")):
        row = measure_value("task.copy", value, Interval(0.0, value), n=1267)
        assert (row.value, row.ci95) == (None, None)
        made = bare(tasks=[row])
        ((_, (line,)),) = list_tables(made)
        assert show(made, line, row) == Shown("", "", "", "not finite", "")


def test_a_passage_with_a_sentence_as_its_name_is_named_by_its_hash_alone() -> None:
    from evals.data.samples import list_row_warnings

    left_out = [{"id": PASSAGE, "reason": "it is short"}]
    noted = {"longer": {"passages": 0}, "left_out": left_out, "reservations": []}
    assert list_row_warnings(noted) == ["1 rows left out: it is short"]
