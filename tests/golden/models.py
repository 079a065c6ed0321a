"""Source models for the golden file: a few blocks each, of numbers that every machine draws alike.

`models.json` holds, for each model type, config.json and the names and shapes of all tensors, as
the library saves them. The numbers come from `RandomState`, whose stream never changes.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def read(name: str) -> Any:
    return json.loads((HERE / name).read_text())


def encode(values: Any, dtype: str) -> bytes:
    """The stored bytes; bfloat16 is rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return np.asarray(values, f"<f{4 if dtype == 'float32' else 2}").tobytes()
    bits = np.asarray(values, "<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def draw(name: str, shape: list[int]) -> Any:
    """Random numbers that depend on a tensor's name alone; gains of norms are near 1."""
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.1 * normal
    return normal * (0.5 if "embed" in name else 0.1)


def write_safetensors(path: Path, tensors: dict[str, list[int]], dtype: str) -> None:
    content = {name: encode(draw(name, shape), dtype) for name, shape in tensors.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, part in content.items():
        offsets = [end, end := end + len(part)]
        header[name] = {"dtype": DTYPES[dtype], "shape": tensors[name], "data_offsets": offsets}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(content.values()))


def write_model(folder: Path, kind: str, dtype: str = "float32", shards: int = 1) -> Path:
    """A source folder of that type."""
    model = read("models.json")[kind]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**model["config"], "torch_dtype": dtype}))
    tensors = model["tensors"]
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    names, where = list(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        own = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        write_safetensors(folder / file, {name: tensors[name] for name in own}, dtype)
        where |= dict.fromkeys(own, file)
    size = {"float32": 4, "float16": 2, "bfloat16": 2}[dtype]
    total = size * sum(int(np.prod(shape)) for shape in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
