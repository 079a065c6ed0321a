"""Contract: a step that is asked for again is told from its record, and not done twice."""

from __future__ import annotations

from pathlib import Path

from command_line import attn_surgery
from tiny_tokenizer import save_tiny, tiny_model


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
