"""Contract: a variant of your own, at package.module:VARIANT, works where ours do if you name it.

Only then is its code imported: a model's folder or a plan that names it runs nothing. `verify`
proves the structure without the code, says what it cannot prove, and proves the numbers with it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ROOT, attn_surgery
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model

import surgery
from surgery import variants
from surgery.errors import UnsupportedError
from surgery.record.manifest import read_manifest
from surgery.variants import load_variant, recall_variant, variant_of

CODE = """
from surgery.variants import Affine, Variant

BIAS = Variant(
    "bias", "the branch adds the value bias of each head", "constant", False,
    lambda sources: Affine(None, sources.bias),
)
HALF = Variant(
    "half", "half of the affine fit", "affine", True,
    lambda sources: Affine(0.5 * sources.fitted.weight, 0.5 * sources.fitted.bias),
)
LOOSE = Variant("loose", "", "affine", False, lambda sources: Affine(sources.weight, None))
WRONG = Variant("wrong", "", "constant", False, lambda sources: Affine(sources.weight, None))
EMPTY = Variant("empty", "", "constant", False, lambda sources: Affine(None, None))
BROKEN = Variant("broken", "", "none", False, lambda sources: 1 / 0)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, whose name no other test has. Nothing is known of it."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(variants, "_OWN", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    save_tiny(tmp_path / "model")
    (tmp_path / "text.txt").write_text(30 * TEXT)
    yield name
    sys.modules.pop(name, None)


def forget(own: str) -> None:
    """As another process would begin."""
    sys.modules.pop(own, None)
    variants._OWN.clear()


@pytest.mark.parametrize("layout", ["stock", "compact"])
def test_from_export_to_verify(own: str, layout: str) -> None:
    named = f"{own}:BIAS"
    made = attn_surgery(
        *("export", "model", "--drop-attn", "1", "--variant", named, "--layout", layout),
        *("--output", "out", "--json"),
    )
    assert made.code == 0, made
    assert made.json["variant"] == named
    manifest = read_manifest(Path("out"))
    assert manifest is not None
    assert manifest.step.own_variants[named].model_dump() == {"kind": "constant", "fitted": False}
    forget(own)
    alone = attn_surgery("verify", "out", "--source", "model", "--json")
    assert alone.code == 0, alone
    assert own not in sys.modules, "a record runs no code"
    claims = {claim["name"]: claim["detail"] for claim in alone.json["claims"]}
    assert "only --variant imports it" in name_of(claims[f"variant {named}"])
    (rewritten,) = [one for one in alone.json["checks"] if one["name"] == "rewritten"]
    assert f"except for numbers that {named} makes" in rewritten["detail"]
    with_code = attn_surgery("verify", "out", "--source", "model", "--variant", named, "--json")
    assert with_code.code == 0, with_code
    assert own in sys.modules
    assert not [one for one in with_code.json["claims"] if own in one["name"]]
    (rewritten,) = [one for one in with_code.json["checks"] if one["name"] == "rewritten"]
    assert "except" not in rewritten["detail"], "all numbers repeat"


def name_of(detail: str) -> str:
    return detail.replace("`variant`", "--variant")


def test_other_numbers_than_its_own_do_not_verify(own: str) -> None:
    named = f"{own}:BIAS"
    attn_surgery("export", "model", "--drop-attn", "1", "--variant", named, "--output", "out")
    forget(own)
    file = Path(f"{own}.py")
    file.write_text(
        file.read_text().replace("Affine(None, sources.bias)", "Affine(None, sources.bias + 1)")
    )
    assert attn_surgery("verify", "out", "--source", "model").code == 0
    found = attn_surgery("verify", "out", "--source", "model", "--variant", named)
    assert found.code == 1
    assert f"is not what {named} makes of it" in found.stderr


def test_sweep_and_search_and_a_plan(own: str) -> None:
    named = f"{own}:BIAS"
    write_rows(Path("s.jsonl"), recited_rows(tiny_model(), 12))
    given = ("--samples", "s.jsonl", "--heldout", "text.txt", "--variant", named)
    given = (*given, "--prefix-length", 6, "--suffix-length", 5, "--device", "cpu")
    swept = attn_surgery("sweep", "model", *given, "--json")
    assert swept.code == 0, swept
    assert {edit["variant"] for edit in swept.json["edits"]} == {named}
    more = ("--max-extraction", 0.9, "--grain", "blocks", "--output", "found", "--json")
    found = attn_surgery("search", "model", *given, *more)
    assert found.code in (0, 1, 4), found
    plan = Path("plan.json")
    plan.write_text(json.dumps({"edits": [{"drop_attn": "1", "variant": named}]}))
    forget(own)
    export = ("export", "model", "--plan", plan, "--output", "out")
    attn_surgery(*export).assert_error(f"unknown variant '{named}'", "name it with --variant")
    assert own not in sys.modules, "a plan may be anybody's"
    assert attn_surgery(*export, "--variant", named).code == 0


def test_in_memory(own: str) -> None:
    model = tiny_model()
    ids = torch.arange(2, 12)[None]
    with torch.inference_mode():
        before = model(ids).logits
        with surgery.short_circuit(model, "1", f"{own}:BIAS"):
            edited = model(ids).logits
        assert not torch.equal(before, edited)
        assert torch.equal(before, model(ids).logits)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("NOTHING", ["is not a variant", "got no such name"]),
        ("CODE", ["is not a variant"]),
        ("LOOSE", ["only identity may be one", "fitted=True"]),
        ("WRONG", ["makes a weight that a variant of kind 'constant' cannot have"]),
        ("EMPTY", ["makes a bias that a variant of kind 'constant' cannot have", "NoneType"]),
        ("BROKEN", ["its code fails: ZeroDivisionError"]),
    ],
)
def test_mistakes_are_one_line(own: str, name: str, texts: list[str]) -> None:
    export = ("export", "model", "--drop-attn", "1", "--output", "out")
    attn_surgery(*export, "--variant", f"{own}:{name}").assert_error(f"{own}:{name}", *texts)
    assert not Path("out").exists()


def test_a_module_that_is_not_there(own: str) -> None:
    export = ("export", "model", "--drop-attn", "1", "--output", "out", "--variant")
    attn_surgery(*export, "not_there_at_all:X").assert_error("no module 'not_there_at_all'")
    near = attn_surgery(*export, "identiy")
    assert (near.code, "did you mean 'identity'?" in near.stderr) == (2, True)


def test_records_that_disagree() -> None:
    recall_variant("some.module:ONE", "constant", fitted=False)
    recall_variant("some.module:ONE", "constant", fitted=False)
    with pytest.raises(UnsupportedError, match="recorded as another variant"):
        recall_variant("some.module:ONE", "none", fitted=False)
    with pytest.raises(UnsupportedError, match="unknown variant 'identity'"):
        recall_variant("identity", "none", fitted=False)
    nothing = variant_of("some.module:ONE").affine(
        variants.Sources(np.zeros((2, 3, 6), np.float32), None)
    )
    assert nothing.bias is not None
    assert np.isnan(nothing.bias).all()
    variants._OWN.pop("some.module:ONE")


def test_the_example_of_the_docs(own: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / f"{own}.py").write_text(code)
    found = load_variant(f"{own}:MUTED")
    assert found.kind == "affine"
    given = ("--variant", f"{own}:MUTED", "--calibration", "text.txt", "--output", "out")
    assert attn_surgery("export", "model", "--drop-attn", "1", *given).code == 0
