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
import torch
from command_line import memory_below
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from surgery.checkpoint import read_header, write_header
from surgery.errors import CheckpointError
from surgery.tensors import BYTES, Tensor, decode, encode

NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda s: s != "__metadata__")
SHAPES = st.just(()) | array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BOOL": np.bool_},
    **{f"I{size}": np.dtype(f"i{size // 8}") for size in (8, 16, 32, 64)},
    **{f"U{size}": np.dtype(f"u{size // 8}") for size in (8, 16, 32, 64)},
}
"""What the library reads as numpy arrays."""
ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda tag: SHAPES.flatmap(
        lambda shape: arrays(np.uint8, (int(np.prod(shape)) * BYTES[tag],)).map(
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
    entries, found = read_header(path)
    assert found == metadata
    assert {entry.tensor.name for entry in entries} == set(tensors)
    for entry in entries:
        original = tensors[entry.tensor.name]
        assert entry.tensor.shape == original.shape
        assert entry.read() == original.tobytes()


@given(FILES, METADATA)
@settings(deadline=None)
def test_the_library_reads_what_is_written_here(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    tags = {np.dtype(dtype): tag for tag, dtype in DTYPES.items()}
    header = write_header([Tensor(n, tags[a.dtype], a.shape) for n, a in tensors.items()], metadata)
    assert len(header) % 8 == 0
    path.write_bytes(header + b"".join(array.tobytes() for array in tensors.values()))
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert loaded[name].tobytes() == array.tobytes()
        assert loaded[name].shape == array.shape
    with safe_open(path, "numpy") as file:
        assert (file.metadata() or {}) == metadata


@given(arrays(np.float32, 20, elements=st.floats(width=32)))
def test_bfloat16_is_rounded_as_torch_rounds(values: np.ndarray) -> None:
    theirs = torch.from_numpy(values).bfloat16()
    ours = decode(encode(values, "BF16"), "BF16")
    assert np.array_equal(ours, theirs.float().numpy(), equal_nan=True)


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
    assert sum(entry.tensor.nbytes for entry in stored) < len(content)
    for entry in stored:
        assert len(entry.read()) == entry.tensor.nbytes


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
            container({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, b"xx"),
            "got F4",
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
    ((entry,), _) = read_header(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match="the file became shorter"):
        entry.read()
