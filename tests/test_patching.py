"""Contract: a patch holds only what an edit changes, and gives the very folder that the export
gives; of another model, or damaged, it gives nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import neo_config, neox_config, write_checkpoint
from command_line import attn_surgery, snapshot
from decoders import write_decoder
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_tokenizer import tiny_tokenizer

LINES = "the quick brown fox jumps over the lazy dog\n" * 1000


def sources(kind: str, folder: Path) -> Path:
    """A Pythia in three shards, a pickled GPT-Neo, or a Llama, each with a tokenizer."""
    if kind == "llama":
        write_decoder(folder, kind, vocab_size=400)
    elif kind == "pickled":
        write_checkpoint(folder, neo_config(vocab_size=400), weights="bin")
    else:
        write_checkpoint(folder, neox_config(vocab_size=400), num_shards=3)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("pythia", ("--drop-attn", "1-2")),
        ("pythia", ("--drop-attn", "3", "--variant", "linear", "--max-shard-size", "200KB")),
        ("pickled", ("--drop-attn", "1", "--layout", "compact")),
        ("llama", ("--drop-attn", "2", "--variant", "mean")),
    ],
)
def test_a_patch_gives_the_export(tmp_path: Path, kind: str, options: tuple[str, ...]) -> None:
    source = sources(kind, tmp_path / "source")
    (tmp_path / "text.txt").write_text(LINES)
    if "linear" in options or "mean" in options:
        options = (*options, "--calibration", str(tmp_path / "text.txt"))
    whole, patch, made = tmp_path / "a" / "OUT", tmp_path / "p.safetensors", tmp_path / "b" / "OUT"
    export = ("export", source, *options, "--json")
    assert attn_surgery(*export, "--output", whole).code == 0
    result = attn_surgery(*export, "--as-patch", "--output", patch).json
    assert result["output"] == str(patch)
    assert result["bytes"] == patch.stat().st_size < snapshot_size(whole) / 2
    with safe_open(patch, "np") as file:
        held = {name for name in file.keys() if ":" not in name}  # noqa: SIM118
    assert held == set(result["rewritten"])
    applied = attn_surgery("apply-patch", source, patch, "--output", made, "--json").json
    assert snapshot(made) == snapshot(whole)
    assert applied["blocks"] == result["blocks"]
    assert attn_surgery("verify", made, "--source", source, "--json").json["ok"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a", "b", "p.safetensors", "source", "text.txt"),
    ]


def snapshot_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def patch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("patch") / "p.safetensors"
    attn_surgery("export", "lab:pythia", "--drop-attn", "4", "--as-patch", "--output", path)
    return path


def test_another_model_is_refused(patch: Path, tmp_path: Path) -> None:
    outcome = attn_surgery("apply-patch", "lab:gpt-neo", patch, "--output", tmp_path / "OUT")
    outcome.assert_error("lab:gpt-neo", "not the model that the patch was made for", "lab:pythia")
    assert not any(tmp_path.iterdir())


def test_damage_is_refused(patch: Path, tmp_path: Path) -> None:
    tensors = load_file(patch)
    name = next(name for name in tensors if name.endswith("query_key_value.bias"))
    damaged, out = tmp_path / "damaged.safetensors", tmp_path / "OUT"
    for change, texts in (
        ({name: tensors[name] + np.float16(1)}, ("model.safetensors", "recorded hash")),
        ({"file:surgery.json": np.zeros(3, np.uint8)}, ("surgery.json", "not valid")),
        ({"header:model.safetensors": np.zeros(9, np.uint8)}, ("cannot be made from the patch",)),
    ):
        save_file({**tensors, **change}, damaged)
        attn_surgery("apply-patch", "lab:pythia", damaged, "--output", out).assert_error(*texts)
        assert not out.exists()
    save_file({"weight": np.zeros(3)}, damaged)
    attn_surgery("apply-patch", "lab:pythia", damaged, "--output", out).assert_error("not a patch")
    damaged.write_bytes(b"nothing")
    attn_surgery("apply-patch", "lab:pythia", damaged, "--output", out).assert_error("safetensors")


def test_code_in_a_patch_is_refused(patch: Path, tmp_path: Path) -> None:
    """Even where the manifest lists it with its hash."""
    import hashlib
    import json

    tensors, code = load_file(patch), b"import os\n"
    manifest = json.loads(tensors["file:surgery.json"].tobytes())
    manifest["files"]["modeling.py"] = {
        "size": len(code),
        "sha256": hashlib.sha256(code).hexdigest(),
    }
    tensors["file:surgery.json"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    tensors["file:modeling.py"] = np.frombuffer(code, np.uint8)
    save_file(tensors, tmp_path / "code.safetensors")
    outcome = attn_surgery(
        "apply-patch", "lab:pythia", tmp_path / "code.safetensors", "--output", tmp_path / "OUT"
    )
    outcome.assert_error("modeling.py is not part of an edited model")
    assert not (tmp_path / "OUT").exists()


def test_what_is_there_is_kept(patch: Path, tmp_path: Path) -> None:
    export = ("export", "lab:pythia", "--drop-attn", "4", "--as-patch", "--output", patch)
    before = patch.read_bytes()
    attn_surgery(*export).assert_error("already exists", "--overwrite")
    assert attn_surgery(*export, "--overwrite").code == 0
    assert patch.read_bytes() == before
    attn_surgery(*export[:-1], tmp_path, "--overwrite").assert_error("is not a file")
    (tmp_path / "notes").write_text("mine")
    apply = ("apply-patch", "lab:pythia", patch, "--output", tmp_path)
    attn_surgery(*apply).assert_error("already exists", "--overwrite")
    attn_surgery(*apply, "--overwrite").assert_error("which attn-surgery did not write")
    usage = attn_surgery(*export, "--overwrite", "--evaluate")
    assert usage.code == 2
    assert "--as-patch" in usage.stderr
