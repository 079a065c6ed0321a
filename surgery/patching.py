"""An edit as one small file: what differs from the source, and the hashes of the whole result.

A patch is a safetensors file. It holds every tensor whose bytes the source does not have, every
other file that the source does not have (a U8 tensor named `file:NAME`), and the header of each
weight file (`header:NAME`), so that applying it gives the same bytes. `surgery.json` is among the
files; it names the source by its hash. The model card is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from surgery.card.text import read_card, render_card
from surgery.checkpoint.source import CARD, MANIFEST, SAFETENSORS_INDEX, Checkpoint
from surgery.checkpoint.tensors import (
    Bytes,
    StoredTensor,
    TensorInfo,
    parse_header,
    read_header,
    read_range,
)
from surgery.checkpoint.writer import OutputShard, Progress, write_file
from surgery.editing.preparing import Prepared
from surgery.errors import CheckpointError, ManifestError, SourceError
from surgery.exporting import Export, check_target, list_owned, write
from surgery.families.wrapped import unwrap
from surgery.hub.finding import find_recorded
from surgery.hub.resolved import ResolvedModel
from surgery.modeling import MODELING_FILE
from surgery.output import OwnFile, claim, create_folder
from surgery.plan import Plan, make_plan
from surgery.privacy import check_link, get_last_name
from surgery.proof.expected import check_planned
from surgery.proof.static import check_written
from surgery.record.manifest import Manifest, parse_manifest
from surgery.untrusted import guard, parse_json

SUFFIX = ".patch.safetensors"
_FILE, _HEADER, _CONFIG = "file:", "header:", "config.json"
PATCH = OwnFile(
    "a patch",
    lambda file: any(tensor.info.name == _FILE + MANIFEST for tensor in read_header(file)[0]),
)
_FIX = "get the patch again, or the source's other files, such as its tokenizer"


def write_patch(
    prepared: Prepared, output: Path | None = None, *, overwrite: bool = False, **options: Any
) -> Export:
    """Exports like `surgery.exporting.write`, and keeps only a patch, in the file `output`.

    The export itself is written beside the patch and removed: it needs that much free space for a
    while. `options`: as for `write`. The default output is `NAME-VARIANT-BLOCKS.patch.safetensors`.
    """
    target = output or name_patch(prepared.default_output)
    with (
        create_folder(target, PATCH, overwrite=overwrite) as partial,
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
        named = (tensor.renamed(source.rename(tensor.info.name)) for tensor in tensors)
        yield from (tensor for tensor in named if not _has(source, tensor))


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
    the one that was edited, `CheckpointError` if a name, size, or tensor is not what the edit makes
    of that model, or a file does not get its recorded hash.
    """
    check_target(model, output, overwrite=overwrite)
    held = {tensor.info.name: tensor for tensor in read_header(patch)[0]}
    if _FILE + MANIFEST not in held:
        fix = "give a file that `export(as_patch=True)` wrote"
        raise ManifestError("is not a patch", where=patch, fix=fix)
    record = bytes(held[_FILE + MANIFEST].read())
    manifest = parse_manifest(record, f"{MANIFEST} in {patch}")
    recorded = manifest.edit.source
    found = find_recorded(model, revision, recorded)
    if not found.is_that(recorded):
        raise SourceError(
            "is not the model that the patch was made for",
            where=model,
            expected=f"{recorded.model} with content {(recorded.content or '')[:12]}",
            got=(found.identified.content or "")[:12],
            fix="give that model, or the commit that it had with `revision`",
        )
    files = _Patch(patch, manifest, held, found).list_files()
    with create_folder(output, list_owned, overwrite=overwrite) as folder:
        for name, read_pieces in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if write_file(folder / name, read_pieces(), progress) != manifest.files[name].sha256:
                raise CheckpointError("does not get its recorded hash", where=name, fix=_FIX)
        card = render_card(manifest, read_card(found.folder), name=get_last_name(output))
        write_file(folder / MANIFEST, [record])
        write_file(folder / CARD, [card.encode()])
        named = found.identified.model_copy(
            update={"model": recorded.model, "commit": recorded.commit}
        )  # the content decides, whatever its name
        check_written(folder, manifest, replace(found, source=named))
    return manifest


@dataclass(frozen=True)
class _Patch:
    """An opened patch: its `manifest`, what it holds by name, and the model that it is for."""

    path: Path
    manifest: Manifest
    held: Mapping[str, StoredTensor]
    found: ResolvedModel

    def list_files(self) -> dict[str, Callable[[], Iterable[Bytes]]]:
        """Returns what yields the content of each file of the result, by name.

        Raises a `SurgeryError`, before anything is written, unless the names, sizes, and tensors
        are those that the recorded edit makes of this model.
        """
        plan = self._plan()
        wanted, used = dict(plan.result.infos), {_FILE + MANIFEST}
        files: dict[str, Callable[[], Iterable[Bytes]]] = {}
        for name, file in self.manifest.files.items():
            if _HEADER + name in self.held:
                header = bytes(self.held[_HEADER + name].read())
                with guard(CheckpointError, "is not the header of a weight file", name, _FIX):
                    infos, tensors = parse_header(header), list[StoredTensor]()
                rename = self.found.checkpoint.rename
                for info in (replace(info, name=rename(info.name)) for info in infos):
                    ours = self.held.get(info.name) if info.name in plan.rewritten else None
                    theirs = ours or self.found.checkpoint.tensors.get(info.name)
                    right = wanted.pop(info.name, None) == info and (not ours or ours.info == info)
                    if theirs is None or not right:
                        raise self._refuse(f"tensor {info.name!r} is not one that the edit leaves")
                    tensors.append(plan.inventory.keep_finite(theirs))
                    used.update([info.name] if ours else [])
                size = len(header) + sum(info.nbytes for info in infos)
                files[name] = partial(_read_weights, header, tensors)
                used.add(_HEADER + name)
            elif _FILE + name in self.held:
                size = self.held[_FILE + name].info.nbytes
                files[name] = self.held[_FILE + name].read_pieces
                used.add(_FILE + name)
            else:
                path = self._find_in_source(name)
                size = path.stat().st_size
                files[name] = partial(read_range, path, 0, size)
            if size != file.size:
                what = "has another size than the manifest records"
                raise CheckpointError(what, where=name, expected=file.size, got=size, fix=_FIX)
        if wanted:
            raise self._refuse(f"no file holds tensor {min(wanted)!r}")
        for name in sorted(self.held.keys() - used):
            raise self._refuse(f"{name!r} belongs to no file of the result")
        for name in sorted(self.found.checkpoint.sidecars.keys() - files.keys()):
            raise CheckpointError(
                "was not in the folder that the patch was made of",
                where=self.found.folder / name,
                fix="move it to another folder",
            )
        return files

    def _plan(self) -> Plan:
        """Plans the recorded edit again, and compares the record with the plan."""
        edit, earlier = self.manifest.edit, self.found.manifest
        if edit.is_trained:
            raise self._refuse("it claims training, which no patch holds")
        if self.manifest.reports:
            raise self._refuse("it claims a report, which no patch holds")
        plan = make_plan(
            self.found.inventory,
            tuple(edit.parts),
            layout=edit.layout,
            earlier=earlier.edited_heads if earlier else None,
            save_as=edit.family,
            scrubbed=edit.scrubbed,
        )
        config = self.found.checkpoint.config
        if _FILE + _CONFIG in self.held:
            with guard(CheckpointError, "not valid JSON", _CONFIG, _FIX):
                config = unwrap(parse_json(bytes(self.held[_FILE + _CONFIG].read())))
        check_planned(edit, plan, config)
        return plan

    def _find_in_source(self, name: str) -> Path:
        checkpoint = self.found.checkpoint
        names = (_CONFIG, SAFETENSORS_INDEX, MODELING_FILE.name)
        paths = {**checkpoint.sidecars, **{name: checkpoint.folder / name for name in names}}
        if name not in paths or not paths[name].is_file():
            raise CheckpointError("is neither in the patch nor the source", where=name, fix=_FIX)
        return check_link(paths[name], checkpoint.folder)

    def _refuse(self, what: str) -> CheckpointError:
        return CheckpointError(f"is not a patch of this edit: {what}", where=self.path)


def _read_weights(header: bytes, tensors: Iterable[StoredTensor]) -> Iterator[Bytes]:
    yield header
    for tensor in tensors:
        yield from tensor.read_pieces()
