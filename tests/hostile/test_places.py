"""Contract: nothing is read or written outside the folders that you name and the Hub's cache.

A model's folder cannot lead anywhere else: by a link, by a shard that its index names, or by a file
that its tokenizer names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import attn_surgery
from tiny_tokenizer import tiny_tokenizer

from surgery.checkpoint import open_tokenizer
from surgery.errors import CheckpointError, SourceError
from surgery.loading import load_tokenizer
from surgery.privacy import check_link
from surgery.untrusted import copy_files

NEOX = neox_config(max_position_embeddings=64)
INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "LICENSE",
        "README.md",
        "additional_chat_templates/tool.jinja",
    ],
)
def test_no_link_is_followed_out_of_a_source(tmp_path: Path, name: str) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX, num_shards=2)
    secret = tmp_path / "blobs" / "secret"  # no cache of the Hub, whatever it is called
    secret.parent.mkdir()
    link = source / name
    if link.exists():
        link.rename(secret)
    else:
        secret.write_text("a private key")
    if link.parent != source:
        link.parent.symlink_to(secret.parent)
        secret.rename(secret.with_name(link.name))
    else:
        link.symlink_to(secret)
    attn_surgery("export", source, "--drop-attn", "1", "--output", tmp_path / "out").assert_error(
        f"{link}: is a link out of the model's folder, which is not followed; replace the link"
    )
    assert not (tmp_path / "out").exists()
    if name in ("tokenizer.json", "additional_chat_templates/tool.jinja"):
        with pytest.raises(CheckpointError, match="is a link out of the model's folder"):
            open_tokenizer(source).__enter__()
    elif name not in ("LICENSE", "README.md"):
        attn_surgery("inspect", source).assert_error(f"{link}: is a link out of the model's folder")


@pytest.mark.parametrize("target", ["README.md", "nowhere"])
def test_a_link_that_leads_nowhere_is_told(tmp_path: Path, target: str) -> None:
    (tmp_path / "README.md").symlink_to(target)
    with pytest.raises(CheckpointError, match="is a link that leads nowhere"):
        check_link(tmp_path / "README.md", tmp_path)


@pytest.mark.parametrize("place", ["../source/x.safetensors", "/etc/passwd", "..", "deep/er"])
def test_an_index_names_no_file_outside(tmp_path: Path, place: str) -> None:
    source = write_checkpoint(tmp_path / "source", NEOX, num_shards=2)
    (source / INDEX).write_text((source / INDEX).read_text().replace(SHARD, place))
    attn_surgery("export", source, "--drop-attn", "1", "--output", tmp_path / "out").assert_error(
        f"{INDEX}: names a file outside the folder (got {place!r})"
    )
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library would open it wherever it is, and read /dev/zero without end."""
    seen: list[dict[str, Any]] = []

    def load(copy: Path, **more: Any) -> Any:
        seen.append(json.loads((copy / "tokenizer_config.json").read_text()))
        return tiny_tokenizer()

    tiny_tokenizer().save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    given_ = json.loads(config.read_text())
    places = {"tokenizer_file": "/dev/zero", "vocab": "/dev/zero", "merges": "/dev/zero"}
    config.write_text(json.dumps(given_ | places))
    monkeypatch.setattr("surgery.loading.AutoTokenizer.from_pretrained", load)
    load_tokenizer(tmp_path)
    assert seen == [given_]
    assert json.loads(config.read_text()) == given_ | places, "yours stays as it is"


def test_a_reader_gets_copies_of_files_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "secret").write_bytes(b"y")
    files = {"a": tmp_path / "a", "more/b": tmp_path / "a"}
    with copy_files(files, SourceError) as copy:
        found = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
        assert found == {"a", "more/b"}
        assert (copy / "more/b").read_bytes() == b"x" * 10
        assert copy.stat().st_mode & 0o077 == 0, "private"
    assert not copy.exists()
