"""Repeating an export from its recorded source, and comparing what comes of it file by file.

`identity` and `zero` only copy and cut numbers, so every machine makes the same bytes. Fitted
variants (`mean`, `linear`) rest on the sums of a forward pass, which differ in the last digits
between versions of libraries and kinds of processors: where their bytes differ, tensors are
compared within `TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from surgery.checkpoint.source import MANIFEST, Checkpoint, open_checkpoint
from surgery.checkpoint.writer import Progress
from surgery.editing.preparing import Fitting, Prepared, prepare
from surgery.errors import ManifestError, SamplesError, SourceError
from surgery.exporting import write
from surgery.hub.finding import find_model, local_folder
from surgery.hub.resolved import ResolvedModel
from surgery.proof.original import Original
from surgery.record.manifest import CalibrationRecord, Edit, Manifest, Source, versions

TOLERANCE = 0.01  # of a fitted tensor, in the norm: a few roundings of bfloat16
"""|repeated - recorded| / |recorded| that a tensor of a fitted variant may have (Frobenius)."""
_TINY = 1e-30  # a norm of zero allows for no difference


@dataclass(frozen=True)
class FileResult:
    """`difference`: of fitted tensors, as a share of their norm; None where bytes must be equal."""

    name: str
    recorded: str
    repeated: str | None
    equal: bool
    difference: float | None = None

    @property
    def ok(self) -> bool:
        return self.equal or (self.difference is not None and self.difference <= TOLERANCE)


@dataclass(frozen=True)
class Reproduction:
    """`source`: the model it was repeated from.

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
    def first_difference(self) -> FileResult | None:
        return next((file for file in self.files if not file.ok), None)

    @property
    def exact(self) -> bool:
        return all(file.equal for file in self.files)

    def to_json(self) -> dict[str, Any]:
        first = self.first_difference
        return {
            "reproduced": first is None,
            "exact": self.exact,
            "model": self.original.model,
            "source": self.original.manifest.edit.source.model_dump(mode="json"),
            "source_is_edited": self.source_is_edited,
            "files": [vars(file) for file in self.files],
            "first_difference": None if first is None else first.name,
            "tolerance": None if self.exact else TOLERANCE,
            "environment": {
                name: {"recorded": recorded, "now": now}
                for name, (recorded, now) in self.environment.items()
            },
        }


def reproduce(
    original: Original,
    output: str | Path,
    *,
    source: str | Path | None = None,
    fit: Callable[[Prepared], Fitting] | None = None,
    overwrite: bool = False,
    progress: Progress = lambda nbytes: None,
) -> Reproduction:
    """Repeats the latest edit from its recorded source and compares every file.

    **Arguments:** `output`: the folder to create for the repeated export, and with `overwrite` to
    replace; `source`: a folder that holds the source, where the recorded one cannot be found;
    `fit`: fits what a prepared export needs, from the calibration text that was recorded.

    **Raises:** a `SurgeryError` when the source or the text is not there, and `SourceError` when
    the source has another content than the recorded one, unless all files come out equal: its
    tensors may lie in other files. Other differences are no error.
    """
    edit = original.manifest.edit
    model = _source(original) if source is None else source
    prepared = prepare(
        model,
        tuple(edit.parts),
        layout=edit.layout,
        revision=edit.source.commit if source is None else None,
        name=edit.source.model,
    )
    prepared = replace(prepared, chosen=edit.chosen)
    fitting = None if fit is None else fit(prepared)
    _check_text(edit, fitting)
    export = write(
        prepared,
        output,
        fitting=fitting,
        overwrite=overwrite,
        max_shard_size=edit.max_shard_size,
        progress=progress,
    )
    files = _compared(original, export.output, export.manifest, bool(prepared.plan.fitted))
    if not all(file.equal for file in files):
        _check_source(
            edit.source, model, replace(prepared.model, source=export.manifest.edit.source)
        )
    then, now = edit.versions, versions()
    both = {name: (then.get(name), now.get(name)) for name in {**then, **now}}
    environment = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    return Reproduction(original, prepared.model, files, environment)


def _source(original: Original) -> str:
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


def _check_text(edit: Edit, fitting: Fitting | None) -> None:
    recorded, found = edit.calibration, None if fitting is None else fitting.record
    if recorded is not None and found is not None and recorded.sha256 != found.sha256:
        raise SamplesError(
            "is not the calibration text that was recorded",
            where=", ".join(text.name for text in found.sources),
            expected=f"tokens of SHA-256 {recorded.sha256[:12]}",
            got=found.sha256[:12],
        )
    if recorded is not None and found is not None and not _alike(recorded, found):
        what = "the figures of its calibration are not those that come out again"
        raise ManifestError(what, where=MANIFEST)


def _alike(recorded: CalibrationRecord, found: CalibrationRecord) -> bool:
    """Whether two records of the same text tell the same of it, fits within `TOLERANCE`."""
    sizes = [(one.tokens, one.window, [*one.blocks]) for one in (recorded, found)]
    fits = [
        [value or 0.0 for fit in one.blocks.values() for value in (fit.ridge, fit.r2)]
        for one in (recorded, found)
    ]
    then, now = fits
    return sizes[0] == sizes[1] and np.allclose(now, then, rtol=TOLERANCE, atol=TOLERANCE)


def _compared(
    original: Original, repeated: Path, manifest: Manifest, fitted: bool
) -> tuple[FileResult, ...]:
    recorded = original.manifest.files
    found = {name: file.sha256 for name, file in manifest.files.items()}
    results = [
        FileResult(
            name,
            file.sha256,
            found.get(name),
            equal=name in found and original.holds(name, repeated / name),
        )
        for name, file in recorded.items()
    ]
    results += [FileResult(name, "", found[name], False) for name in sorted({*found} - {*recorded})]
    differing = {result.name for result in results if not result.equal}
    if not fitted or not differing or not all(name.endswith(".safetensors") for name in differing):
        return tuple(results)
    recorded_model = find_model(original.model, original.revision)
    difference = _largest_difference(
        recorded_model.checkpoint, open_checkpoint(repeated), manifest.edit.changed.rewritten
    )
    return tuple(file if file.equal else replace(file, difference=difference) for file in results)


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
