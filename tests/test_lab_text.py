"""Contract: wherever text is named, a lab model stands for the lab's text, also for other models.

It stands alone, and one that is not there is an error.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import attn_surgery
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from evals import lab
from evals.data.inputs import find_calibration_text, read_heldout_texts
from surgery.errors import SamplesError, SourceError, UnsupportedError

LAB = "lab:pythia"


def test_held_out_text_and_calibration_text() -> None:
    assert read_heldout_texts([Path(LAB)], "me/model") == lab.heldout_texts()
    text = find_calibration_text([LAB], "me/model", ["linear"])
    assert text is not None
    assert [one.text for one in text.sources] == lab.calibration_texts()


@pytest.mark.parametrize("name", ["heldout", "calibration"])
def test_mistakes(name: str, tmp_path: Path) -> None:
    def read(*named: str) -> object:
        if name == "heldout":
            return read_heldout_texts([Path(one) for one in named], "me/model")
        return find_calibration_text(named, "me/model", ["linear"])

    with pytest.raises(SourceError, match="no embedded model 'lab:pythai'"):
        read("lab:pythai")
    (tmp_path / "text.txt").write_text(TEXT)
    with pytest.raises(SamplesError, match="does not go with other text"):
        read(LAB, str(tmp_path / "text.txt"))
    with pytest.raises(UnsupportedError, match="no variant is fitted"):
        find_calibration_text([LAB], "me/model", ["zero"])


def test_the_commands_take_it(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    samples = write_rows(tmp_path / "s.jsonl", recited_rows(tiny_model(), 4))
    found = attn_surgery(
        *("init", tmp_path / "model", "--samples", samples, "--heldout", LAB),
        *("--prefix-length", 6, "--suffix-length", 5, "--dry-run", "--json"),
    )
    assert found.code == 0, found
    assert found.json["corpus"]["windows"] > 0
    out = tmp_path / "out"
    made = attn_surgery(
        *("export", tmp_path / "model", "--drop-attn", "1", "--variant", "mean"),
        *("--calibration", LAB, "--output", out),
    )
    assert made.code == 0, made
    verified = attn_surgery("verify", out, "--source", tmp_path / "model")
    assert verified.code == 0, verified
