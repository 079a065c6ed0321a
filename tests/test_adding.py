"""Contract: what CONTRIBUTING says you touch to add something is all that you touch.

A variant that is only registered works, and so do an attack that is only a file and a figure that
is only made.
Names that are no common words stand in no more source files than the table says, apart from the
help and presets that pick some.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from blank import blank_pictures
from checkpoints import neox_config, write_checkpoint
from command_line import finish, start
from example_report import NAME, SOURCE, make_report, measure_pair
from fits import export_with_any
from reciting import recited_rows, write_rows
from tiny_tokenizer import save_tiny, tiny_model

import surgery
from cli.tables.figures import print_report
from evals.jobs.asking import MeasureRequest
from evals.measure import naming
from evals.measure.attacks.names import ALL, make_attack
from evals.measure.memorization import extraction
from evals.measure.memorization.measures import MEASURES as EVERY
from evals.measure.memorization.measures import Measure
from evals.measure.memorization.summary import measure_recital
from evals.table.page import render_pages
from surgery.card.measurements import build_measurements
from surgery.families import FAMILIES
from surgery.modeling import modeling_attention_free as modeling
from surgery.record.measured import EDITED
from surgery.record.report import Report
from surgery.variants import VARIANTS, Affine, Variant

ROOT = Path(__file__).resolve().parent.parent
ATTACKS = "evals/measure/attacks/"
MEASURES = "evals/measure/memorization/measures.py"
NAMES = {  # name: the files that hold it
    "near-beams": {ATTACKS + "near_beams.py"},
    "early-exit": {ATTACKS + "early_exit.py"},
    "soft-prompt": {ATTACKS + "soft_prompt.py"},
    "relearn-alike": {ATTACKS + "relearn.py"},
    "perturbed": {ATTACKS + "perturbed.py"},
    "revive": {ATTACKS + "revive.py"},
    "hints:K": {"evals/measure/memorization/recovery.py"},
    "extraction_strength": {MEASURES},
    "near_match.levenshtein": {MEASURES},
    "near_match.bleu": {MEASURES},
    "StableLm": {"surgery/families/llama.py", "surgery/modeling/modeling_attention_free.py"},
    "key/value cache per token": {"evals/measure/naming.py"},
    "selectivity, nats per token": {"evals/measure/naming.py"},
    "Phi": {"surgery/families/llama.py", "surgery/modeling/modeling_attention_free.py"},
}


@cache
def list_constants() -> dict[str, set[str]]:
    """Text that source files hold as a whole constant → these files."""
    found: dict[str, set[str]] = {}
    for package in ("surgery", "evals", "cli"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.setdefault(node.value, set()).add(path.relative_to(ROOT).as_posix())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_where_the_table_says(name: str) -> None:
    assert list_constants()[name] == NAMES[name]
    assert len(NAMES[name]) <= 2


def test_a_family_of_the_compact_layout_is_a_record_and_a_line() -> None:
    """The two lists agree, so that neither line can be forgotten."""
    held = (family.architecture for family in FAMILIES if family.compact)
    stems = {name.removesuffix("ForCausalLM") for name in held}
    assert stems == modeling.FAMILIES.keys()


@pytest.mark.parametrize("layout", ["stock", "compact"])
def test_a_variant_is_one_record(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is planned, written, recorded, and proved without and with the source."""
    twice = Variant(
        "twice",
        "the branch adds its mean on calibration text twice",
        "constant",
        fitted=True,
        affine=lambda sources: Affine(None, 2 * sources.fitted.mean),
    )
    monkeypatch.setitem(VARIANTS, "twice", twice)
    source = write_checkpoint(tmp_path / "source", neox_config(torch_dtype="float32"))
    done = export_with_any(source, "1", tmp_path / "out", variant="twice", layout=layout)
    assert done.manifest.step.variant == "twice"
    assert surgery.verify(done.output).ok
    assert surgery.verify(done.output, source=source).ok


SHOUT = """
import torch

from evals.measure.attacks.attack import Attack, AttackOutcome

ATTACKS = {
    "shout:90": {"rank": 95, "who": "files", "groups": "all default trained", "form": "shout:DB"}
}


def make_shout(loudness):
    def run(target):
        return AttackOutcome.of_all(torch.ones(len(target.samples), dtype=bool).numpy())

    return Attack(f"shout:{loudness}", "", "it says yes", "nobody", "nothing", run)
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages, in which one file more lies beside the attacks."""
    root = tmp_path_factory.mktemp("grown")
    for folder in ("", "evals", "evals/measure", ATTACKS):
        if folder:
            (root / folder).unlink()
            (root / folder).mkdir()
        for path in (ROOT / folder).iterdir():
            if folder or path.name in ("cli", "evals", "surgery"):
                (root / folder / path.name).symlink_to(path)
    (root / ATTACKS / "shout.py").write_text(SHOUT)
    return root


def test_an_attack_is_one_file(grown: Path) -> None:
    """Before torch is imported, help, groups, and all that lists attacks know it."""
    code = """
import sys
from cli.main import run
from evals.measure.attacks import names, request
assert names.ALL[-3:] == ("relearn", "shout:90", "membership")
assert names.choose_attacks(["default"])[-2:] == ("shout:90", "membership")
assert names.TRAINED[0] == names.list_untried([])[0] == "shout:90"
assert "shout:90" not in names.list_untried(["shout:7"])
assert names.find_attacker("shout:7") == "has its files and does not train"
assert names.shorten_names(names.choose_attacks(["all"])) == ["all"]
assert "torch" not in sys.modules
assert names.find_attack("shout:7").name == "shout:7"
run(["audit", "--help"])
"""
    done = finish(start(program=("-c", code), cwd=grown, env={"PYTHONPATH": str(grown)}))
    assert (done.code, done.stderr) == (0, "")
    assert "relearn, shout:DB, membership, or one of your own" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_an_attack_in_one_file_is_tried(grown: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", model := tiny_model())
    write_rows(tmp_path / "rows.jsonl", recited_rows(model, 8))
    given = ("audit", tmp_path / "model", "--samples", tmp_path / "rows.jsonl", "--json")
    given += ("--prefix-length", "6", "--suffix-length", "5")
    both = ("--attack", "greedy", "--max", "shout:7=0.5")
    done = finish(start(*given, *both, cwd=grown, env={"PYTHONPATH": str(grown)}))
    assert done.code == 3, done
    report = Report.model_validate(done.json)
    assert report.names["recovered.shout:7"].hint == "it says yes"
    shout = report.find("recovered.shout:7", EDITED)
    assert shout is not None
    assert shout.value == 1
    assert report.edits[0].not_tried[0] == "relearn"
    without = finish(start(*given, "--attack", "greedy", cwd=grown, env={"PYTHONPATH": str(grown)}))
    assert without.json["edits"][0]["not_tried"][0] == "shout:90"


def test_every_attack_has_the_name_under_which_it_is_listed() -> None:
    assert [make_attack(name).name for name in ALL] == [*ALL]


def test_a_measure_is_one_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`report.json`, page, Markdown, model card, and terminal show it."""
    every = (
        *EVERY,
        Measure("luck", lambda suffix: np.full(len(suffix), 0.125), unit="share", label="by luck"),
    )
    for module in (extraction, naming):
        monkeypatch.setattr(module, "MEASURES", every)
    base, edited = measure_pair()
    rows = list(measure_recital(edited.test, base.test, EDITED, "held back", every))
    asked = MeasureRequest.of(
        command="extract", models=(NAME,), baseline=SOURCE, samples="passages.jsonl"
    )
    report = make_report(rows, asked)
    measured = build_measurements(report)
    assert measured is not None
    print_report(report)
    with blank_pictures():
        pages = render_pages(report)
    for text in (*pages.values(), measured.text, capsys.readouterr().out):
        assert "by luck" in text
        assert "12.5%" in text
    read = Report.model_validate_json(report.to_text())
    assert read.find("luck", EDITED) == report.find("luck", EDITED)
