"""Contract: no sentence of a report can carry a passage out of this machine.

- Of an untouched report everything is published but a task's description and the reasons why rows
  were left out; warnings then go without reasons.
- A sentence that is not the one its figures tell is refused, by its key. What stays behind may hold
  anything, and is nowhere in what is sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from checkpoints import neox_config, write_checkpoint
from example_report import bare, example, settled, task

import surgery
from evals.benchmarks.tasks import asked
from evals.evaluation.conclusions import edit_of
from evals.evaluation.page import pages
from evals.evaluation.report import Report
from evals.publication.report import public_report, publication, told
from evals.publication.text import texts_in
from surgery.errors import OutputError
from surgery.record.manifest import read_manifest

PASSAGE = "Some years ago, never mind how long precisely, having little or no money in my p"
FILE = Path("out/report.json")
NOTES = {
    "left_out": [{"id": "row-3", "reason": "prefix and suffix together tokenize otherwise"}],
    "reservations": [{"id": "row-5", "reason": "cut after 64 tokens"}],
}


def measured(**changes: Any) -> dict[str, Any]:
    """A report whose sentences are those of `evaluate`, with rows left out and a described task."""
    found = example(**changes)
    found["tasks"]["copy"]["description"] = "Copies."
    found["tasks"].setdefault("lambada_openai", found["tasks"]["copy"])
    found["extraction"]["samples"] |= NOTES
    return settled(found)


@pytest.mark.parametrize(
    "report",
    [
        measured(),
        measured(relation="unrelated"),
        measured(settings={**example()["settings"], "limit": 20}),
        measured(tasks={name: task(0.9, 0.1) for name in ["copy", *map(str, range(57))]}),
        settled(bare()),
    ],
    ids=["whole", "unrelated", "limit", "many", "bare"],
)  # fmt: skip
def test_an_untouched_report_is_published(report: dict[str, Any]) -> None:
    sent, made = publication(report, FILE)
    assert made == pages(sent)
    assert sent["verdict"] == report["verdict"]
    for part in ("gates", "heldout", "trade_off", "commands"):
        assert sent[part] == report[part], part
    if report["extraction"] is not None:
        assert report["warnings"][0].startswith("1 rows left out, the first 'row-3': prefix and")
        assert sent["warnings"][:2] == [
            "1 rows left out, the first 'row-3'",
            "1 rows kept with a reservation, the first 'row-5'",
        ]
        assert report["tasks"]["copy"]["description"] == "Copies."
        assert "Copies." not in json.dumps(sent)
        assert sent["tasks"]["lambada_openai"]["description"] == asked("lambada_openai", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("published")
    source = write_checkpoint(work / "source", neox_config(max_position_embeddings=64))
    return surgery.export(source, "1", output=work / "edited").output


def at(report: Any, path: str) -> tuple[Any, Any]:
    """The dict or list that holds the value at a path, and the value's key in it."""
    *way, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in way:
        report = report[key]
    return report, last


REFUSED = [
    "verdict", "commands/0", "warnings/0", "tasks/copy/verdict",
    "tasks/copy/metrics/acc/verdict", "gates/0/name", "gates/0/description", "gates/1/description",
    "heldout/verdict", "trade_off/note", "trade_off/points/0/label", "trade_off/points/1/label",
    "trade_off/points/2/label", "extraction/warnings/0", "edit/drop_attn",
    "extraction/paired/selectivity/definition",
]  # fmt: skip


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("also", [True, False], ids=["whole", "after our words"])
def test_a_sentence_of_another_hand_is_refused(path: str, also: bool) -> None:
    report = deepcopy(measured())
    place, key = at(report, path)
    place[key] = PASSAGE if also else f"{place[key]} {PASSAGE}"
    shown = ".".join(part for part in path.split("/") if not part.isdigit())
    with pytest.raises(OutputError) as refusal:
        publication(report, FILE)
    assert str(refusal.value) == (
        f"out/report.json: {shown} may show the text of passages, which is never published; "
        "evaluate again without `show_text=True`, or remove the report"
    )


@pytest.mark.parametrize("name", ["warnings", "commands", "gates"])
def test_one_more_sentence_is_refused(name: str) -> None:
    report = measured()
    more = {**report["gates"][0], "description": PASSAGE} if name == "gates" else PASSAGE
    with pytest.raises(OutputError, match=f"{name} may show the text of passages"):
        publication({**report, name: [*report[name], more]}, FILE)


@pytest.mark.parametrize(
    "path",
    ["tasks/copy/description", "extraction/samples/left_out/0/reason",
     "extraction/samples/reservations/0/reason"],
)  # fmt: skip
def test_what_no_figure_tells_stays_behind(path: str) -> None:
    report = deepcopy(measured())
    place, key = at(report, path)
    place[key] = PASSAGE
    sent, made = publication(told(Report.model_validate(report)).to_dict(), FILE)
    assert PASSAGE not in json.dumps([sent, made])


def test_the_card_shows_what_was_measured_of_the_whole(folder: Path) -> None:
    """Against the source, and not of a part; a report of anything else is not published."""
    record = (folder / "surgery.json").read_bytes()
    recorded = read_manifest(folder)
    assert recorded is not None

    def of(**changes: Any) -> dict[str, Any]:
        report = example(**{"edit": edit_of(recorded).model_dump(mode="json"), **changes})
        provenance = report["provenance"]
        provenance["edited"]["manifest_sha256"] = hashlib.sha256(record).hexdigest()
        provenance["base"]["content"] = recorded.edit.source.content
        return settled(report)

    whole = public_report(of(), FILE, record)
    assert whole.measured is not None
    assert whole.measured.verdict == json.loads(whole.files["report.json"])["verdict"]
    part = public_report(of(settings={**example()["settings"], "limit": 2000}), FILE, record)
    assert part.measured is not None
    assert part.measured.extraction == whole.measured.extraction
    assert part.measured.tasks == {}
    assert "measured in part (--limit)" in part.measured.warnings[-1]
    forged = of()
    forged["provenance"]["base"]["content"] = "0" * 64
    for other in (of(relation="unrelated"), forged):
        with pytest.raises(OutputError, match="is not known to be the source"):
            public_report(other, FILE, record)
    with pytest.raises(OutputError, match=r"edit is not that of surgery\.json"):
        public_report(of(edit=example()["edit"]), FILE, record)
    with pytest.raises(OutputError, match="is of another model"):
        public_report(of(), FILE, record.replace(b"{", b"{ ", 1))


WORDS = "we shall fight on the beaches of france"
FREE = {
    "models/base", "models/edited", "settings/samples", "settings/controls/name",
    "extraction/samples/source", "edit/source", "edit/calibration/sources/name",
    *(f"provenance/{role}/model" for role in ("base", "edited")),
    *(f"extraction/provenance/{role}/model" for role in ("model", "baseline")),
    "audit/attacks/name",
    "audit/attacks/setting", "audit/attacks/definition", "audit/attacks/source",
    "audit/attacks/cost", "verdict", "commands", "warnings", "tasks/verdict", "gates/name",
    "gates/description", "heldout/verdict", "all_passages/heldout/verdict",
    "trade_off/points/label", "trade_off/note",
    "extraction/warnings", "extraction/paired/selectivity/definition", "edit/drop_attn",
}  # fmt: skip
"""Names, which are short, and sentences, which are made anew."""


def strings(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, path)
    elif not isinstance(value, bool):
        yield path


def test_words_stand_nowhere_but_in_names() -> None:
    """In place of any string or number, under every key; a task's sentence is under its name."""
    accepted = {path for path in set(strings(measured())) if not [*texts_in(WORDS, path)]}
    found = {"/".join(path) for path in accepted if path[0] != "tasks"}
    assert found <= FREE, found - FREE
    assert {path[-1] for path in accepted if path[0] == "tasks"} == {"verdict"}
