"""Contract: training undoes no edit that no surgery.json records; heads that look edited stop it.

Such an edit is made in Python and saved by the library. What training may not change is known of
recorded edits alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import attn_surgery
from decoders import write_decoder
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from surgery.checkpoint import open_checkpoint
from surgery.cuts import check_recorded
from surgery.errors import UnsupportedError
from surgery.loading import load_model
from surgery.record.manifest import read_manifest

SAID = "the queries of {} are zero, as an edit leaves them, and no surgery.json records it, so tr"
KINDS = ("gpt_neox", "llama")


def write_model(folder: Path, kind: str) -> Path:
    return (
        write_checkpoint(folder, neox_config(vocab_size=400, max_position_embeddings=64))
        if kind == "gpt_neox"
        else write_decoder(folder, kind)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["identity", "zero"])
def test_an_edit_is_seen_without_its_record(tmp_path: Path, kind: str, variant: str) -> None:
    source = write_model(tmp_path / "source", kind)
    check_recorded(open_checkpoint(source), None)
    done = surgery.export(source, "1", variant=variant, output=tmp_path / "out", layout="stock")
    made = open_checkpoint(done.output)
    check_recorded(made, done.manifest)
    with pytest.raises(UnsupportedError, match=f"out: {SAID.format('block 1')}.*start from the re"):
        check_recorded(made, None)


def test_single_heads_are_named(tmp_path: Path) -> None:
    """Of a group whose other heads still attend, and keep their keys."""
    source = write_model(tmp_path / "source", "llama")
    made = surgery.export(source, "0.1,2", variant="zero", output=tmp_path / "out").output
    with pytest.raises(UnsupportedError, match=SAID.format("blocks 2,0.1")):
        check_recorded(open_checkpoint(made), None)


def test_neither_healing_nor_erasing_undoes_it(tmp_path: Path) -> None:
    source, edited, out = (tmp_path / name for name in ("source", "edited", "out"))
    model = load_model(write_model(source, "gpt_neox"))
    surgery.apply(model, "1", layout="stock").save_pretrained(edited)
    tiny_tokenizer().save_pretrained(edited)
    assert read_manifest(edited) is None
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 40)
    rows = write_rows(tmp_path / "rows.jsonl", recited_rows(load_model(edited), 4, 8, 8))
    taught = ("--samples", rows, "--prefix-length", 8, "--suffix-length", 8, "--text", text)
    cut = surgery.export(edited, "2", output=tmp_path / "cut").output
    for command in (
        ("heal", cut, "--text", text, "--steps", 1),
        ("erase", edited, "--drop-attn", "0,2,3", "--variant", "zero", *taught, "--steps", 1),
    ):
        done = attn_surgery(*command, "--output", out)
        assert done.code == 1, done.stdout
        assert SAID.format("block 1") in done.stderr
        assert not out.exists()
