"""Contract: a step that is asked for again is told from its record, and not done twice; what cannot
be written is refused before the work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import attn_surgery, snapshot
from tiny_tokenizer import save_tiny

from surgery.exporting import export
from surgery.privacy import name_result

LAB = "lab:pythia"


def test_the_same_result_is_not_made_again(tmp_path: Path) -> None:
    """Unless a file of it has changed."""
    source, out = save_tiny(tmp_path / "source"), tmp_path / "out"
    call = ("export", source, "--drop-attn", "0", "--output", out)
    assert attn_surgery(*call).code == 0
    before = snapshot(out)
    for more in ((), ("--overwrite",)):
        assert f"{out}: already holds this result\n" in attn_surgery(*call, *more).stderr
    assert snapshot(out) == before
    config = out / "config.json"
    config.write_text(config.read_text() + "\n")
    attn_surgery(*call).assert_error("holds this result, and a file of it has changed")
    attn_surgery(*call, "--overwrite").assert_error("which attn-surgery did not write")


def test_a_full_disk_is_noticed_before_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(LAB, "5", output=tmp_path / "cut").output
    free = SimpleNamespace(free=10**6)
    monkeypatch.setattr("surgery.output.shutil.disk_usage", lambda place: free)
    for taught in ("erasing.teach_to_forget", "healing.heal_by_source"):
        monkeypatch.setattr(f"surgery.training.{taught}", lambda *_, **__: pytest.fail("trained"))
    cut = (LAB, "--drop-attn", 0)
    for call in (("export", *cut), ("erase", *cut), ("heal", folder)):
        refused = attn_surgery(*call, "--output", tmp_path / "out")
        refused.assert_error("too little space on the disk", "got 0.0 GB")
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_a_default_output_is_refused_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = save_tiny(tmp_path / "source")
    Path("source-identity-0").mkdir()
    attn_surgery("export", source, "--drop-attn", "0").assert_error(
        "source-identity-0: already exists; choose another --output or give --overwrite"
    )


def test_a_default_name_may_stand_in_model_args() -> None:
    """lm-eval splits `pretrained=NAME,dtype=float32` at commas."""
    assert str(name_result("source", "identity-0,2,3.0")) == "source-identity-0+2+3.0"
