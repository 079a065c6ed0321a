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
from example_report import example, example_of, found, lacking, put_report
from pydantic import ValidationError

import surgery
from evals.report.report import make_report
from surgery.errors import OutputError
from surgery.publishing.upload import find_publishable
from surgery.record.contradictions import list_contradictions
from surgery.record.report import Report

Change = Callable[[Any], object]


def figure(report: Any, key: str) -> Any:
    return next(one for one in report["figures"] if one["key"] == key)


def of(key: str, **changes: Any) -> Change:
    """Changes of the edit's value of a figure."""
    return lambda report: figure(report, key)["edits"][0].update(changes)


def base(key: str, **changes: Any) -> Change:
    return lambda report: figure(report, key)["base"].update(changes)


def limited(key: str, **changes: Any) -> Change:
    return lambda report: figure(report, key)["edits"][0]["limit"].update(changes)


def edit(**changes: Any) -> Change:
    return lambda report: report["edits"][0].update(changes)


MISSED = {"state": "missed", "ok": False, "needed": None, "lacks": None}
KEPT = {"state": "kept", "ok": True, "needed": None, "lacks": None}
CASES: dict[str, tuple[list[Change], str]] = {
    "missed, and the edit is kept": (
        [edit(state="kept", passed=True)],
        "the state of .* is kept, and that of its limits is missed",
    ),
    "no state": ([edit(state=None, passed=None)], "is None, and that of its limits is missed"),
    "above its limit, and kept": (
        [limited("recovered.relearn", **KEPT)],
        r"the limit max relearn is kept, and 0.272727 is above 0.2",
    ),
    "within its limit, and missed": (
        [limited("recited", **MISSED)],
        r"the limit max-extraction is missed, and 0\.\d+ is within 0.25",
    ),
    "missed, and ok": ([limited("recovered.relearn", ok=True)], "is missed, and ok is True"),
    "passed": ([edit(passed=True)], "is missed, and passed is True"),
    "a share of 2": ([of("recited", value=2.0)], "the figure recited is a share, and not from 0"),
    "a share below 0": ([base("recited", value=-0.5)], "recited is a share, and not from 0 to 1"),
    "an interval beyond 1": ([of("recovered.greedy", ci95=[0.0, 1.5])], "not from 0 to 1"),
    "an interval that lacks its value": (
        [of("recovered.greedy", ci95=[0.5, 0.9])],
        "recovered.greedy is 0.0416667, and its interval is 0.5 to 0.9",
    ),
    "an interval from its end": ([of("heldout", ci95=[3.0, 2.0])], "its interval is 3 to 2"),
    "half of them, and a limit on none": (
        [
            of("recovered.relearn", value=0.5, ci95=[0.3, 0.7]),
            lambda report: figure(report, "recovered.relearn")["edits"][0]["details"].update(
                count=11
            ),
        ],
        "recovered.relearn is 0.5, and its limit is on 0.272727",
    ),
    "a limit on other passages": (
        [limited("recovered.relearn", n=9999)],
        "is of 22 passages, and its limit is on 9999",
    ),
    "a negative number": ([limited("task.copy", n=-5)], "is on -5 passages"),
    "negative rows": ([lambda report: figure(report, "heldout").update(n=-5)], "is of -5 rows"),
    "decided by nothing": ([limited("task.copy", n=0)], "is missed, and nothing was measured"),
    "more than there are": (
        [lambda report: figure(report, "recovered.greedy")["edits"][0]["details"].update(count=25)],
        "counts 25 of 24 passages",
    ),
    "another count": (
        [lambda report: figure(report, "recovered.greedy")["edits"][0]["details"].update(count=9)],
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
    for one in (found(), lacking()):
        assert list(list_contradictions(make_report(one))) == []


@pytest.mark.parametrize("key", ["exact_match", "next_token_accuracy"])
def test_a_rate_of_an_edit_that_was_found(key: str) -> None:
    report = example().to_dict()
    report["front"][0][key] = 2.0
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Report.model_validate(report)


def test_verify_and_push_refuse_it_in_one_line(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", neox_config(torch_dtype="float32"))
    folder = surgery.export(source, "1", output=tmp_path / "out").output
    (folder / "README.md").unlink()
    honest = example_of(folder)
    report = honest.to_dict()
    for limit in (one["edits"][0]["limit"] for one in report["figures"]):
        if limit is not None and limit["value"] > limit["limit"]:
            limit.update(KEPT)
    report["edits"][0].update(state="kept", passed=True)
    put_report(folder, honest, **{"report.json": json.dumps(report)})
    line = "report.json: contradicts itself: the limit max"
    with pytest.raises(OutputError, match=re.escape(line)):
        find_publishable(folder)
    failed = surgery.verify(folder).failed
    assert failed is not None
    assert (failed.name, line in failed.detail) == ("report", True)
    said = attn_surgery("verify", folder)
    assert (said.code, said.stderr.count("contradicts itself")) == (1, 1)
    assert "contradicts" not in said.stdout
