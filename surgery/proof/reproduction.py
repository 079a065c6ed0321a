"""Repeating a recorded edit: export again from the record, and compare hashes.

`identity` and `zero` only copy and cut numbers, so every machine makes the same bytes. Fitted
variants (`mean`, `linear`) rest on the sums of a forward pass, whose last digits differ between
versions of libraries and kinds of processors. Where their bytes differ, tensors are compared within
`TOLERANCE`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from surgery.checkpoint.content import sha256_of
from surgery.checkpoint.source import MANIFEST, Checkpoint, open_checkpoint
from surgery.checkpoint.writer import Progress
from surgery.editing.preparing import Fitting, Prepared, prepare
from surgery.errors import ManifestError, SamplesError, SourceError
from surgery.exporting import Export, write
from surgery.hub.client import hub_client
from surgery.hub.finding import find_model, local_folder
from surgery.hub.resolved import ResolvedModel
from surgery.hub.state import Stored, find_published
from surgery.record.manifest import (
    CalibrationRecord,
    Manifest,
    Source,
    read_manifest,
    versions,
)

TOLERANCE = 0.01  # a few roundings of bfloat16
"""Largest |repeated - recorded| / |recorded| (Frobenius) of a tensor of a fitted variant."""
_TINY = 1e-30  # a norm of zero allows no difference


@dataclass(frozen=True)
class Original:
    """An edited model to repeat: its manifest, and its files in a folder or on the Hub."""

    model: str
    revision: str | None
    manifest: Manifest
    files: Mapping[str, Path | Stored]

    def holds(self, name: str, repeated: Path) -> bool:
        """Whether its file of that name is recorded, and is byte for byte the repeated one."""
        file, digest = self.files.get(name), sha256_of(repeated)
        if self.manifest.files[name].sha256 != digest:
            return False
        if isinstance(file, Stored):
            return file.holds(digest, repeated)
        return file is not None and file.is_file() and sha256_of(file) == digest


def open_original(model: str | Path, revision: str | None = None) -> Original:
    """Finds an edited model by its folder or Hub id. From the Hub it fetches the manifest alone.

    **Raises:** `SourceError` when there is no such model, `ManifestError` without a manifest.
    """
    folder = local_folder(model, revision)
    files: dict[str, Path | Stored]
    if folder is not None:
        manifest = read_manifest(folder)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    else:
        with hub_client(str(model), revision) as api:
            there = find_published(api, str(model), revision)
            manifest, files, revision = there.manifest(api), {**there.files}, there.commit
    if manifest is None:
        fix = "reproduce a model that `attn-surgery export` wrote"
        raise ManifestError(f"has no {MANIFEST}", where=model, fix=fix)
    return Original(str(model), revision, manifest, files)


@dataclass(frozen=True)
class FileResult:
    """SHA-256 of a file, recorded and repeated; None where it is not there.

    `difference`: of fitted tensors, as a share of their norm; None where bytes must be equal.
    """

    name: str
    recorded: str | None
    repeated: str | None
    equal: bool
    difference: float | None = None

    @property
    def ok(self) -> bool:
        return self.equal or (self.difference is not None and self.difference <= TOLERANCE)


@dataclass(frozen=True)
class Reproduction:
    """What came of it. `source`: the model that was edited again.

    `environment`: library → (recorded version, version now), where they differ.
    """

    original: Original
    source: ResolvedModel
    files: tuple[FileResult, ...]
    environment: Mapping[str, tuple[str | None, str | None]]

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

    def to_json(self) -> dict[str, Any]:
        return {
            "reproduced": self.first_difference is None,
            "exact": self.exact,
            "model": self.original.model,
            "source": self.original.manifest.edit.source.model_dump(mode="json"),
            "source_is_edited": self.source_is_edited,
            "files": [vars(file) for file in self.files],
            "first_difference": self.first_difference,
            "tolerance": None if self.exact else TOLERANCE,
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
    fit: Callable[[Prepared], Fitting] | None = None,
    overwrite: bool = False,
    progress: Progress = lambda nbytes: None,
) -> Reproduction:
    """Repeats the latest edit from its recorded source and compares every file.

    **Arguments:** `output`: the folder to keep the repeated export in, and with `overwrite` to
    replace; `source`: a copy of the source, where the recorded one cannot be found; `fit`: fits
    what a prepared export needs, on the calibration text that was recorded.

    **Raises:** a `SurgeryError` when the source or the text is missing or another one. A source
    with another content passes if all files come out equal: its tensors may lie in other files.
    """
    edit = original.manifest.edit
    model = _find_source(original) if source is None else source
    prepared = prepare(
        model,
        tuple(edit.parts),
        layout=edit.layout,
        revision=edit.source.commit if source is None else None,
        name=edit.source.model,
        save_as=None if edit.layout == "compact" else edit.family,
    )
    fitting = None if fit is None else fit(prepared)
    if edit.calibration is not None and fitting is not None and fitting.record is not None:
        _check_text(edit.calibration, fitting.record)
    with ExitStack() as stack:
        if output is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="attn-surgery-"))
            output = Path(folder) / "repeated"
        export = write(
            replace(prepared, chosen=edit.chosen),
            output,
            fitting=fitting,
            overwrite=overwrite,
            max_shard_size=edit.max_shard_size,
            progress=progress,
        )
        files = _compare_files(original, export)
    if not all(file.equal for file in files):
        _check_source(
            edit.source, model, replace(prepared.model, source=export.manifest.edit.source)
        )
    then, now = edit.versions, versions()
    both = {name: (then.get(name), now.get(name)) for name in {**then, **now}}
    changed = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    return Reproduction(original, prepared.model, files, changed)


def _find_source(original: Original) -> str:
    source = original.manifest.edit.source
    if source.commit is None and local_folder(source.model) is None:
        raise SourceError(
            f"was made from a folder, {source.model}, that is not here",
            where=original.model,
            fix="name it, or a copy of it, with `source`",
        )
    return source.model


def _check_source(recorded: Source, model: str | Path, found: ResolvedModel) -> None:
    if recorded.content is not None and not found.is_that(recorded):
        raise SourceError(
            "is not the model that was edited",
            where=model,
            expected=f"{recorded.model} with content {recorded.content[:12]}",
            got=(found.source.content or "")[:12],
            fix="give a copy of it with `source`",
        )


def _check_text(recorded: CalibrationRecord, found: CalibrationRecord) -> None:
    """Raises where the text is another one, or the record says something else of it."""
    if recorded.sha256 != found.sha256:
        raise SamplesError(
            "is not the calibration text that was recorded",
            where=", ".join(text.name for text in found.sources),
            expected=f"tokens of SHA-256 {recorded.sha256[:12]}",
            got=found.sha256[:12],
        )
    sizes = [(one.tokens, one.window, [*one.blocks]) for one in (recorded, found)]
    then, now = (
        [value or 0.0 for fit in one.blocks.values() for value in (fit.ridge, fit.r2)]
        for one in (recorded, found)
    )
    if sizes[0] != sizes[1] or not np.allclose(then, now, rtol=TOLERANCE, atol=TOLERANCE):
        raise ManifestError("the fit of its calibration does not come out again", where=MANIFEST)


def _compare_files(original: Original, export: Export) -> tuple[FileResult, ...]:
    """Every file of the two, by hash; fitted tensors by their difference, where that is needed."""
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
    if differing and export.plan.fitted and all(n.endswith(".safetensors") for n in differing):
        difference = _largest_difference(
            find_model(original.model, original.revision).checkpoint,
            open_checkpoint(export.output),
            export.manifest.edit.changed.rewritten,
        )
        results = [file if file.equal else replace(file, difference=difference) for file in results]
    return tuple(results)


def _largest_difference(
    one: Checkpoint, other: Checkpoint, changed: Collection[str]
) -> float | None:
    """The largest |other - one| / |one| (Frobenius) of a tensor in `changed`.

    None where any other tensor is not byte-equal, or names, dtypes or shapes differ.
    """
    if one.infos != other.infos:
        return None
    largest = 0.0
    for name, tensor in one.tensors.items():
        if name not in changed:
            if tensor.raw() != other.tensors[name].raw():
                return None
            continue
        a, b = (c.read(name).astype(np.float64) for c in (one, other))
        norm, distance = float(np.linalg.norm(a)), float(np.linalg.norm(b - a))
        largest = max(largest, distance / max(norm, _TINY))
    return largest
