"""An edit as one small file: what differs from the source, and the hashes of the whole result.

A patch is a safetensors file. It holds every tensor whose bytes the source does not have, every
other file that the source does not have (a U8 tensor named `file:NAME`), and the header of each
weight file (`header:NAME`), so that applying it gives the same bytes. `surgery.json` is among the
files; it names the source by its hash. The model card is made anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from surgery.card.text import read_card, render_card
from surgery.checkpoint.source import CARD, MANIFEST, Checkpoint
from surgery.checkpoint.tensors import Bytes, StoredTensor, TensorInfo, read_header, read_range
from surgery.checkpoint.writer import OutputShard, Progress, write_file
from surgery.editing.preparing import Prepared
from surgery.errors import CheckpointError, ManifestError, SourceError
from surgery.exporting import Export, check_target, list_owned, write
from surgery.hub.finding import find_recorded, get_last_name
from surgery.output import claim, create_folder
from surgery.proof.static import FileChecks
from surgery.record.manifest import Manifest, read_manifest
from surgery.untrusted import guard, parse_json

SUFFIX = ".patch.safetensors"
_FILE, _HEADER = "file:", "header:"


def write_patch(
    prepared: Prepared, output: Path | None = None, *, overwrite: bool = False, **options: Any
) -> Export:
    """Exports like `surgery.exporting.write`, and keeps only a patch, in the file `output`.

    The export itself is written beside the patch and removed: it needs that much free space for a
    while. `options`: as for `write`. The default output is `NAME-VARIANT-BLOCKS.patch.safetensors`.
    """
    target = output or name_patch(prepared.default_output)
    with (
        create_folder(target, None, overwrite=overwrite) as partial,
        claim(target.absolute().with_name(f"{target.name}.export")) as staging,
    ):
        export = write(prepared, staging / "result", **options)
        entries = tuple(_list_differences(prepared.checkpoint, export.output))
        write_file(partial, OutputShard(entries, {"format": "pt"}).read_pieces())
    return replace(export, output=target)


def name_patch(output: Path) -> Path:
    """The default name of a patch, from that of the export."""
    return output.with_name(output.name + SUFFIX)


def _list_differences(source: Checkpoint, result: Path) -> Iterator[StoredTensor]:
    for path in sorted(path for path in result.rglob("*") if path.is_file()):
        name, size = path.relative_to(result).as_posix(), path.stat().st_size
        kind, other, tensors = _FILE, source.folder / name, list[StoredTensor]()
        if path.suffix == ".safetensors":
            kind, (tensors, _) = _HEADER, read_header(path)
            size -= sum(tensor.info.nbytes for tensor in tensors)
        elif name == CARD or (other.is_file() and other.read_bytes() == path.read_bytes()):
            continue
        info = TensorInfo(kind + name, "U8", (size,))
        yield StoredTensor(info, partial(read_range, path, 0, size))
        yield from (tensor for tensor in tensors if not _has(source, tensor))


def _has(source: Checkpoint, tensor: StoredTensor) -> bool:
    there = source.tensors.get(tensor.info.name)
    return there is not None and there.info == tensor.info and there.read() == tensor.read()


def apply_patch(
    model: str | Path,
    patch: Path,
    output: Path,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda nbytes: None,
) -> Manifest:
    """Makes the folder that the patch was taken from, byte for byte, from the model it edits.

    Returns its manifest.

    **Raises:** `ManifestError` for a file that is no patch, `SourceError` for another model than
    the one that was edited, `CheckpointError` if a file does not get its recorded hash, or is code.
    """
    check_target(model, output, overwrite=overwrite)
    held = {tensor.info.name: tensor for tensor in read_header(patch)[0]}
    with create_folder(output, list_owned, overwrite=overwrite) as folder:
        if _FILE + MANIFEST not in held:
            fix = "give a file that `export` wrote with `as_patch`"
            raise ManifestError("is not a patch", where=patch, fix=fix)
        (folder / MANIFEST).write_bytes(held[_FILE + MANIFEST].read())
        manifest = read_manifest(folder)
        assert manifest is not None
        recorded = manifest.edit.source
        found = find_recorded(model, revision, recorded)
        if not found.is_that(recorded):
            raise SourceError(
                "is not the model that the patch was made for",
                where=model,
                expected=f"{recorded.model} with content {(recorded.content or '')[:12]}",
                got=(found.identified.content or "")[:12],
            )
        for name, file in manifest.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            fix = "get the patch again, or the source's other files, such as its tokenizer"
            with guard(CheckpointError, "cannot be made from the patch", name, fix):
                pieces = _read_file(name, held, found.checkpoint)
                if write_file(folder / name, pieces, progress) != file.sha256:
                    raise CheckpointError("does not get its recorded hash", where=name, fix=fix)
        card = render_card(manifest, read_card(found.folder), name=get_last_name(output))
        write_file(folder / CARD, [card.encode()])
        FileChecks(folder, manifest, None).check_contents()
    return manifest


def _read_file(name: str, held: Mapping[str, StoredTensor], source: Checkpoint) -> Iterator[Bytes]:
    """Yields the content of a file of the result."""
    if _HEADER + name in held:
        header = bytes(held[_HEADER + name].read())
        yield header
        entries = parse_json(bytes(header[8:]))
        entries.pop("__metadata__", None)
        for tensor in sorted(entries, key=lambda key: entries[key]["data_offsets"]):
            yield from (held.get(tensor) or source.tensors[tensor]).read_pieces()
    elif _FILE + name in held:
        yield held[_FILE + name].read()
    else:
        yield (source.folder / name).read_bytes()
