"""Contract: a model's files take no more memory than they have, and claim nothing unseen.

Configurations that are no small file, tensors larger than what is stored of them, names and shapes
without end: each is one line that names the file, and the limit where there is one.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import attn_surgery, memory_below

from hostile.victims import change, commands, model, refuse
from surgery.checkpoint.torch_tensors import read_pickle
from surgery.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)  # whoever opens it waits for a writer that never comes


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def gigabytes(path: Path) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(2**36)  # takes no room on the disk


NO_FILES: list[tuple[Callable[[Path], None], str]] = [
    (pipe, "is not a regular file"),
    (device, "is not a regular file"),
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
    if name == INDEX and spoil is not gigabytes:  # a pipe is no index: there are no weights then
        outcome.assert_error(f"{source}: holds no weights")
    elif name == "surgery.json" and spoil is device:
        outcome.assert_error(f"{name}: is a link out of the model's folder, which is not followed")
    else:
        outcome.assert_error(f"{name}: {text}")


def test_a_terabyte_of_one_number(tmp_path: Path) -> None:
    source = model(tmp_path / "model", weights="bin")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    name = "gpt_neox.embed_in.weight"
    state[name] = torch.zeros(1).expand(2**32, 64)
    torch.save(state, source / "pytorch_model.bin")
    change(source / "config.json", vocab_size=2**32)
    for command in ("extract", "export"):
        refuse(
            commands(source, tmp_path)[command],
            f"pytorch_model.bin: tensor {name!r} is larger than its stored data",
            "(expected at most 4 bytes, got 1,099,511,627,776)",
        )


def test_tensors_that_share_their_numbers_are_read(tmp_path: Path) -> None:
    """Views of what is stored are as they were, whatever their strides."""
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": whole, "b": whole.T, "c": whole[1:], "d": whole[:1]}
    torch.save(tensors, tmp_path / "some.bin")
    found = {
        read.info.name: read.read_array().tolist() for read in read_pickle(tmp_path / "some.bin")
    }
    assert found == {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.mark.parametrize("same", [True, False])
def test_many_tensors_of_the_same_numbers(tmp_path: Path, same: bool) -> None:
    """No tensor claims more than is stored of it, and together they claim a hundred times that."""
    source = model(tmp_path / "model", weights="bin", config={"num_hidden_layers": 50})
    path = source / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    stored = torch.zeros(2**16)
    for name, tensor in state.items():
        start = 0 if same else len(name) % 5
        state[name] = stored[start : start + tensor.numel()].view_as(tensor)
    torch.save(state, path)
    size = path.stat().st_size
    refuse(
        commands(source, tmp_path)["export"],
        "pytorch_model.bin: its tensors are far larger than the file",
        f"(expected at most {2 * size:,} bytes, twice the file, got ",
    )


def test_a_pickle_that_unpacks_itself(tmp_path: Path) -> None:
    """Compressed records would be unpacked before anything is known of them."""
    source = model(tmp_path / "model", weights="bin")
    path = source / "pytorch_model.bin"
    compress(path, "", more=0)
    refuse(
        commands(source, tmp_path)["export"],
        "pytorch_model.bin: holds compressed entries, which torch would unpack whole",
        "; convert it to safetensors if you trust its author",
    )


def compress(path: Path, names: str, more: int) -> None:
    """Compresses the entries of torch's archive whose names end so, and adds zeros to each."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", compresslevel=1) as new:
        for name, data in records.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith(names) else 0
            with new.open(entry, "w") as record:
                record.write(data)
                for _ in range(more if entry.compress_type else 0):
                    record.write(bytes(2**20))


def test_a_compressed_pickle_takes_no_memory(tmp_path: Path) -> None:
    """A thousand times the file, of which torch needs but the beginning."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(2)}, path)
    compress(path, "data.pkl", more=256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"holds compressed .* got 1 of \d\)"):
        read_pickle(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def list_twice(path: Path, large: bool) -> None:
    """Puts a second list of entries at the end of a zip archive, in which none is compressed.

    The end of the archive, in 32 or 64 bits, still names the first list.
    """
    data = path.read_bytes()
    end = data.rindex(b"PK\5\6")
    number, size, start = struct.unpack_from("<H2L", data, end + 10)
    second, at = bytearray(data[start:end]), 0
    for _ in range(number):
        second[at + 10 : at + 12] = bytes(2)
        second[at + 24 : at + 28] = second[at + 20 : at + 24]
        at += 46 + sum(struct.unpack_from("<3H", second, at + 28))
    whole = data[:end] + second
    if large:
        counts = (number, number, size)
        first, last = (
            struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *counts, place)
            for place in (start, end + 56)
        )
        whole = data[:end] + first + second + last + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    path.write_bytes(whole + data[end:])


@pytest.mark.parametrize("large", [False, True])
def test_the_list_of_entries_is_the_one_that_torch_reads(tmp_path: Path, large: bool) -> None:
    """Others take the list that stands at the end of the archive, whatever its end says."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(2)}, path)
    assert [one.info.name for one in read_pickle(path)] == ["x"]
    compress(path, "nothing", more=0)
    assert [one.info.name for one in read_pickle(path)] == ["x"], "nor need torch have written it"
    compress(path, "data.pkl", more=1)
    list_twice(path, large)
    if not large or sys.version_info < (3, 13):  # newer ones refuse such an end themselves
        with zipfile.ZipFile(path) as seen:
            assert not any(entry.compress_type for entry in seen.infolist())
    assert torch.load(path, weights_only=True, mmap=True)["x"].tolist() == [1, 1]
    with pytest.raises(CheckpointError, match=r"entries is not at its end|orrupt zip64"):
        read_pickle(path)


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
