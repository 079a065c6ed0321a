"""Contract: a model's files take no more memory than they have, and claim nothing unseen.

Configurations that are no small file, tensors larger than what is stored of them, names and shapes
without end: each is one line that names the file, and the limit where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import attn_surgery, memory_below

from hostile.victims import commands, model, refuse
from surgery.checkpoint.torch_tensors import read_pickle

INDEX = "model.safetensors.index.json"


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def gigabytes(path: Path) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(2**36)  # takes no room on the disk


NO_FILES: list[tuple[Callable[[Path], None], str]] = [
    (folder, "cannot be read (got is a directory)"),
    (gigabytes, "is too large (expected at most 67,108,864 bytes)"),
]


@pytest.mark.parametrize(("spoil", "text"), NO_FILES)
@pytest.mark.parametrize("name", ["config.json", "surgery.json", INDEX, "tokenizer_config.json"])
def test_small_files_that_are_none(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], text: str
) -> None:
    source = model(tmp_path / "model", num_shards=2)
    spoil(source / name)
    command = "extract" if name.startswith("tokenizer") else "export"
    with memory_below(2**28):
        outcome = attn_surgery(*commands(source, tmp_path)[command])
    if name == INDEX and spoil is folder:  # there are no weights then
        outcome.assert_error(f"{source}: holds no weights")
    else:
        outcome.assert_error(f"{name}: {text}")


def test_tensors_that_share_their_numbers_are_read(tmp_path: Path) -> None:
    """Views of what is stored are as they were, whatever their strides."""
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": whole, "b": whole.T, "c": whole[1:], "d": whole[:1]}
    torch.save(tensors, tmp_path / "some.bin")
    found = {
        read.info.name: read.read_array().tolist() for read in read_pickle(tmp_path / "some.bin")
    }
    assert found == {name: tensor.tolist() for name, tensor in tensors.items()}


def rewrite_header(path: Path, change_header: Callable[[dict], object]) -> None:
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    change_header(header)
    text = json.dumps(header).replace('"@"', DIGITS).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[size:])


BIAS = "gpt_neox.final_layer_norm.bias"
DIGITS = "9" * 5_000
HEADERS: dict[str, tuple[Callable[[dict], object], str]] = {
    "a block of thousands of digits": (
        lambda header: header.update(
            {f"gpt_neox.layers.{DIGITS}.input_layernorm.bias": header.pop(BIAS)}
        ),
        "unknown tensor",
    ),
    "a name of a hundred thousand letters": (
        lambda header: header.update({"x" * 100_000: header.pop(BIAS)}),
        "unknown tensor",
    ),
    "digits": (lambda header: header[BIAS].update(shape=["@"]), "not valid safetensors"),
    "beyond 64 bits": (lambda header: header[BIAS].update(shape=[2**70]), "not valid safetensors"),
    "a thousand dimensions": (
        lambda header: header[BIAS].update(shape=[64] + [1] * 1_000),
        "1001 dimensions",
    ),
    "no numbers": (lambda header: header[BIAS].update(shape=None), "not valid safetensors"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers(tmp_path: Path, case: str) -> None:
    source = model(tmp_path / "model")
    spoil, text = HEADERS[case]
    rewrite_header(source / "model.safetensors", spoil)
    for command in ("extract", "export"):
        outcome = refuse(commands(source, tmp_path)[command], text if command == "export" else "")
        assert len(outcome.stderr) < 5_000
