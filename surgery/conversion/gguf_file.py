"""Writes a model as one GGUF file for llama.cpp, tensor by tensor, and reads it back.

Matrices get the chosen type. Norms and biases stay float32, so the constants of an edited block,
which are biases, stay exact; its query and key weights are zeros, which every type holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.checkpoint.configuration import check_alone, check_processors
from surgery.checkpoint.inventory import Inventory
from surgery.checkpoint.source import HEADS
from surgery.checkpoint.tensors import Array
from surgery.conversion.architectures import STOCK, Architecture, architecture_of, write_settings
from surgery.conversion.vocabulary import write_vocabulary
from surgery.errors import CheckpointError, OutputError, UnsupportedError
from surgery.exporting import check_apart
from surgery.hub.finding import find_model
from surgery.output import check_output, create_folder, recognize_mark
from surgery.privacy import get_last_name
from surgery.proof.static import check_written
from surgery.untrusted import reraise_as

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

_MARK = "attn_surgery.wrote"  # a key that no program needs
GGUF = recognize_mark("a GGUF file", _MARK.encode())
TYPES = ("f16", "bf16", "f32", "q8_0", "q4_0")
_ROUNDING = {
    "F32": (0.0, 0.0),
    "F16": (2.0**-11, 2.0**-25),
    "BF16": (2.0**-8, 0.0),
    "Q8_0": (0.5 / 127 + 2.0**-11, 2.0**-18),  # half a step, and the rounding of the scale
    "Q4_0": (1 / 8 + 2.0**-11, 2.0**-21),
}
"""Type → what a number may lose: a share of the largest in its block, and what the smallest lose.

A block of the quantized types is 32 numbers; of the others, one."""


@dataclass(frozen=True)
class Conversion:
    """A finished file. `left_out`: tensors that llama.cpp does not read, and that do nothing.

    `largest_difference`: between a number of the source and of the file, read back.
    """

    output: Path
    architecture: str
    type: str
    tensors: int
    left_out: tuple[str, ...]
    largest_difference: float

    def to_json(self) -> dict[str, Any]:
        more = {"output": str(self.output), "format": "gguf", "bytes": self.output.stat().st_size}
        return {**asdict(self), **more}


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file. `read` returns it as float32, ordered as llama.cpp has it."""

    name: str
    form: GGMLQuantizationType
    shape: tuple[int, ...]
    read: Callable[[], Array]


def convert_to_gguf(
    model: str | Path,
    output: str | Path,
    *,
    kind: str = "f16",
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Conversion:
    """Writes a model as a GGUF file, reads it back, and compares every tensor.

    It is in the stock layout, or a compact Llama or Mistral.

    An edited model must pass the checks of `surgery.proof.static` that need no source.

    **Arguments:** `model`: a folder, an embedded model or a Hub id; `kind`: one of `TYPES`, for
    matrices; `progress`: called with the number of bytes just written.

    **Raises:** `UnsupportedError` where llama.cpp would run another model or none, or without the
    `gguf` package; `OutputError` if a number does not come back within its type's rounding.
    """
    target = Path(output)
    check_output(target, GGUF, overwrite=overwrite)
    found = find_model(model)
    check_apart(found.folder, target)
    check_processors(found.folder)
    check_alone(found.folder)
    if found.manifest is not None:
        check_written(found.folder, found.manifest, None, new=False)
    name = get_last_name(Path(found.source.model))
    architecture, writer, more = _make_header(found.inventory, found.folder, name, kind)
    tensors, left_out = _list_tensors(found.inventory, found.checkpoint.read, architecture, kind)
    written = [*tensors, *more]
    with create_folder(target, GGUF, overwrite=overwrite) as partial:
        with reraise_as(CheckpointError, "cannot be converted", found.folder, writes=True):
            _write(partial, writer, written, progress)
        worst = max(_compare(partial, written))
    return Conversion(target, architecture.name, kind, len(written), left_out, worst)


def check_convertible(
    inventory: Inventory, folder: Path, read: Callable[[str], Array] | None
) -> None:
    """Raises the errors of `convert_to_gguf` before there is a model.

    `folder` holds the tokenizer. Without `read`, which returns a tensor, it looks at no tensor.
    """
    architecture, _, _ = _make_header(inventory, folder, folder.name, TYPES[0])
    if read is not None:
        _list_tensors(inventory, read, architecture, TYPES[0])


def _make_header(
    inventory: Inventory, folder: Path, name: str, kind: str
) -> tuple[Architecture, GGUFWriter, list[_Tensor]]:
    """Returns a writer that holds the settings and the vocabulary, and tensors of settings."""
    if find_spec("gguf") is None:
        fix = "pip install 'attn-surgery[gguf]'"
        raise UnsupportedError("a GGUF file needs the gguf package", fix=fix)
    import gguf

    architecture = architecture_of(inventory)
    writer = gguf.GGUFWriter(None, architecture.name)
    writer.add_bool(_MARK, True)
    writer.add_name(name)
    writer.add_file_type(
        gguf.LlamaFileType["ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"]
    )
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    with reraise_as(CheckpointError, "cannot be converted", folder):
        divisors = write_settings(writer, architecture, inventory)
        write_vocabulary(writer, folder, inventory.dimensions.vocabulary)
    if divisors is None:
        return architecture, writer, []
    form = gguf.GGMLQuantizationType.F32
    return (
        architecture,
        writer,
        [_Tensor("rope_freqs.weight", form, divisors.shape, lambda: divisors)],
    )


def _check_tied(head: Array, embedding: Array, where: str) -> None:
    """Raises `UnsupportedError` for a head of its own in a model that claims to share it."""
    if head.tobytes() != embedding.tobytes():
        raise UnsupportedError(
            "the output embedding differs from the input embedding, and config.json ties them",
            where=where,
            fix="set 'tie_word_embeddings' to false there, if the model was trained so",
        )


def _list_tensors(
    inventory: Inventory, read: Callable[[str], Array], architecture: Architecture, kind: str
) -> tuple[list[_Tensor], tuple[str, ...]]:
    """Returns the file's tensors, and the names of those without effect that it leaves out."""
    import gguf

    (arch,) = (key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(arch, inventory.dimensions.num_blocks)
    tensors: dict[str, _Tensor] = {}
    left_out, heads, embedding = list[str](), list[str](), ""
    for stored, info in inventory.parameters.items():
        match = inventory.family.match(stored)
        role, block = (match[0].role, match[1]) if match else (None, None)
        if inventory.is_tied and stored in HEADS:
            heads.append(stored)
            continue
        name = names.get_name(stored, (".weight", ".bias"))
        if name == "token_embd.weight":
            embedding = stored
        if role == "affine_weight":
            name = f"blk.{block}.attn_output.weight"
        if architecture.leaves_out(name, role, inventory.compact_blocks.get(block or 0)):
            if "norm" not in stored and read(stored).any():
                raise UnsupportedError(
                    f"llama.cpp's {architecture.name} does not read this bias",
                    where=stored,
                    fix=STOCK
                    if role == "affine_bias"
                    else "make it with `export(variant=identity)` or zero there",
                )
            left_out.append(stored)
            continue
        if name is None:
            raise UnsupportedError(
                f"llama.cpp's {architecture.name} has no such tensor", where=stored
            )

        def ordered(stored: str = stored, role: Any = role) -> Array:
            return architecture.reorder(read(stored).astype(np.float32), role, inventory)

        tensors[name] = _Tensor(name, _choose_form(name, info.shape, kind), info.shape, ordered)
    for head in heads:
        _check_tied(read(head), read(embedding), head)
    if inventory.is_tied and "output.weight" in architecture.needs:
        tensors["output.weight"] = replace(tensors["token_embd.weight"], name="output.weight")
    for name in architecture.needs:
        if name not in tensors:
            raise UnsupportedError(f"llama.cpp's {architecture.name} needs a tensor {name}")
    return list(tensors.values()), tuple(left_out)


def _choose_form(name: str, shape: tuple[int, ...], kind: str) -> GGMLQuantizationType:
    """Vectors are float32. A width that does not divide into blocks of the type gets float16."""
    import gguf

    form = gguf.GGMLQuantizationType[kind.upper()]
    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    if kind == "q4_0" and not name.startswith("blk."):
        form = gguf.GGMLQuantizationType.Q8_0  # as llama.cpp's own quantization spares them
    block, _ = gguf.GGML_QUANT_SIZES[form]
    return form if shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _write(
    path: Path, writer: GGUFWriter, tensors: list[_Tensor], progress: Callable[[int], None]
) -> None:
    import gguf

    for tensor in tensors:
        size = gguf.quant_shape_to_byte_shape(tensor.shape, tensor.form)
        nbytes = int(np.prod(size))
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), nbytes, tensor.form)
    with closing(writer):
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            with np.errstate(over="ignore"):  # reported when it is read back
                data = gguf.quants.quantize(tensor.read(), tensor.form)
            writer.write_tensor_data(np.ascontiguousarray(data))
            progress(data.nbytes)


def _compare(path: Path, written: list[_Tensor]) -> Iterator[float]:
    """Yields the largest difference of each tensor. Raises `OutputError` beyond its rounding."""
    import gguf

    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for tensor in written:
        back, source = stored.pop(tensor.name), tensor.read()
        block, _ = gguf.GGML_QUANT_SIZES[tensor.form]
        values = gguf.quants.dequantize(back.data, back.tensor_type).reshape(-1, block)
        if back.tensor_type != tensor.form or values.size != source.size:
            raise OutputError("has another type or shape in the file", where=tensor.name)
        source = source.reshape(-1, block)
        share, least = _ROUNDING[tensor.form.name]
        difference = np.abs(values - source)
        if not (difference <= np.abs(source).max(1, keepdims=True) * share + least).all():
            broken = not np.isfinite(source).all()
            fix = "it holds NaN or infinity" if broken else "choose another form with `kind`"
            if tensor.form.name == "F16" and not broken:
                fix = "choose bf16 or f32: numbers above 65504 do not fit f16"
            raise OutputError("does not come back from the file", where=tensor.name, fix=fix)
        yield float(difference.max())
    if stored:
        raise OutputError("the file holds tensors that were not written", got=", ".join(stored))
