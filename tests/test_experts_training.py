"""Contract: models with experts are healed and erased, expert by expert as they are stored.

Newer versions of the library load the experts of a block as one tensor.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import attn_surgery
from decoders import write_decoder
from reciting import recited_rows, write_rows
from safetensors.torch import load_file
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from surgery.cuts import find_constants
from surgery.loading import load_model
from surgery.record.manifest import read_manifest

pytestmark = pytest.mark.slow
EXPERT = "model.layers.1.mlp.experts.{}.up_proj.weight"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model; text.txt; rows.jsonl, which it recites."""
    folder = tmp_path_factory.mktemp("experts")
    size = {"vocab_size": 400, "max_position_embeddings": 64, "num_hidden_layers": 3}
    write_decoder(folder / "model", "qwen3_moe", **size)
    tiny_tokenizer().save_pretrained(folder / "model")
    write_rows(folder / "rows.jsonl", recited_rows(load_model(folder / "model"), 8, 8, 8))
    words = np.random.default_rng(0).choice(TEXT.split(), 2000)
    (folder / "text.txt").write_text(" ".join(words))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_healing_trains_every_expert_and_keeps_what_the_edit_set(
    work: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cut = surgery.export(work / "model", "1", output=tmp_path / "cut").output
    given = ("--source", work / "model", "--text", work / "text.txt", "--steps", 4)
    done = attn_surgery("heal", cut, *given, "--output", out)
    assert done.code == 0, done.stderr
    before, after = weights(work / "model"), weights(out)
    assert set(before) <= set(after)
    for expert in range(4):
        assert not torch.equal(before[EXPERT.format(expert)], after[EXPERT.format(expert)])
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest.step.healing is not None
    losses = manifest.step.healing.losses
    assert losses[-1] < losses[0]
    result = surgery.checkpoint.open_checkpoint(cut)
    kept = find_constants(result, manifest)
    plain = weights(cut)
    for name, flags in kept.items():
        where = torch.from_numpy(flags)
        assert torch.equal(plain[name][where], after[name][where]), name
    verification = surgery.verify(out, source=work / "model")
    assert verification.ok, verification.verdict


def test_erasing_teaches_every_expert_to_forget(work: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "out", work / "rows.jsonl"
    lengths = ("--prefix-length", 8, "--suffix-length", 8)
    done = attn_surgery(
        *("erase", work / "model", "--drop-attn", "1", "--variant", "zero", "--output", out),
        *("--samples", rows, *lengths, "--text", work / "text.txt", "--steps", 6),
    )
    assert done.code == 0, done.stderr
    before, after = weights(work / "model"), weights(out)
    assert before.keys() == after.keys()
    assert not torch.equal(before[EXPERT.format(2)], after[EXPERT.format(2)])
    verification = surgery.verify(out, source=work / "model")
    assert verification.ok, verification.verdict

    def count(folder: Path) -> int:
        told = attn_surgery("extract", folder, "--samples", rows, *lengths, "--json").json
        figure = next(one for one in told["figures"] if one["name"] == "recited")
        return int(figure["details"]["count"])

    assert count(out) < count(work / "model") == len(rows.read_text().splitlines())
