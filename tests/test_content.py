"""Contract: one hash tells whether two models are the same, whatever they are called.

It is of config.json and of the weights that are read, and of nothing else. A file is read once for
each of its states, large ones once for all runs; a change is never missed. A manifest knows its
sources by it, or by the commit of a Hub id; a name proves nothing. No path is recorded.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from checkpoints import neox_config, write_checkpoint

import surgery
from surgery.checkpoint import content
from surgery.checkpoint.content import hash_content, hash_file, recall_hash
from surgery.checkpoint.source import open_checkpoint
from surgery.errors import CheckpointError
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import Source

CONFIG = neox_config(max_position_embeddings=64, num_hidden_layers=2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", CONFIG, num_shards=2)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that are read to be hashed, from an empty memory on."""
    read: list[Path] = []
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "hash_file", lambda path: read.append(path) or sha256(path))
    return read


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_what_its_definition_says(source: Path) -> None:
    names = ["config.json", *(shard.path.name for shard in open_checkpoint(source).shards)]
    lines = sorted(f"{sha256(source / n)} {(source / n).stat().st_size} {n}\n" for n in names)
    assert len(lines) == 3
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert hash_content(source) == hash_content(open_checkpoint(source)) == expected


def test_a_copy_is_the_same_model_and_a_change_is_another(source: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(source, tmp_path / "another name")
    (copy / "README.md").write_text("not what is loaded")
    (copy / "pytorch_model.bin").write_bytes(b"nor this")
    assert hash_content(copy) == hash_content(source)
    weights = copy / "model-00002-of-00002.safetensors"
    data, times = bytearray(weights.read_bytes()), weights.stat()
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and date
    assert hash_content(copy) != hash_content(source)
    shutil.copytree(source, copy, dirs_exist_ok=True)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-06}))
    assert hash_content(copy) != hash_content(source)


def test_a_large_file_is_read_once_for_each_state(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(16 << 20)
    digest = recall_hash(large)
    assert recall_hash(large) == digest
    assert digest == sha256(large)
    assert len(reads) == 1
    (kept,) = (tmp_path / "cache").rglob("*.json.gz")
    assert str(large) not in kept.name + gzip.decompress(kept.read_bytes()).decode()
    kept.write_text("damaged")
    assert recall_hash(large) == digest
    assert len(reads) == 2
    with large.open("r+b") as file:
        file.write(b"x")
    assert recall_hash(large) == sha256(large) != digest


def test_the_hub_s_cache_is_not_read(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for root, read in (("hub", 0), ("forged", 1)):
        blob = tmp_path / root / "models--a--b" / "blobs" / ("c" * 64)
        blob.parent.mkdir(parents=True)
        blob.write_bytes(b"weights")
        link = tmp_path / root / "model.safetensors"
        link.symlink_to(blob)
        assert (recall_hash(link) == "c" * 64) == (read == 0)
        assert len(reads) == read


def test_a_manifest_knows_its_sources_by_content(source: Path, tmp_path: Path) -> None:
    once = surgery.export(source, "1", output=tmp_path / "once").output
    twice = surgery.export(once, "0", output=tmp_path / "twice").manifest
    copy = shutil.copytree(source, tmp_path / "copy")
    assert find_model(copy).is_source_of(twice)
    assert find_model(once).is_source_of(twice)
    assert not find_model(copy).is_that(twice.step.source), "that was the edit before"
    other = write_checkpoint(tmp_path / "other" / "source", CONFIG, seed=1)
    assert not find_model(other).is_source_of(twice), "of the same name"


def test_a_manifest_knows_a_commit_of_its_hub_id(source: Path, tmp_path: Path) -> None:
    recorded = Source(model="Owner/Model", commit="a" * 40, content="b" * 64)
    assert ResolvedModel(source, Source(model="owner/model", commit="a" * 40)).is_that(recorded)
    for found in (
        Source(model="owner/model", commit="c" * 40),
        Source(model="owner/other", commit="a" * 40),
        Source(model="Owner/Model"),
    ):
        assert not ResolvedModel(source, found).is_that(recorded)
    recorded = recorded.model_copy(update={"content": hash_content(source)})
    assert ResolvedModel(source, found).is_that(recorded)
    before = Source(model="source")
    assert not ResolvedModel(source, before).is_that(before), "a name proves nothing"


def test_a_source_is_hashed_while_it_is_copied(
    source: Path, tmp_path: Path, reads: list[Path]
) -> None:
    """Whatever becomes of its files: cut anew, or with tensors rewritten, dropped, or as before."""
    result = surgery.export(source, "1", output=tmp_path / "out")
    weights = set(source.glob("*.safetensors"))
    assert not weights & set(reads), "no weight file is read once more for its hash"
    assert result.manifest.step.source.content == hash_content(source)
    assert weights <= set(reads), "this one reads them"


def test_an_unreadable_file_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone: cannot be read .*no such file"):
        hash_file(tmp_path / "gone")
