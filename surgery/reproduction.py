"""Repeats a recorded edit: exports again from the record, and compares hashes.

`identity` and `zero` only copy and clear numbers, so every machine makes the same bytes. Fitted
variants (`mean`, `linear`) use sums over a forward pass, whose last digits depend on library
versions and processors. If their bytes differ, tensors are compared within `TOLERANCE`. Erasing and
healing train again, and training magnifies last digits: their result is compared within
`TRAINED_TOLERANCE`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgery.checkpoint.adapter import open_adapter
from surgery.checkpoint.content import hash_file, list_files
from surgery.checkpoint.source import MANIFEST, Checkpoint, open_checkpoint
from surgery.checkpoint.writer import Progress
from surgery.editing.preparing import Fitting, Prepared, prepare
from surgery.errors import CheckpointError, ManifestError, SamplesError, SourceError
from surgery.exporting import Export, check_target, list_owned, write
from surgery.hub.client import HubFile, find_published, open_client
from surgery.hub.finding import find_commit, find_export, find_folder
from surgery.hub.resolved import ResolvedModel
from surgery.output import check_space, create_folder
from surgery.privacy import get_last_name
from surgery.proof.distance import (
    TOLERANCE,
    TRAINED_TOLERANCE,
    measure_adapters,
    measure_fitted,
    measure_trained,
)
from surgery.proof.files import check_listed
from surgery.record.manifest import (
    CalibrationRecord,
    Edit,
    Manifest,
    Source,
    list_versions,
    read_manifest,
)

if TYPE_CHECKING:
    from surgery.training.erasing import Erased


@dataclass(frozen=True)
class Original:
    """An edited model: its manifest, and its files in a folder or on the Hub."""

    model: str
    revision: str | None
    manifest: Manifest
    files: Mapping[str, Path | HubFile]

    def holds(self, name: str, repeated: Path) -> bool:
        """Whether its file of that name is recorded and equals the repeated one byte for byte."""
        file, digest = self.files.get(name), hash_file(repeated)
        if file is None or self.manifest.files[name].sha256 != digest:
            return False
        if isinstance(file, HubFile):
            return file.holds(digest, repeated)
        return file.is_file() and hash_file(file) == digest


def open_original(model: str | Path, revision: str | None = None) -> Original:
    """Finds an edited model by folder or Hub id. Downloads only its manifest."""
    folder = find_folder(model, revision)
    files: dict[str, Path | HubFile]
    if folder is not None:
        manifest = read_manifest(folder)
        files = {path.relative_to(folder).as_posix(): path for path in list_files(folder)}
    else:
        with open_client(str(model), revision) as api:
            there = find_published(api, str(model), revision)
            manifest, files, revision = there.manifest(api), {**there.files}, there.commit
    if manifest is None:
        fix = "reproduce a model that `attn-surgery export` wrote"
        raise ManifestError(f"has no {MANIFEST}", where=model, fix=fix)
    if folder is not None:
        check_listed(folder, manifest)
    elif others := sorted(name for name in files if not manifest.accounts_for(name)):
        what = f"{others[0]} is not in the manifest, and loaders may take it for the model's"
        raise CheckpointError(what, where=model)
    return Original(str(model), revision, manifest, files)


@dataclass(frozen=True)
class FileResult:
    """SHA-256 of a file, recorded and repeated; None if it is missing.

    `difference`: how far fitted tensors are off, relative to their norm, or trained ones, relative
    to what training changed; None if bytes must be equal.
    """

    name: str
    recorded: str | None
    repeated: str | None
    equal: bool
    difference: float | None = None
    tolerance: float = TOLERANCE

    @property
    def ok(self) -> bool:
        return self.equal or (self.difference is not None and self.difference <= self.tolerance)


@dataclass(frozen=True)
class Reproduction:
    """The result. `source`: the model that was edited again.

    `environment`: library → (recorded version, version now), for those that differ. `needs`: what a
    comparison of trained weights needs and is not here; None if they can be compared.
    """

    original: Original
    source: ResolvedModel
    files: tuple[FileResult, ...]
    environment: Mapping[str, tuple[str | None, str | None]]
    needs: str | None = None

    @property
    def state(self) -> Literal["reproduced", "differs", "cannot be compared here"]:
        if self.needs is not None:
            return "cannot be compared here"
        return "reproduced" if self.first_difference is None else "differs"

    @property
    def source_is_edited(self) -> bool:
        return self.source.manifest is not None

    @property
    def first_difference(self) -> str | None:
        """The name of the first file that differs."""
        return next((file.name for file in self.files if not file.ok), None)

    @property
    def exact(self) -> bool:
        return all(file.equal for file in self.files)

    @property
    def tolerance(self) -> float | None:
        """Within which files that are not equal were compared. None if all are equal."""
        return max((file.tolerance for file in self.files if not file.equal), default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "reproduced": None if self.needs else self.first_difference is None,
            "exact": None if self.needs else self.exact,
            "needs": self.needs,
            "model": self.original.model,
            "source": self.original.manifest.edit.source.model_dump(mode="json"),
            "source_is_edited": self.source_is_edited,
            "files": [
                {key: value for key, value in vars(file).items() if key != "tolerance"}
                for file in self.files
            ],
            "first_difference": self.first_difference,
            "tolerance": self.tolerance,
            "environment": {
                name: {"recorded": recorded, "now": now}
                for name, (recorded, now) in self.environment.items()
            },
        }


def reproduce(
    original: Original,
    output: str | Path | None = None,
    *,
    source: str | Path | None = None,
    erase: Callable[[Prepared], Erased] | None = None,
    fit: Callable[[Prepared, Any], Fitting | None] | None = None,
    heal: Callable[[Export, ResolvedModel, Path], Export] | None = None,
    overwrite: bool = False,
    progress: Progress = lambda nbytes: None,
) -> Reproduction:
    """Repeats the latest edit from its recorded source and compares every file.

    **Arguments:** `output`: keeps the repeated export in this folder, replacing it with
    `overwrite`; `source`: a copy of the source, if the recorded one cannot be found. The rest
    repeats what needs text or passages: `erase` teaches the source by a prepared cut, `fit` fits a
    prepared export of it, or of the model in memory that was taught, and `heal` heals a cut of it
    into a folder.

    A source with another content hash passes if all files are equal: it may be split into other
    files. Without the device or the dtype in which weights were trained, nothing is repeated.
    """
    edit = original.manifest.edit
    model = _find_source(original) if source is None else source
    alike: dict[str, Any] = {
        "revision": find_commit(model, [edit.source]) if isinstance(model, str) else None,
        "name": edit.source.model,
    }
    parts = tuple(edit.parts or (edit.erasing.teacher if edit.erasing else ()))
    layout = edit.layout if edit.parts else "auto"
    how: dict[str, Any] = {"layout": layout, "save_as": edit.family, "scrubbed": edit.scrubbed}
    prepared = prepare(model, parts, **how, **alike)
    if not edit.parts:
        prepared = prepared.without_cut
    versions = _compare_versions(edit.versions)
    if (needs := _find_obstacle(edit)) is not None:
        return Reproduction(original, prepared.model, (), versions, needs)
    if output is not None:
        check_target(prepared.checkpoint.folder, Path(output), overwrite=overwrite)
    _check_space(edit, prepared.total_bytes, output)
    erased = None
    if edit.erasing is not None and erase is not None:
        erased = erase(prepare(model, tuple(edit.erasing.teacher), **alike))
    fitting = None if fit is None else fit(prepared, erased.model if erased else None)
    if edit.calibration is not None and fitting is not None and fitting.record is not None:
        check_fitted_text(edit.calibration, fitting.record)
    told: dict[str, Any] = {"max_shard_size": edit.max_shard_size, "progress": progress}
    told["fitting"] = fitting
    prepared = replace(prepared, chosen=edit.chosen)
    with _open_place(output, overwrite) as place, _open_scratch() as folder:
        export, before = _write_again(prepared, place, Path(folder), erased, heal, told)
        files = _compare_files(original, export, prepared.checkpoint, before)
        if all(file.equal for file in files):
            _check_losses(edit, export.manifest.edit)
        else:
            found = replace(prepared.model, source=export.manifest.edit.source)
            _check_source(found, edit.source, model)
    needs = None if all(file.ok for file in files) else _find_unrecorded(edit, files, prepared)
    return Reproduction(original, prepared.model, files, versions, needs)


def _find_obstacle(edit: Edit) -> str | None:
    """What this machine lacks to train again as recorded."""
    records = [record for record in (edit.erasing, edit.healing) if record is not None]
    if not records:
        return None
    from surgery.training.training import find_obstacle

    return next(filter(None, map(find_obstacle, records)), None)


def _find_unrecorded(edit: Edit, files: Sequence[FileResult], prepared: Prepared) -> str | None:
    """What no comparison can do without and the record does not tell: the dtype of passes.

    Earlier versions did not record it. It follows from the device and the weights, but not for
    bfloat16 on a CPU: fast ones train in it, others in float32. So a difference shows nothing.
    """
    records = [record for record in (edit.erasing, edit.healing) if record is not None]
    unknown = any(record.dtype is None and record.device == "cpu" for record in records)
    trained = all(file.ok or file.difference is not None for file in files)
    if unknown and trained and prepared.plan.inventory.dtype == "BF16":
        return "the number format in which it was trained, which earlier versions did not record"
    return None


def _check_space(edit: Edit, size: int, output: str | Path | None) -> None:
    """Raises `OutputError` if what is made again does not fit on the disk, before it is made.

    `size`: of one copy of the model, in bytes. A healed model is made from a cut, and one that was
    erased and cut is compared with a cut that is not trained; both are in the temporary folder.
    """
    copies = (edit.healing is not None) + (edit.erasing is not None and bool(edit.parts))
    if output is None:
        copies += 1
    else:
        check_space(Path(output), size)
    place = Path(tempfile.gettempdir()) / "attn-surgery"
    check_space(place, copies * size, "set TMPDIR to a folder on a disk with more")


def _open_scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="attn-surgery-")


@contextmanager
def _open_place(output: str | Path | None, overwrite: bool) -> Iterator[Path]:
    """A path to export to. What is there moves to `output`, if one is given, once all succeeds."""
    if output is None:
        with _open_scratch() as scratch:
            yield Path(scratch) / "repeated"
        return
    with create_folder(Path(output), list_owned, overwrite=overwrite) as folder:
        yield (place := folder / get_last_name(Path(output)))  # by which its card calls it
        for child in place.iterdir():
            child.rename(folder / child.name)
        place.rmdir()


def _write_again(
    prepared: Prepared,
    output: Path,
    folder: Path,
    erased: Erased | None,
    heal: Callable[[Export, ResolvedModel, Path], Export] | None,
    told: Mapping[str, Any],
) -> tuple[Export, Checkpoint | None]:
    """Returns the repeated export, and what training it is measured from; None if untrained.

    `folder` holds what is made on the way; `told` is passed on to `write`.
    """
    trained = erased.trained if erased else None
    export = write(prepared, Path(folder) / "cut" if heal else output, trained=trained, **told)
    before = None
    if heal is not None:
        before = open_checkpoint(export.output)
        export = heal(export, prepared.model, output)
    if erased is not None:
        before = prepared.checkpoint
        if export.manifest.edit.parts:
            before = open_checkpoint(write(prepared, folder / "untrained", **told).output)
    return export, before


def _compare_versions(then: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Recorded and present versions of packages, where they differ."""
    now = list_versions()
    both = {name: (then.get(name), now.get(name)) for name in {**then, **now}}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def _find_source(original: Original) -> str:
    source = original.manifest.edit.source
    if source.commit is None and find_folder(source.model) is None:
        raise SourceError(
            f"was made from a folder, {source.model}, which is not here",
            where=original.model,
            fix="give it, or a copy of it, as `source`",
        )
    return source.model


def _check_source(found: ResolvedModel, recorded: Source, where: str | Path) -> None:
    """Raises `SourceError` if what was edited again is not the model of the record."""
    if recorded.content is not None and not found.is_that(recorded):
        raise SourceError(
            "is not the model that was edited",
            where=where,
            expected=f"{recorded.model} with content {recorded.content[:12]}",
            got=(found.source.content or "")[:12],
            fix="give a copy of the edited one as `source`",
        )


def _check_losses(recorded: Edit, repeated: Edit) -> None:
    """Raises `ManifestError` if the losses on the way to the same weights differ."""
    for then, now in (
        (recorded.erasing, repeated.erasing),
        (recorded.healing, repeated.healing),
    ):
        if then and now and not np.allclose(then.losses, now.losses, rtol=TOLERANCE, atol=1e-3):
            what = "the recorded losses differ from the repeated ones"
            raise ManifestError(what, where=MANIFEST)


def check_fitted_text(recorded: CalibrationRecord, found: CalibrationRecord) -> None:
    """Raises `SamplesError` if the text differs, `ManifestError` if its fit does."""
    if recorded.sha256 != found.sha256:
        raise SamplesError(
            "is not the recorded calibration text",
            where=", ".join(text.name for text in found.sources),
            expected=f"{', '.join(map(str, recorded.sources))}, tokens of SHA-256 "
            f"{recorded.sha256[:12]}",
            got=found.sha256[:12],
            fix="give the recorded files, unchanged, with `calibration`",
        )
    sizes = [(one.tokens, one.window, [*one.blocks]) for one in (recorded, found)]
    then, now = (
        [value or 0.0 for fit in one.blocks.values() for value in vars(fit).values()]
        for one in (recorded, found)
    )
    if sizes[0] != sizes[1] or not np.allclose(then, now, rtol=TOLERANCE, atol=TOLERANCE):
        raise ManifestError("the recorded fit differs from the repeated one", where=MANIFEST)


def _compare_files(
    original: Original, export: Export, source: Checkpoint, before: Checkpoint | None
) -> tuple[FileResult, ...]:
    """Compares all files by hash, and fitted or trained tensors by number where hashes differ.

    `source`: what was edited; `before`: the export before it was trained; None if it was not.
    """
    recorded, repeated = (
        {name: file.sha256 for name, file in manifest.files.items()}
        for manifest in (original.manifest, export.manifest)
    )
    results = []
    for name in sorted({**recorded, **repeated}):
        both = name in recorded and name in repeated
        equal = both and original.holds(name, export.output / name)
        results.append(FileResult(name, recorded.get(name), repeated.get(name), equal))
    differing = [file.name for file in results if not file.equal]
    inexact = before is not None or export.plan.fitted
    if differing and inexact and all(name.endswith(".safetensors") for name in differing):
        ours = find_export(original.model, original.revision)[0]
        if any(hash_file(ours.folder / name) != recorded.get(name) for name in differing):
            return tuple(results)  # whatever it is, it is not what the manifest records
        found = _measure(ours, export, source, before)
        tolerance = TOLERANCE if before is None else TRAINED_TOLERANCE
        update: dict[str, Any] = {"difference": found, "tolerance": tolerance}
        results = [file if file.equal else replace(file, **update) for file in results]
    return tuple(results)


def _measure(
    recorded: ResolvedModel, export: Export, source: Checkpoint, before: Checkpoint | None
) -> float | None:
    """How far apart a recorded and a repeated export are; None if more than numbers differs."""
    repeated, edit = export.output, export.manifest.edit
    if edit.is_adapter and edit.erasing is not None:
        rank = edit.erasing.rank
        ours, theirs = (open_adapter(one, rank)[0] for one in (recorded.folder, repeated))
        return measure_adapters(ours, theirs)
    both = recorded.checkpoint, open_checkpoint(repeated)
    if before is not None:
        return measure_trained(*both, before, export.manifest)
    return measure_fitted(*both, export.plan, source)
