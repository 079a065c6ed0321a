"""Contract: surgery.json says what was done, to what, and what came of it; nothing else passes.

Every export writes one that reads back equal. What is missing, damaged, of another schema or
of a wrong type is a `ManifestError` that names the file and the field.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import neox_config, write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import surgery
from surgery.checkpoint import hash_content, open_checkpoint
from surgery.errors import ManifestError
from surgery.record.manifest import Manifest, read_manifest
from surgery.selection import EditedHeads

NEOX = neox_config(max_position_embeddings=64)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    source = write_checkpoint(tmp_path / "source", NEOX)
    surgery.export(source, "1,3", output=tmp_path / "out", layout="stock")
    return tmp_path / "out"


def test_says_what_was_done(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX, num_shards=2)
    done = surgery.export(source, "1,3", output=tmp_path / "out", layout="stock")
    manifest = read_manifest(tmp_path / "out")
    assert manifest == done.manifest
    edit = manifest.step
    assert (manifest.schema_version, manifest.history) == (7, [edit])
    assert (edit.kind, edit.training) == ("cut", None)
    assert (edit.family, edit.num_blocks, edit.blocks) == ("gpt_neox", 4, (1, 3))
    assert edit.parts == [EditedHeads(1, (0, 1), "identity"), EditedHeads(3, (0, 1), "identity")]
    assert (edit.variant, edit.layout) == ("identity", "stock")
    assert (edit.source.model, edit.source.revision, edit.source.commit) == ("source", None, None)
    assert edit.source.content == hash_content(open_checkpoint(source))
    assert edit.one_hot is not None
    assert edit.one_hot.gap > edit.one_hot.required
    assert edit.one_hot.num_offsets == 63
    assert {"attn-surgery", "python", "torch", "transformers", "safetensors"} <= set(edit.versions)
    files = {
        p.name: p.read_bytes()
        for p in (tmp_path / "out").iterdir()
        if p.name not in ("surgery.json", "README.md")  # the card may be edited, so has no hash
    }
    assert set(manifest.files) == set(files)
    for name, content in files.items():
        assert manifest.files[name].size == len(content)
        assert manifest.files[name].sha256 == hashlib.sha256(content).hexdigest()


def test_round_trip(exported: Path) -> None:
    text = (exported / "surgery.json").read_text()
    assert Manifest.model_validate_json(text).to_text() == text
    assert text.endswith("}\n")


def test_a_folder_without(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def damage(exported: Path, path: list[Any], value: object) -> None:
    """Sets a field of the manifest; removes it where the value is ..."""
    data = json.loads((exported / "surgery.json").read_text())
    *parents, last = path
    inner = data
    for key in parents:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    (exported / "surgery.json").write_text(json.dumps(data))


DIGEST = "0" * 64
STEP = ("history", 0)
FIT = {"sources": [], "tokens": 9, "window": 9, "sha256": DIGEST, "blocks": {}}
HEALING = {
    "sources": [], "tokens": 9, "window": 9, "sha256": DIGEST, "steps": 1, "rows": 16,
    "learning_rate": 3e-4, "seed": 0, "device": "cpu", "threads": 2, "losses": [1.0], "loss": "kl",
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (
            ["schema_version"],
            2,
            "has another schema (expected schema_version 7, got 2)",
        ),
        (["schema_version"], "3", "has another schema"),
        (["schema_version"], ..., "has another schema"),
        (["history"], ..., "history: field required"),
        (["history"], [], "history: list should have at least 1 item"),
        (["files"], ..., "files: field required"),
        (["note"], "hello", "note: extra inputs are not permitted"),
        ([*STEP, "parts"], ..., "a step is a cut, an erasing, or a healing"),
        ([*STEP, "healing"], HEALING, "a step is a cut, an erasing, or a healing"),
        (
            [*STEP, "layout"],
            "other",
            "history.0.layout: input should be 'stock', 'compact' or 'adapter'",
        ),
        ([*STEP, "one_hot", "kappa"], ..., "history.0.one_hot.kappa: field required"),
        ([*STEP, "moved"], [], "history.0.moved: extra inputs"),
        (["files", "config.json", "sha256"], "0", "files.config.json.sha256: "),
        (["files", "config.json", "sha256"], DIGEST.replace("0", "G"), "files.config.json.sha256"),
        (["files", "config.json", "sha256"], DIGEST + "\n", "files.config.json.sha256: "),
        (["history"], [{}], "history.0."),
        ([*STEP, "num_blocks"], 3, "head 0 of block 3 is out of range"),
        ([*STEP, "parts"], [], "a step is a cut, an erasing, or a healing"),
        ([*STEP, "parts", 0, "heads"], [], "the selection names no block"),
        ([*STEP, "parts", 0, "heads"], [0, 0], "names head 0 of block 1 more than once"),
        ([*STEP, "parts", 0, "heads"], [0, 9], "head 9 of block 1 is out of range"),
        ([*STEP, "parts", 0, "heads"], [1, 0], "parts and heads are not ascending"),
        ([*STEP, "parts", 0, "block"], 2**80, "is out of range"),
        ([*STEP, "parts", 1, "block"], 1, "names head 0 of block 1 more than once"),
        ([*STEP, "parts", 0, "block"], 3, "names head 0 of block 3 more than once"),
        ([*STEP, "parts", 0, "variant"], "soft", "unknown variant 'soft'"),
        ([*STEP, "calibration"], FIT | {"blocks": {"1": {"ridge": -1, "r2": 0.5}}}, ".ridge: "),
        ([*STEP, "calibration"], FIT | {"blocks": {"1": {"ridge": 0, "r2": 1e21}}}, ".r2: "),
        (["reports"], {"report.pdf": DIGEST}, "not files of a report: 'report.pdf'"),
    ],
)
def test_wrong_fields(exported: Path, path: list[Any], value: object, text: str) -> None:
    damage(exported, path, value)
    with pytest.raises(ManifestError) as caught:
        read_manifest(exported)
    assert str(caught.value).startswith(f"{exported / 'surgery.json'}: ")
    assert text in str(caught.value)


def test_a_million_heads(exported: Path) -> None:
    """Refused as fast as they are read."""
    damage(exported, [*STEP, "num_heads"], 10**6)
    damage(exported, [*STEP, "parts", 0, "heads"], [*range(10**6), 5])
    with pytest.raises(ManifestError, match="more than once"):
        read_manifest(exported)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../b", "", "."])
def test_files_stay_in_the_folder(exported: Path, name: str) -> None:
    damage(exported, ["files", name], {"size": 0, "sha256": DIGEST})
    with pytest.raises(ManifestError, match="is not a file of the folder"):
        read_manifest(exported)


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "surgery.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"surgery\.json: (is|has) "):
        read_manifest(tmp_path)
