"""Contract: what CONTRIBUTING says you touch to add something is all that you touch.

A variant and an attack that are only registered work, and so does a figure that is only made.
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
from example_report import NAME, SOURCE, make_report, measure_pair
from fits import export_with_any

import surgery
from cli.tables.figures import print_report
from evals.jobs import naming
from evals.jobs.asking import ExtractionRequest
from evals.measure.attacks import names
from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.memorization import extraction
from evals.measure.memorization.measures import MEASURES as ALL
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
    "near-beams": {ATTACKS + "names.py", ATTACKS + "near_beams.py"},
    "early-exit": {ATTACKS + "names.py", ATTACKS + "early_exit.py"},
    "soft-prompt": {ATTACKS + "names.py", ATTACKS + "soft_prompt.py"},
    "relearn-alike": {ATTACKS + "names.py", ATTACKS + "relearn.py"},
    "perturbed": {ATTACKS + "names.py", ATTACKS + "perturbed.py"},
    "revive": {ATTACKS + "names.py", ATTACKS + "revive.py"},
    "hints:K": {"evals/measure/memorization/recovery.py"},
    "extraction_strength": {MEASURES},
    "near_match.levenshtein": {MEASURES},
    "near_match.bleu": {MEASURES},
    "StableLm": {"surgery/families/llama.py", "surgery/modeling/modeling_attention_free.py"},
    "key/value cache per token": {"evals/jobs/naming.py"},
    "selectivity, nats per token": {"evals/jobs/naming.py"},
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
    assert done.manifest.edit.variant == "twice"
    assert surgery.verify(done.output).ok
    assert surgery.verify(done.output, source=source).ok


def _say_yes(target: Target) -> AttackOutcome:
    return AttackOutcome.of_all(np.ones(len(target.samples), dtype=np.bool_))


def test_an_attack_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Attack:
        return Attack("always", "", "it says yes", "nobody", "nothing", _say_yes)

    monkeypatch.setitem(names._KINDS, "always", make)
    assert names.find_attack("always").definition == "it says yes"


def test_a_measure_is_one_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`report.json`, page, Markdown, model card, and terminal show it."""
    every = (
        *ALL,
        Measure("luck", lambda suffix: np.full(len(suffix), 0.125), unit="share", label="by luck"),
    )
    for module in (extraction, naming):
        monkeypatch.setattr(module, "MEASURES", every)
    base, edited = measure_pair()
    rows = list(measure_recital(edited.test, base.test, EDITED, "held back", every))
    asked = ExtractionRequest(models=(NAME,), baseline=SOURCE, samples="passages.jsonl")
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
