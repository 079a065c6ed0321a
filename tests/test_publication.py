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
from surgery.card.facts import as_line
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
    edit = found["edits"][0]
    edit["tasks"]["copy"]["description"] = "Copies."
    edit["tasks"].setdefault("lambada_openai", edit["tasks"]["copy"])
    edit["extraction"]["samples"] |= NOTES
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
    for part in ("front", "commands", "settings"):
        assert sent[part] == report[part], part
    ours, theirs = report["edits"][0], sent["edits"][0]
    for part in ("verdict", "gates", "heldout"):
        assert theirs[part] == ours[part], part
    if ours["extraction"] is not None:
        assert ours["warnings"][0].startswith("1 rows left out, the first 'row-3': prefix and")
        assert theirs["warnings"][:2] == [
            "1 rows left out, the first 'row-3'",
            "1 rows kept with a reservation, the first 'row-5'",
        ]
        assert ours["tasks"]["copy"]["description"] == "Copies."
        assert "Copies." not in json.dumps(sent)
        assert theirs["tasks"]["lambada_openai"]["description"] == asked("lambada_openai", {})


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
    "commands/0", "front/1/label",
    *(f"edits/0/{path}" for path in (
        "verdict", "warnings/0", "tasks/copy/verdict", "tasks/copy/metrics/acc/verdict",
        "gates/0/name", "gates/0/description", "gates/1/description", "heldout/verdict",
        "extraction/warnings/0", "edit/drop_attn", "extraction/paired/selectivity/definition",
    )),
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
    place = report if name == "commands" else report["edits"][0]
    more = {**place["gates"][0], "description": PASSAGE} if name == "gates" else PASSAGE
    place[name] = [*place[name], more]
    with pytest.raises(OutputError, match=f"{name} may show the text of passages"):
        publication(report, FILE)


@pytest.mark.parametrize(
    "path",
    ["tasks/copy/description", "extraction/samples/left_out/0/reason",
     "extraction/samples/reservations/0/reason"],
)  # fmt: skip
def test_what_no_figure_tells_stays_behind(path: str) -> None:
    report = deepcopy(measured())
    place, key = at(report["edits"][0], path)
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
        ours = hashlib.sha256(record).hexdigest()
        report["edits"][0]["provenance"]["manifest_sha256"] = ours
        report["base"]["provenance"]["content"] = recorded.edit.source.content
        return settled(report)

    whole = public_report(of(), FILE, record)
    assert whole.measured is not None
    verdict = json.loads(whole.files["report.json"])["edits"][0]["verdict"]
    assert as_line(verdict) in whole.measured.text
    assert "copy, acc" in whole.measured.text
    part = public_report(of(settings={**example()["settings"], "limit": 2000}), FILE, record)
    assert part.measured is not None
    assert [one["metric_type"] for one in part.measured.results] == [
        "exact_match", "next_token_accuracy",
    ]  # fmt: skip
    assert "copy, acc" not in part.measured.text
    assert "(--limit)" in part.measured.text
    forged = of()
    forged["base"]["provenance"]["content"] = "0" * 64
    for other in (of(relation="unrelated"), forged):
        with pytest.raises(OutputError, match="is not known to be the source"):
            public_report(other, FILE, record)
    with pytest.raises(OutputError, match=r"edit is not that of surgery\.json"):
        public_report(of(edit=example()["edits"][0]["edit"]), FILE, record)
    with pytest.raises(OutputError, match="is of another model"):
        public_report(of(), FILE, record.replace(b"{", b"{ ", 1))


WORDS = "we shall fight on the beaches of france"
FREE = {
    "base/name", "base/provenance/model", "settings/models", "settings/baseline",
    "settings/samples", "settings/control", "settings/include_path", "settings/front",
    "provenance/controls/name", "commands", "front/label",
    *(f"edits/{path}" for path in (
        "name", "provenance/model", "extraction/samples/source", "edit/source",
        "edit/calibration/sources/name", "audit/attacks/name",
        *(f"extraction/provenance/{role}/model" for role in ("model", "baseline")),
        *(f"audit/attacks/{key}" for key in ("setting", "definition", "source", "cost")),
        "verdict", "warnings", "gates/name", "gates/description", "heldout/verdict",
        "all_passages/heldout/verdict", "extraction/warnings",
        "extraction/paired/selectivity/definition", "edit/drop_attn",
    )),
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
    of_tasks = {path for path in accepted if path[:2] == ("edits", "tasks")}
    found = {"/".join(path) for path in accepted - of_tasks}
    assert found <= FREE, found - FREE
    assert {path[-1] for path in of_tasks} == {"verdict"}
