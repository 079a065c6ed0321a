"""Contract: stored tensors are what the safetensors library says.

Files that the library wrote are read with equal names, dtypes, shapes and bytes, and the library
reads headers that are written here. A damaged file is a `CheckpointError`, raised without taking
memory for what a header merely claims.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import memory_below
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from surgery.checkpoint import tensors
from surgery.checkpoint.tensors import DTYPES, TensorInfo, read_header, write_header
from surgery.errors import CheckpointError

NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda s: s != "__metadata__")
SHAPES = st.just(()) | array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
COPIED = ("F8_E4M3", "F8_E5M2")  # the library reads these as torch tensors alone
ARRAYS = st.sampled_from(sorted(DTYPES.keys() - {*COPIED})).flatmap(
    lambda tag: SHAPES.flatmap(
        lambda shape: arrays(np.uint8, (int(np.prod(shape)) * DTYPES[tag].itemsize,)).map(
            lambda raw: (raw % 2 if tag == "BOOL" else raw).view(DTYPES[tag]).reshape(shape)
        )
    )
)
FILES = st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=5)
METADATA = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.text("ab"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensors") / "model.safetensors"


def container(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@given(FILES, METADATA)
@settings(deadline=None)
def test_reads_what_the_library_wrote(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    save_file(tensors, path, metadata=metadata)
    stored, found = read_header(path)
    assert found == metadata
    assert {tensor.info.name for tensor in stored} == set(tensors)
    for tensor in stored:
        original = tensors[tensor.info.name]
        assert tensor.read() == original.tobytes()
        array = tensor.read_array()
        assert (array.dtype, array.shape) == (original.dtype, original.shape)
        assert array.tobytes() == original.tobytes()
        assert tensor.info.nbytes == original.nbytes


@given(FILES, METADATA)
@settings(deadline=None)
def test_the_library_reads_what_is_written_here(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    tags = {dtype: tag for tag, dtype in DTYPES.items()}
    infos = [TensorInfo(name, tags[a.dtype], a.shape) for name, a in tensors.items()]
    assume(all(info.dtype != "F8_E8M0" for info in infos))  # which its numpy form does not read
    header = write_header(infos, metadata)
    assert len(header) % 8 == 0
    path.write_bytes(header + b"".join(array.tobytes() for array in tensors.values()))
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert loaded[name].tobytes() == array.tobytes()
        assert loaded[name].shape == array.shape
    with safe_open(path, "numpy") as file:
        assert (file.metadata() or {}) == metadata


def damaged(original: bytes) -> st.SearchStrategy[bytes]:
    """One of: a byte changed, bytes cut off, put in, taken out, or the length replaced."""
    places = st.integers(0, len(original) - 1)
    return st.one_of(
        st.tuples(places, st.integers(0, 255)).map(
            lambda at: original[: at[0]] + bytes([at[1]]) + original[at[0] + 1 :]
        ),
        places.map(lambda at: original[:at]),
        st.tuples(places, st.binary(min_size=1, max_size=9)).map(
            lambda at: original[: at[0]] + at[1] + original[at[0] :]
        ),
        st.tuples(places, places).map(lambda at: original[: min(at)] + original[max(at) :]),
        st.integers(0, 2**64 - 1).map(lambda n: n.to_bytes(8, "little") + original[8:]),
    )


ORIGINAL = container(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "BF16", "shape": [], "data_offsets": [12, 14]},
        "c": {"dtype": "I64", "shape": [0, 7], "data_offsets": [14, 14]},
    },
    bytes(range(14)),
)


@given(damaged(ORIGINAL) | st.binary(max_size=40))
def test_damaged_files(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message = None
    try:
        stored, _ = read_header(path)
    except CheckpointError as error:
        message = str(error)
    if message is not None:
        assert path.name in message
        assert len(message) < 500
        return
    assert sum(tensor.info.nbytes for tensor in stored) < len(content)
    for tensor in stored:
        assert tensor.read_array().nbytes == tensor.info.nbytes


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "truncated or not valid"),
        (b"version https://git-lfs.github.com/spec/v1\n", "truncated or not valid"),
        (ORIGINAL[:-1], "truncated or not valid"),
        (ORIGINAL + b"x", "is truncated or not valid safetensors"),
        (container([]), "is truncated or not valid safetensors"),
        (container(b"[" * 100_000), "is truncated or not valid safetensors"),
        (
            container({"a": {"dtype": "U16", "shape": [1], "data_offsets": [0, 2]}}, b"xx"),
            "got U16",
        ),
        (
            container({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}}, b"x"),
            "is truncated or not valid safetensors",
        ),
    ],
)
def test_messages(path: Path, content: bytes, text: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert "model.safetensors: " in str(caught.value)
    assert text in str(caught.value)


HUGE = {"dtype": "F64", "shape": [2**40, 2**10], "data_offsets": [0, 2**53]}


@pytest.mark.parametrize("header", [b"\0\0\x10" + bytes(5), b"\xff" * 8, container({"a": HUGE})])
def test_what_is_claimed_takes_no_memory(path: Path, header: bytes) -> None:
    """A header's length, and a tensor's shape."""
    path.write_bytes(header + b"{}")
    text = "is truncated or not valid safetensors"
    with memory_below(1_000_000), pytest.raises(CheckpointError, match=text):
        read_header(path)


def test_a_file_that_becomes_shorter(path: Path) -> None:
    """After its header was read, while its tensors are copied."""
    save_file({"a": np.ones(64, np.float32)}, path)
    ((tensor,), _) = read_header(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match="the file became shorter while it was read"):
        tensor.read()


def test_a_range_longer_than_a_piece_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "PIECE", 16)
    content = bytes(range(100))
    (tmp_path / "file").write_bytes(content)
    pieces = tensors.read_range(tmp_path / "file", 7, 90)
    assert b"".join(bytes(piece) for piece in pieces) == content[7:97]
