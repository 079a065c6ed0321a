"""Contract: a step that is asked for again is told from its record, and not done twice."""

from __future__ import annotations

from pathlib import Path

from command_line import attn_surgery, snapshot
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model


def test_a_step_that_others_followed_is_told_again(tmp_path: Path) -> None:
    """The folder that `erase` made is cut in place; the same `erase` then has nothing to do."""
    model, output = tiny_model(), tmp_path / "out"
    save_tiny(tmp_path / "model", model)
    write_rows(tmp_path / "passages.jsonl", recited_rows(model, 8))
    (tmp_path / "text.txt").write_text(TEXT)
    given = ("--samples", tmp_path / "passages.jsonl", "--prefix-length", 6, "--suffix-length", 5)
    given += ("--drop-attn", "0", "--text", tmp_path / "text.txt", "--steps", 1, "--json")
    erase = ("erase", tmp_path / "model", *given, "--device", "cpu", "--output", output)
    first = attn_surgery(*erase)
    assert attn_surgery("export", output, "--drop-attn", "1", "--consume").code == 0
    before = snapshot(output)
    again = attn_surgery(*erase)
    assert (first.code, again.code) == (0, 0), again
    assert "already holds this result" in again.stderr
    assert again.json["erasing"] == first.json["erasing"]
    assert snapshot(output) == before


def test_what_a_killed_export_left_beside_its_result_is_removed(tmp_path: Path) -> None:
    """It was killed between the last rename and its end."""
    save_tiny(tmp_path / "model", tiny_model())
    export = ("export", tmp_path / "model", "--drop-attn", "0", "--output", tmp_path / "cut")
    assert attn_surgery(*export).code == 0
    (tmp_path / ".cut.attn-surgery-lock").touch()
    (tmp_path / ".cut.attn-surgery-partial").mkdir()
    again = attn_surgery(*export)
    assert again.code == 0
    assert "already holds this result" in again.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model", "cut"}
