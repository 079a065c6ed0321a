"""A checkpoint folder as it is stored: configuration, shards, and files such as a tokenizer.

Reads safetensors, single or sharded, else pickled weights (`pytorch_model.bin`). Never runs code of
the folder, and never follows an index out of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from surgery.errors import CheckpointError, SourceError
from surgery.privacy import check_link, separate_paths
from surgery.tensors import BYTES, Bits, Tensor, view_bits
from surgery.untrusted import copy_files, parse_json, read_bytes, read_json, reraise_as

SAFETENSORS, PICKLE, INDEX = "model.safetensors", "pytorch_model.bin", ".index.json"
SAFETENSORS_INDEX, PICKLE_INDEX = SAFETENSORS + INDEX, PICKLE + INDEX
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MANIFEST, CARD = "surgery.json", "README.md"
HEADS = ("embed_out.weight", "lm_head.weight")  # names of the output head, by library version

CODE_OR_WEIGHTS = {".py", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"}

# What you need beside the weights. A model card describes the source, not the result, and code is
# never copied.
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
SIDECARS = (
    *TOKENIZER,
    *TEMPLATES,
    "generation_config.json",
    *(
        "".join(f"[{letter}{letter.lower()}]" for letter in name) + "*"
        for name in ("LICENSE", "LICENCE", "COPYING", "NOTICE", "USE_POLICY")
    ),
)
"""Patterns of the files that an export takes along. Licenses are written in any case."""
_BEGINNING = 1 << 16  # bytes of each tensor that tell models apart


@dataclass(frozen=True)
class Entry:
    """A stored tensor: bytes of a file from `begin` on, or what `data` gives, row-major."""

    tensor: Tensor
    path: Path | None = None
    begin: int = 0
    data: Callable[[], memoryview] | None = None

    def read(self, most: int | None = None) -> bytearray:
        """A copy of its bytes, at most so many of the first."""
        size = self.tensor.nbytes if most is None else min(self.tensor.nbytes, most)
        if self.data is not None:
            return bytearray(self.data()[:size])
        assert self.path is not None
        buffer = bytearray(size)
        with reraise_as(CheckpointError, "cannot be read", self.path), self.path.open("rb") as file:
            file.seek(self.begin)
            if file.readinto(buffer) < size:
                raise OSError("the file became shorter")
        return buffer

    def read_bits(self) -> Bits:
        """Its numbers, as a new array."""
        return view_bits(self.read(), self.tensor)


@dataclass(frozen=True)
class Shard:
    """One weight file, with its tensors in the order of their bytes. `verbatim`: it is a
    safetensors file, whose bytes can be copied."""

    path: Path
    entries: tuple[Entry, ...]
    metadata: dict[str, str]
    verbatim: bool


@dataclass(frozen=True)
class Checkpoint:
    """A source folder, opened but not loaded: tensors are read on demand."""

    folder: Path
    config: dict[str, Any]
    shards: tuple[Shard, ...]
    index_metadata: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        return {entry.tensor.name: entry for shard in self.shards for entry in shard.entries}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return {name: entry.tensor for name, entry in self.entries.items()}

    def read(self, name: str) -> Bits:
        """The numbers of a tensor, as a new array."""
        if name not in self.entries:
            raise CheckpointError(f"tensor {name!r} is missing", where=self.folder)
        return self.entries[name].read_bits()

    @cached_property
    def sidecars(self) -> dict[str, Path]:
        """Tokenizer, generation, chat template and license files by name, ascending."""
        found = _find(self.folder, SIDECARS)
        return {n: p for n, p in found.items() if p.is_file() and p.suffix not in CODE_OR_WEIGHTS}


def _find(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """What matches in a folder, by name, ascending. Raises as `check_link`."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.exists()}
    return {path.relative_to(folder).as_posix(): check_link(path, folder) for path in sorted(found)}


def open_tokenizer(folder: Path) -> AbstractContextManager[Path]:
    """A private folder with only what a tokenizer needs of this one, for readers that look around.

    Raises `SourceError` for a file that cannot be read, and as `check_link`.
    """
    return copy_files(_find(folder, ("config.json", *TOKENIZER, *TEMPLATES)), SourceError)


def read_sidecar(path: Path) -> bytes:
    """A file of the source as the export holds it: byte for byte but for local paths.

    Raises `CheckpointError` for a file that cannot be read, or JSON that is not valid.
    """
    data = read_bytes(path, CheckpointError)
    if path.suffix != ".json":
        return data
    with reraise_as(CheckpointError, "not valid JSON", path):
        kept, paths = separate_paths(parse_json(data), path.name)
    return encode_json(kept) if paths else data


def encode_json(value: object) -> bytes:
    """The content of a JSON file that people may read."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens a folder. Reads only headers and the configuration."""
    if not folder.is_dir():
        raise SourceError("no such folder", where=folder)
    config = read_config(folder)
    entry = find_weights(partial(_has, folder))
    if entry is None:
        raise SourceError(
            "holds no weights",
            where=folder,
            expected=f"{SAFETENSORS}, {PICKLE}, or an index of shards",
        )
    if entry.endswith(INDEX):
        return _open_index(folder, config, entry)
    return Checkpoint(folder, config, (_open_shard(folder / entry, config),))


def _has(folder: Path, name: str) -> bool:
    return os.path.isfile(folder / name)  # noqa: PTH113 - Path raises for a very long name


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a folder."""
    if is_adapter(lambda name: (folder / name).is_file()):
        raise refuse_adapter(folder)
    return read_json(check_link(folder / "config.json", folder), needed=True)


def is_adapter(has: Callable[[str], bool]) -> bool:
    """Whether a folder holds an adapter, and no model. `has`: whether it has a file."""
    return has(ADAPTER) and not has("config.json")


def refuse_adapter(where: object) -> SourceError:
    """The error of what takes models, for an adapter."""
    return SourceError(
        "is an adapter, which is no model without its base",
        where=where,
        expected="a whole model",
        fix="merge the two with peft; only `erase(as_adapter=True)` keeps them apart",
    )


def find_weights(has: Callable[[str], bool]) -> str | None:
    """The file of weights or its index; a single file comes first."""
    return next(filter(has, (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX)), None)


def read_index(folder: Path, entry: str, has: Callable[[str], bool]) -> tuple[dict[str, str], Any]:
    """The weight map (tensor → file) and the metadata of an index of shards.

    `has`: whether there is a file of that name. Raises `CheckpointError` for an index that is
    damaged, names a file outside the folder, or names one that is missing.
    """
    index = read_json(check_link(folder / entry, folder))
    weight_map, metadata = index.get("weight_map"), index.get("metadata") or {}
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("has no weight_map", where=entry)
    if not isinstance(metadata, dict):
        raise CheckpointError("has metadata that is not an object", where=entry)
    for name in {str(file): file for file in weight_map.values()}.values():
        if not isinstance(name, str) or Path(name).name != name or name == "..":
            raise CheckpointError("names a file outside the folder", where=entry, got=repr(name))
        if not has(name):
            what = f"names shard {name}, which is missing"
            fix = "download the model again, or report it to its author"
            raise CheckpointError(what, where=entry, fix=fix)
    return weight_map, metadata


def _open_index(folder: Path, config: dict[str, Any], entry: str) -> Checkpoint:
    weight_map, metadata = read_index(folder, entry, partial(_has, folder))
    names = dict.fromkeys(weight_map.values())
    shards = {name: _open_shard(folder / name, config) for name in names}
    stored = {(one.tensor.name, file) for file in shards for one in shards[file].entries}
    for name, _ in sorted(stored ^ weight_map.items()):
        found = sorted(file for stored_name, file in stored if stored_name == name)
        if not found and name in HEADS and entry == PICKLE_INDEX:
            continue  # left out as a second name of the embedding
        raise CheckpointError(
            f"tensor {name!r} is not where the index says",
            where=entry,
            expected=weight_map.get(name, "no such tensor"),
            got=" and ".join(found) or "no shard that holds it",
        )
    return Checkpoint(folder, config, tuple(shards.values()), metadata)


def _open_shard(path: Path, config: dict[str, Any]) -> Shard:
    check_link(path, path.parent)
    if path.suffix == ".safetensors":
        entries, metadata = read_header(path)
        return Shard(path, entries, metadata, verbatim=True)
    from surgery.torch_tensors import TAGS, as_bytes, read_pickle  # takes seconds to import

    tied = HEADS if config.get("tie_word_embeddings") is not False else ()
    entries = tuple(
        Entry(Tensor(name, TAGS[one.dtype], tuple(one.shape)), data=partial(as_bytes, one))
        for name, one in read_pickle(path, tied).items()
    )
    return Shard(path, entries, {"format": "pt"}, verbatim=False)


def read_header(path: Path) -> tuple[tuple[Entry, ...], dict[str, str]]:
    """The tensors of a safetensors file, in the order of their bytes, and the metadata.

    The library checks that the header is valid and that the tensors fill the rest of the file.
    Raises `CheckpointError` for a damaged file, or a tensor of another dtype.
    """
    from safetensors import safe_open

    with reraise_as(CheckpointError, "cannot be read", path):
        path.open("rb").close()  # the library cannot tell why a file is not read
    what = "is truncated or not valid safetensors"
    with (
        reraise_as(CheckpointError, what, path.name, "download it again"),
        safe_open(path, "numpy") as file,
    ):
        metadata = dict(file.metadata() or {})
        slices = {name: file.get_slice(name) for name in file.offset_keys()}
        tensors = [Tensor(n, s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()]
    for tensor in tensors:
        if tensor.dtype not in BYTES:
            raise CheckpointError(
                f"tensor {tensor.name!r} cannot be read",
                where=path.name,
                expected=f"one of {', '.join(BYTES)}",
                got=tensor.dtype,
            )
    begins = np.cumsum([0, *(tensor.nbytes for tensor in tensors)])
    start = path.stat().st_size - int(begins[-1])
    places = zip(tensors, begins.tolist(), strict=False)
    return tuple(Entry(tensor, path, start + begin) for tensor, begin in places), metadata


def write_header(tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> bytes:
    """The header, with its length, of a safetensors file with these tensors in this order.

    The library's writer needs all tensors in memory; with our own header they can stream.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        shape = list(tensor.shape)
        header[tensor.name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def hash_content(checkpoint: Checkpoint) -> str:
    """The fingerprint of a model, which tells two fine-tunes apart without reading all of them.

    SHA-256, hexadecimal, of config.json, and of the name, dtype, shape, and first 64 KiB of each
    tensor, ascending by name.
    """
    config = read_bytes(checkpoint.folder / "config.json", CheckpointError)
    return hash_tensors(config, checkpoint.entries.values())


def hash_tensors(config: bytes, entries: Iterable[Entry]) -> str:
    """`hash_content` of a config.json and tensors."""
    digest = hashlib.sha256(hashlib.sha256(config).digest())
    for entry in sorted(entries, key=lambda entry: entry.tensor.name):
        tensor = entry.tensor
        digest.update(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(entry.read(_BEGINNING))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with reraise_as(CheckpointError, "cannot be read", path), path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def list_files(folder: Path) -> list[str]:
    """The names of all files and links below a folder, in order.

    Raises `CheckpointError` for a folder that cannot be listed: a loader may still open files in it
    by name.
    """

    def fail(error: OSError) -> None:
        raise error

    found: list[Path] = []
    with reraise_as(CheckpointError, "cannot be listed", folder):
        for at, folders, files in os.walk(folder, onerror=fail):
            links = [name for name in folders if Path(at, name).is_symlink()]
            found += [Path(at, name) for name in (*files, *links)]
    return sorted(path.relative_to(folder).as_posix() for path in found)
