"""A checkpoint folder as it is stored: configuration, shards, and sidecars such as a tokenizer.

Reads safetensors, single or sharded, else pickled weights (`pytorch_model.bin`, with
weights_only). Never runs code of the source, and never follows an index out of the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from surgery.checkpoint.tensors import Array, StoredTensor, TensorInfo, read_header
from surgery.errors import CheckpointError, SourceError
from surgery.privacy import check_link, separate_paths
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
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""What a model that reads images needs, too."""
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
SIDECARS = (
    *TOKENIZER,
    *TEMPLATES,
    *PROCESSORS,
    "generation_config.json",
    *(
        "".join(f"[{letter}{letter.lower()}]" for letter in name) + "*"
        for name in ("LICENSE", "LICENCE", "COPYING", "NOTICE", "USE_POLICY")
    ),
)
"""Patterns of the files that an export takes along. Licenses are written in any case."""


@dataclass(frozen=True)
class Shard:
    """One weight file. `verbatim`: its bytes can be copied whole."""

    path: Path
    tensors: tuple[StoredTensor, ...]
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
    def tensors(self) -> dict[str, StoredTensor]:
        return {tensor.info.name: tensor for shard in self.shards for tensor in shard.tensors}

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        return {name: tensor.info for name, tensor in self.tensors.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the folder that an edit may read, whether it exists or not."""
        names = ("config.json", SAFETENSORS_INDEX, PICKLE_INDEX, MANIFEST, CARD)
        shards = (shard.path for shard in self.shards)
        return (*shards, *self.sidecars.values(), *(self.folder / name for name in names))

    def read(self, name: str) -> Array:
        """Returns a stored tensor as a new array."""
        if name not in self.tensors:
            raise CheckpointError(f"tensor {name!r} is missing", where=self.folder)
        return self.tensors[name].read_array()

    @cached_property
    def sidecars(self) -> dict[str, Path]:
        """Tokenizer, generation, chat template and license files by name, ascending."""
        found = _find(self.folder, SIDECARS)
        return {n: p for n, p in found.items() if p.is_file() and p.suffix not in CODE_OR_WEIGHTS}


def _find(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """Returns what matches in a folder, by name, ascending. Raises as `check_link`."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.exists()}
    return {path.relative_to(folder).as_posix(): check_link(path, folder) for path in sorted(found)}


def open_tokenizer(folder: Path) -> AbstractContextManager[Path]:
    """A private folder with only what a tokenizer needs of this one, for readers that look around.

    Raises `SourceError` for a file that cannot be read, and as `check_link`.
    """
    return copy_files(_find(folder, ("config.json", *TOKENIZER, *TEMPLATES)), SourceError)


def read_sidecar(path: Path) -> bytes:
    """Returns a file of the source as the export holds it: byte for byte but for local paths.

    Raises `CheckpointError` for a file that cannot be read, or JSON that is not valid.
    """
    data = read_bytes(path, CheckpointError)
    if path.suffix != ".json":
        return data
    with reraise_as(CheckpointError, "not valid JSON", path):
        kept, paths = separate_paths(parse_json(data), path.name)
    return encode_json(kept) if paths else data


def encode_json(value: object) -> bytes:
    """Returns the content of a JSON file that people may read."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens a folder. Reads only headers and the configuration."""
    if not folder.is_dir():
        raise SourceError("no such folder", where=folder)
    config = read_config(folder)
    entry = find_weights(lambda name: (folder / name).is_file())
    if entry is None:
        raise SourceError(
            "holds no weights",
            where=folder,
            expected=f"{SAFETENSORS}, {PICKLE}, or an index of shards",
        )
    if entry.endswith(INDEX):
        return _open_index(folder, config, entry)
    return Checkpoint(folder, config, (_open_shard(folder / entry, config),))


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
    """Returns the file of weights or its index; a single file comes first."""
    return next(filter(has, (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX)), None)


def read_index(folder: Path, entry: str, has: Callable[[str], bool]) -> tuple[dict[str, str], Any]:
    """Returns the weight map (tensor → file) and the metadata of an index of shards.

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
    weight_map, metadata = read_index(folder, entry, lambda name: (folder / name).is_file())
    names = dict.fromkeys(weight_map.values())
    shards = {name: _open_shard(folder / name, config) for name in names}
    stored = {(tensor.info.name, file) for file in shards for tensor in shards[file].tensors}
    for name, _ in sorted(stored ^ weight_map.items()):
        found = sorted(file for stored_name, file in stored if stored_name == name)
        if not found and name in HEADS and entry == PICKLE_INDEX:
            continue  # left out as a second name; an inventory misses a head that is not tied
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
        tensors, metadata = read_header(path)
        return Shard(path, tuple(tensors), metadata, verbatim=True)
    from surgery.checkpoint.torch_tensors import (
        read_pickle,
    )  # needs torch, which takes seconds to import

    tied = HEADS if config.get("tie_word_embeddings") is not False else ()
    return Shard(path, tuple(read_pickle(path, aliases=tied)), {"format": "pt"}, verbatim=False)
