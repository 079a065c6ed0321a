"""Contract: a fingerprint tells whether two models are the same, whatever they are called.

It is of config.json and of the beginning of each tensor, and of nothing else. A manifest knows its
sources by it, or by the commit of a Hub id; a name proves nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkpoints import neox_config, write_checkpoint

import surgery
from surgery.checkpoint import hash_content, hash_file, open_checkpoint
from surgery.errors import CheckpointError
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import Source

CONFIG = neox_config(max_position_embeddings=64, num_hidden_layers=2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", CONFIG, num_shards=2)


def test_a_copy_is_the_same_model_and_a_change_is_another(source: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(source, tmp_path / "another name")
    (copy / "README.md").write_text("not what is loaded")
    (copy / "pytorch_model.bin").write_bytes(b"nor this")
    assert hash_content(open_checkpoint(copy)) == hash_content(open_checkpoint(source))
    weights = copy / "model-00002-of-00002.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert hash_content(open_checkpoint(copy)) != hash_content(open_checkpoint(source))
    shutil.copytree(source, copy, dirs_exist_ok=True)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-06}))
    assert hash_content(open_checkpoint(copy)) != hash_content(open_checkpoint(source))


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
    recorded = recorded.model_copy(update={"content": hash_content(open_checkpoint(source))})
    assert ResolvedModel(source, found).is_that(recorded)
    before = Source(model="source")
    assert not ResolvedModel(source, before).is_that(before), "a name proves nothing"


def test_a_result_records_the_fingerprint_of_itself_and_of_its_source(source: Path, tmp_path: Path):
    result = surgery.export(source, "1", output=tmp_path / "out")
    assert result.manifest.step.source.content == hash_content(open_checkpoint(source))
    assert result.manifest.content == hash_content(open_checkpoint(result.output))


def test_an_unreadable_file_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone: cannot be read .*no such file"):
        hash_file(tmp_path / "gone")
