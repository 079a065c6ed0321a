"""Contract: a report that leaves this machine has no place for the text of a passage.

- An untouched report is sent as it is. One that was changed after it was written is refused. Even
  if someone seals it again, its sentences are made anew from its figures.
- The schema takes numbers, hashes and names: under any other key, and in place of any of them,
  words are refused.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import ROOT
from evals.report.publication import check_report, render_report, write_all_sentences
from example_report import bare, example, example_of, settled, task

import surgery
from cli.commands.edit.export import command
from cli.commands.measure.evaluate import command as evaluate
from evals.report.report import Report, seal_report
from surgery.card.facts import as_line
from surgery.errors import OutputError, SurgeryError

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
    if edit["extraction"] is not None:
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
def test_an_untouched_report_is_sent_as_it_is(report: dict[str, Any]) -> None:
    assert check_report(report, FILE).to_dict() == report


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


SENTENCES = [
    "commands/0", "front/1/label",
    *(f"edits/0/{path}" for path in (
        "verdict", "warnings/0", "tasks/copy/verdict", "tasks/copy/metrics/acc/verdict",
        "gates/0/name", "gates/0/description", "gates/1/description", "gates/1/lacks",
        "heldout/verdict",
        "extraction/warnings/0", "extraction/paired/selectivity/definition",
    )),
]  # fmt: skip


@pytest.mark.parametrize("path", SENTENCES)
def test_a_sentence_of_another_hand_is_not_sent(path: str) -> None:
    report = measured()
    place, key = at(report, path)
    place[key] = f"{place[key]} {PASSAGE}"
    with pytest.raises(OutputError, match="was changed after it was measured"):
        check_report(report, FILE)
    report["seal"] = seal_report(report)
    assert PASSAGE not in check_report(report, FILE).to_text()


@pytest.mark.parametrize("name", ["warnings", "commands", "gates"])
def test_one_more_sentence_is_not_sent(name: str) -> None:
    report = measured()
    place = report if name == "commands" else report["edits"][0]
    more = {**place["gates"][0], "description": PASSAGE} if name == "gates" else PASSAGE
    place[name] = [*place[name], more]
    report["seal"] = seal_report(report)
    assert PASSAGE not in check_report(report, FILE).to_text()


def test_the_command_of_an_edit_takes_all_that_made_it() -> None:
    """What no name says but the record does: the lab's text, and another type to save as."""
    part = {"block": 1, "heads": [0, 1, 2, 3], "variant": "linear"}
    edit = example()["edits"][0]["edit"] | {"variant": "linear", "drop_attn": "1"}
    edit |= {"parts": [part], "earlier_edits": 0}
    data = {"name": "hf:me/data:train:text", "size": None, "sha256": None}
    lab = data | {"name": "lab calibration text"}

    def parse(**more: Any) -> dict[str, Any]:
        report = Report.model_validate(example(edit=edit | more))
        words = shlex.split(write_all_sentences(report).commands[0])
        assert words[:2] == ["attn-surgery", "export"]
        return command.make_context("export", words[2:]).params

    hub = parse(source="me/mistral", commit="c" * 40, family="llama",
                calibration={"sources": [data]})  # fmt: skip
    assert (hub["model"], hub["revision"], hub["save_as"]) == ("me/mistral", "c" * 40, "llama")
    assert (hub["calibration"], hub["heal"]) == ((data["name"],), ())
    healing = {"sources": [lab], "steps": 8}
    own = parse(source="lab:gpt-neo", family="gpt_neo", healing=healing,
                calibration={"sources": [lab]})  # fmt: skip
    assert (own["revision"], own["save_as"], own["calibration"]) == (None, None, ())
    assert (own["heal"], own["heal_steps"]) == (("lab:gpt-neo",), 8)
    other = parse(source="me/model", healing=healing)
    assert other["heal"] == ("lab:pythia",)
    assert parse(family="llama", layout="compact")["save_as"] == "llama"
    assert parse(max_shard_size=5000)["max_shard_size"] == 5000
    assert parse()["max_shard_size"] is None


def test_the_command_of_a_report_repeats_its_limits() -> None:
    """To the last digit, whatever a limit is."""
    limits = {"any": 0.012345678, "relearn": 1e-7, "greedy": 1.0}
    settings = example()["settings"] | {"max": limits, "max_drop": {"piqa": 1 / 3}}
    report = Report.model_validate(example(settings=settings))
    words = shlex.split(write_all_sentences(report).commands[-1])
    asked = evaluate.make_context("evaluate", words[2:]).params
    assert (asked["max"], asked["max_drop"]) == (limits, {"piqa": 1 / 3})


def test_one_place_writes_export_commands() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for part in ("surgery", "evals", "cli")
        for path in (ROOT / part).rglob("*.py")
        if re.search('"attn-surgery", "export"|attn-surgery export \\{', path.read_text())
    }
    assert found == {"surgery/card/command.py"}


def test_the_card_shows_what_was_measured_of_the_whole(folder: Path) -> None:
    """Against the source, and not of a part; a report of anything else is not published."""
    record, of = (folder / "surgery.json").read_bytes(), partial(example_of, folder)
    whole = render_report(of(), FILE, record)
    assert whole.measured is not None
    verdict = json.loads(whole.files["report.json"])["edits"][0]["verdict"]
    assert as_line(verdict) in whole.measured.text
    assert "copy, acc" in whole.measured.text
    part = render_report(of(settings={**example()["settings"], "limit": 2000}), FILE, record)
    assert part.measured is not None
    assert [one["metric_type"] for one in part.measured.results] == [
        "exact_match", "next_token_accuracy",
    ]  # fmt: skip
    assert "copy, acc" not in part.measured.text
    assert "(--limit)" in part.measured.text
    forged = of()
    forged["base"]["provenance"]["content"] = "0" * 64
    for other in (of(relation="unrelated"), forged):
        with pytest.raises(
            OutputError,
            match="not recorded as the source; remove it, and evaluate against the source",
        ):
            render_report(other, FILE, record)
    with pytest.raises(OutputError, match=r"edit differs from the one in surgery\.json"):
        render_report(of(edit=example()["edits"][0]["edit"]), FILE, record)
    with pytest.raises(OutputError, match="to another model; remove it, and evaluate this one"):
        render_report(of(), FILE, record.replace(b"{", b"{ ", 1))


FREE = {
    "base/name", "base/provenance/model", "settings", "provenance/controls", "edits/name",
    "edits/provenance/model", "edits/extraction/samples/source", "edits/edit",
    "edits/extraction/samples/left_out/reason", "edits/extraction/samples/reservations/reason",
    "edits/extraction/provenance/model/model", "edits/extraction/provenance/baseline/model",
}  # fmt: skip
"""Names of models, files and tasks, what was asked for, and reasons of ours. The edit itself
is compared with the manifest."""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value[:2]):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def test_words_stand_nowhere_but_in_names() -> None:
    """In place of any string or number, under every key."""
    report, words, sent = measured(), "we shall fight on the beaches", set()
    for path in list(leaves(report)):
        *way, key = path
        place = reduce(getitem, way, report)
        before, place[key] = place[key], words
        report["seal"] = seal_report(report)
        try:
            if words in check_report(report, FILE).to_text():
                sent.add("/".join(part for part in path if isinstance(part, str)))
        except (SurgeryError, ValueError):
            pass
        place[key] = before
    words_of_tasks = {path for path in sent if re.fullmatch("edits/tasks/.*/description", path)}
    assert {path for path in sent - words_of_tasks if not path.startswith(tuple(FREE))} == set()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("passages/0/prefix", "Call me Ishmael"),
        ("passages/0/id", "\u767d\u9be8"),
        ("passages/0/tokens", [464, 3797]),
        ("passages/0/baseline/text", "Call"),
        ("extraction/rows", [{"Text": "Call me Ishmael"}]),
        ("extraction/ids", [464, 3797, 331]),
        ("extraction/Call me Ishmael", 1),
        ("extraction/control/definition", "Call"),
        ("provenance/note", "Call me Ishmael"),
        ("tasks/Call me Ishmael", task(0.9, 0.1)),
        ("name", PASSAGE * 3),
        ("name", "Call me\nIshmael"),
        ("Call", "me Ishmael"),
    ],
)
def test_there_is_no_place_for_text(path: str, value: Any) -> None:
    report = measured()
    place, key = at(report["edits"][0], path)
    place[key] = value
    with pytest.raises(ValueError, match=r"(?s)validation error"):
        check_report(report, FILE)
