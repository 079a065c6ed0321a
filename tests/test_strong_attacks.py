"""Contract: attacks of your own are tried, limited, and known by their code; others that lack what
they need are named.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ROOT, attn_surgery
from example_report import example
from reciting import PREFIX, model_named, passages, write_rows
from results import list_attacks, read_report
from tiny_tokenizer import TEXT, save_tiny

from evals.data import Samples
from evals.measure.attacks.attack import Target
from evals.measure.attacks.names import find_attack, hash_code, list_untried
from evals.measure.attacks.trying import AttackPlan, try_attacks
from evals.run.models import LoadedModel
from surgery.card.measurements import build_measurements
from surgery.errors import MeasurementError
from surgery.record.report import Report


def rows_of(tokens: Any, prefix_length: int = PREFIX, **more: Any) -> Samples:
    tokens = np.asarray(tokens, dtype=np.int32)
    return Samples(tokens, prefix_length, tuple(map(str, range(len(tokens)))), "made here", **more)


def target_of(model: Any, samples: Samples, **more: Any) -> Target:
    return Target(model, None, samples, samples.tokens, **{"draws": 1, **more})


def test_what_was_not_tried_is_said(loaded: LoadedModel) -> None:
    samples = rows_of(np.random.default_rng(3).integers(1, 300, (4, 20)))
    plan = AttackPlan(samples, samples.tokens[:2], ("any", "quantized:4", "graft"))
    result = try_attacks(loaded, plan)
    assert [*result.passages] == ["any", "quantized:4"]
    assert plan.skipped["graft"].startswith("a sibling to copy attention from")
    missing = {*list_untried(result.passages)}
    assert {"relearn", "graft", "membership"} <= missing
    assert not {"any", "greedy", "quantized:4"} & missing


# --- your own

PAGE = (ROOT / "docs" / "who-can-undo-it.md").read_text()
OWN = PAGE.split("```python\n")[1].split("```")[0]  # a module that defines FIRST_TOKEN
OWN += """
import numpy as np

def fail(target):
    return 1 / 0

def shorten(target):
    return AttackOutcome.of_all(np.zeros(1, dtype=bool))

def score(target):
    none = np.zeros(len(target.samples), dtype=bool)
    return AttackOutcome(none, none, scores={"mine": target.samples.tokens[:, 0]})

FAILS = Attack("fails", "", "", "", "", fail)
SHORT = Attack("short", "", "", "", "", shorten)
SCORES = Attack("scores", "", "", "", "", score, tells_members=True)
OTHER = 7
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder, another one in each test."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return name


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (
            "absent.module:ATTACK",
            r"its code fails: ModuleNotFoundError: No module named 'absent'",
        ),
        (
            "broken:ATTACK",
            r"its code fails: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        (
            "{own}:NONE",
            r"is not an attack .*NONE to be an evals.measure.attacks.attack.Attack, got no such",
        ),
        ("{own}:OTHER", r"is not an attack .*got int"),
        ("hints:ATTACK", r"no attack 'hints:ATTACK' \(expected any, greedy"),
        ("a b:ATTACK", r"no attack 'a b:ATTACK'"),
    ],
)
def test_attacks_that_are_not_there(own: str, path: str, line: str) -> None:
    with pytest.raises(MeasurementError, match=line):
        find_attack(path.format(own=own))


@pytest.mark.parametrize(
    ("name", "line"),
    [("FAILS", "its code fails: ZeroDivisionError"), ("SHORT", r"expected .*bool \[15\]")],
)
def test_attacks_that_fail(own: str, name: str, line: str) -> None:
    target = target_of(model_named("neo"), passages("neo"))
    with pytest.raises(MeasurementError, match=f"{own}:{name}: .*{line}"):
        find_attack(f"{own}:{name}").run(target)


def test_an_attack_of_your_own_is_audited_and_limited(own: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    np.save(tmp_path / "p.npy", np.arange(40).reshape(4, 10))
    np.save(tmp_path / "s.npy", np.arange(40).reshape(4, 10))
    outcome = attn_surgery(
        *("audit", "model", "--baseline", "model", "--samples", "p.npy,s.npy", "--json"),
        *("--control", "text.txt", "--device", "cpu", "--max", f"{own}:FIRST_TOKEN=0.5"),
        *("--attack", "greedy"),
    )
    assert outcome.code == 4, "a model beside itself decides no limit"
    report = read_report(outcome)
    assert list_attacks(report) == ["greedy", f"{own}:FIRST_TOKEN"]
    named = report.names[f"recovered.{own}:FIRST_TOKEN"]
    assert named.hint == "the first token of the suffix is right"
    assert [limit.subject for limit in report.limits] == [f"{own}:FIRST_TOKEN"]


def test_the_code_of_an_attack_of_your_own_is_known_by_its_hash(own: str, tmp_path: Path) -> None:
    """A search keeps what an attack found, so that another one must not pass for it."""
    first = hash_code(f"{own}:FIRST_TOKEN")
    assert first == hash_code(f"{own}:SHORT"), "of the file"
    file = tmp_path / f"{own}.py"
    file.write_text(file.read_text() + "\n# changed\n")
    assert hash_code(f"{own}:FIRST_TOKEN") != first


def test_an_attack_of_your_own_may_score_members(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its areas are printed under its name, beside those of `membership`."""
    monkeypatch.setattr("cli.console._WIDTH", 300)  # so that no label wraps
    save_tiny(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    rows = [{"tokens": list(range(at, at + 10)), "member": at < 20} for at in range(0, 40, 10)]
    write_rows(tmp_path / "s.jsonl", rows)
    outcome = attn_surgery(
        *("audit", "model", "--baseline", "model", "--samples", "s.jsonl", "--output", "out"),
        *("--control", "text.txt", "--device", "cpu", "--attack", f"{own}:SCORES"),
        *("--prefix-length", 5, "--suffix-length", 5, "--attack", "membership"),
    )
    assert outcome.code == 0, outcome
    assert outcome.find_row("membership by loss")
    _, base, edited, *_ = outcome.find_row(f"membership by {own}:SCORES mine")[1:]
    assert base[:5] == edited[:5] == "0.000"
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_report_that_names_an_attack_runs_nothing(tmp_path: Path) -> None:
    """It is somebody's file: to read it must import nothing."""
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()")
    text = example().to_text().replace("greedy", "evil:ATTACK")
    assert build_measurements(Report.model_validate_json(text)) is not None
    assert not (tmp_path / "ran").exists()
