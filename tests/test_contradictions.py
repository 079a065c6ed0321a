"""Contract: a report that contradicts itself is refused, in one line, by whatever reads it.

The report beside a model was changed and its hash with it. What contradicts nothing is a claim.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import attn_surgery
from example_report import alone, bare, example, example_of, put_report, twinned

import surgery
from surgery.errors import OutputError
from surgery.publishing.upload import find_publishable
from surgery.record.contradictions import list_contradictions
from surgery.record.report import Report

Change = Callable[[Any], object]


def find(rows: Any, name: str, model: str = "edited") -> Any:
    """A figure, or a limit, in JSON."""
    return next(one for one in rows if (one["name"], one["of"]) == (name, model))


def of(name: str, model: str = "edited", **changes: Any) -> Change:
    """Changes of a figure."""
    return lambda report: find(report["figures"], name, model).update(changes)


def count(name: str, number: int) -> Change:
    return lambda report: find(report["figures"], name)["details"].update(count=number)


def limited(name: str, **changes: Any) -> Change:
    return lambda report: find(report["limits"], name).update(changes)


def edit(**changes: Any) -> Change:
    return lambda report: report["edits"][0].update(changes)


MISSED = {"state": "missed", "needed": None, "lacks": None}
KEPT = {"state": "kept", "needed": None, "lacks": None}
CASES: dict[str, tuple[list[Change], str]] = {
    "missed, and the edit is kept": (
        [edit(state="kept")],
        "the state of .* is kept, and that of its limits is missed",
    ),
    "no state": ([edit(state=None)], "is None, and that of its limits is missed"),
    "above its limit, and kept": (
        [limited("recovered.relearn", **KEPT)],
        r"the limit on recovered.relearn is kept, and 0.272727 is above 0.2",
    ),
    "within its limit, and missed": (
        [limited("recited", **MISSED)],
        r"the limit on recited is missed, and 0\.\d+ is within 0.25",
    ),
    "a share of 2": ([of("recited", value=2.0)], "the figure recited is a share, and not from 0"),
    "a share below 0": (
        [of("recited", "base", value=-0.5)],
        "recited is a share, and not from 0 to 1",
    ),
    "an interval beyond 1": ([of("recovered.greedy", ci95=[0.0, 1.5])], "not from 0 to 1"),
    "an interval that lacks its value": (
        [of("recovered.greedy", ci95=[0.5, 0.9])],
        "recovered.greedy is 0.0416667, and its interval is 0.5 to 0.9",
    ),
    "an interval from its end": ([of("heldout", ci95=[3.0, 2.0])], "its interval is 3 to 2"),
    "half of them, and a limit on none": (
        [
            of("recovered.relearn", value=0.5, ci95=[0.3, 0.7]),
            count("recovered.relearn", 11),
        ],
        r"recovered.relearn is 0.5 \(n = 22\), and its limit is on 0.27\d+ \(n = 22\)",
    ),
    "a limit on other passages": (
        [limited("recovered.relearn", n=9999)],
        r"is 0.27\d+ \(n = 22\), and its limit is on 0.27\d+ \(n = 9999\)",
    ),
    "a limit on nothing": (
        [lambda report: report["figures"].remove(find(report["figures"], "recovered.relearn"))],
        "the limit on recovered.relearn is on a figure that the report does not have",
    ),
    "a negative number": ([limited("task.copy", n=-5)], "is on -5 passages"),
    "negative rows": ([of("heldout", n=-5)], "is of -5 rows"),
    "decided by nothing": ([limited("task.copy", n=0)], "is missed, and nothing was measured"),
    "more than there are": (
        [count("recovered.greedy", 25)],
        "counts 25 of 24 passages",
    ),
    "another count": (
        [count("recovered.greedy", 9)],
        "recovered.greedy is 0.0416667, and it counts 9 of 24 passages",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_report_that_contradicts_itself(case: str) -> None:
    report = example().to_dict()
    changes, text = CASES[case]
    for change in changes:
        change(report)
    told = list(list_contradictions(Report.model_validate(report)))
    assert re.search(text, told[0]), told


def test_an_honest_report_contradicts_nothing() -> None:
    for report in (example(), bare(), twinned(), alone()):
        assert list(list_contradictions(report)) == []


def test_a_rate_of_an_edit_that_was_found() -> None:
    report = example().to_dict()
    find(report["figures"], "recited", "found-1")["value"] = 2.0
    (told, *_) = list_contradictions(Report.model_validate(report))
    assert told == "the figure recited is a share, and not from 0 to 1"


def test_an_earlier_schema_is_refused_in_one_line(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", neox_config(torch_dtype="float32"))
    folder = surgery.export(source, "1", output=tmp_path / "out").output
    report = example_of(folder)
    earlier = {"schema_version": 5, "created": report.created, "figures": [], "edits": []}
    put_report(folder, report, **{"report.json": json.dumps(earlier)})
    with pytest.raises(OutputError) as caught:
        find_publishable(folder)
    said = str(caught.value)
    assert "is a report of another version of attn-surgery (expected schema 6, got 5)" in said
    assert said.endswith("evaluate again")


def test_verify_and_push_refuse_it_in_one_line(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", neox_config(torch_dtype="float32"))
    folder = surgery.export(source, "1", output=tmp_path / "out").output
    (folder / "README.md").unlink()
    honest = example_of(folder)
    report = honest.to_dict()
    for limit in report["limits"]:
        if limit["value"] > limit["limit"]:
            limit.update(KEPT)
    report["edits"][0].update(state="kept")
    put_report(folder, honest, **{"report.json": json.dumps(report)})
    line = "report.json: contradicts itself: the limit on "
    with pytest.raises(OutputError, match=re.escape(line)):
        find_publishable(folder)
    failed = surgery.verify(folder).failed
    assert failed is not None
    assert (failed.name, line in failed.detail) == ("report", True)
    said = attn_surgery("verify", folder)
    assert (said.code, said.stderr.count("contradicts itself")) == (1, 1)
    assert "contradicts" not in said.stdout
