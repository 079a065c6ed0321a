"""Replays the recorded steps of a model, from the first source, and compares hashes.

`identity` and `zero` only copy and clear numbers, so every machine makes the same bytes. Fitted
variants (`mean`, `linear`) use sums over a forward pass, whose last digits depend on library
versions and processors. If their bytes differ, tensors are compared within `TOLERANCE`. Erasing and
healing train again, and training magnifies last digits: their result is compared within
`TRAINED_TOLERANCE`.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from surgery.checkpoint.adapter import open_adapter
from surgery.checkpoint.content import hash_file
from surgery.checkpoint.source import MANIFEST, Checkpoint, open_checkpoint
from surgery.editing.preparing import Fitting
from surgery.errors import CheckpointError, ManifestError, SamplesError
from surgery.exporting import Export, check_target, list_owned
from surgery.hub.client import HubFile, find_published, open_client
from surgery.hub.finding import (
    check_source,
    find_commit,
    find_export,
    find_folder,
    find_model,
    require_source,
)
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
from surgery.proof.files import check_listed, list_names
from surgery.record.manifest import (
    CalibrationRecord,
    Manifest,
    Step,
    list_versions,
    read_manifest,
)


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
            return file.holds(digest, repeated.read_bytes)
        return file.is_file() and hash_file(file) == digest


def open_original(model: str | Path, revision: str | None = None) -> Original:
    """Finds an edited model by folder or Hub id. Downloads only its manifest."""
    folder = find_folder(model, revision)
    files: dict[str, Path | HubFile]
    if folder is not None:
        manifest = read_manifest(folder)
        files = {name: folder / name for name in list_names(folder)}
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
    comparison of trained weights needs and is not here; None if they can be compared. `begins`: the
    number of the first step that was repeated, from 0, and `wrong`: that of the first one whose
    result was another; None if that is the last one, or nobody knows.
    """

    original: Original
    source: ResolvedModel
    files: tuple[FileResult, ...]
    environment: Mapping[str, tuple[str | None, str | None]]
    needs: str | None = None
    begins: int = 0
    wrong: int | None = None

    @property
    def state(self) -> Literal["reproduced", "differs", "cannot be compared here"]:
        if self.needs is not None:
            return "cannot be compared here"
        return "reproduced" if self.first_difference is None else "differs"

    @property
    def source_is_edited(self) -> bool:
        """Whether what made the source was not repeated."""
        return self.begins > 0

    @property
    def first_different_step(self) -> int | None:
        """The number of the first step that made something else, from 1."""
        if self.needs is not None or self.first_difference is None:
            return None
        history = self.original.manifest.history
        return len(history) if self.wrong is None else self.begins + self.wrong + 1

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
            "source": self.original.manifest.history[self.begins].source.model_dump(mode="json"),
            "steps": [step.kind for step in self.original.manifest.history[self.begins :]],
            "first_different_step": self.first_different_step,
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
    repeat: Repeat,
    output: str | Path | None = None,
    *,
    source: str | Path | None = None,
    overwrite: bool = False,
) -> Reproduction:
    """Replays the recorded steps from their first source, and compares every file of the result.

    **Arguments:** `repeat`: repeats one step; `output`: keeps the result in this folder, replacing
    it with `overwrite`; `source`: a copy of the first source, if the recorded one cannot be found,
    or of the source of a later step, from which the replay then begins.

    A source with another content hash passes if all files are equal: it may be split into other
    files. Without the device or the dtype in which weights were trained, nothing is repeated.
    """
    history = original.manifest.history
    model, begins = _find_beginning(original, source)
    steps, versions = history[begins:], _compare_versions(original.manifest.step.versions)
    if (needs := _find_obstacle(steps)) is not None:
        return Reproduction(original, model, (), versions, needs)
    if output is not None:
        check_target(model.folder, Path(output), overwrite=overwrite)
    _check_space(steps, model.inventory.nbytes, output)
    with _open_place(output, overwrite) as place, _open_scratch() as scratch:
        replay = _replay(steps, model, repeat, place, Path(scratch))
        export = replay.exports[-1]
        files = _compare_files(original, replay)
        if all(file.equal for file in files):
            _check_losses(steps, export.manifest.history[begins:])
        else:
            check_source(replay.model, steps[0].source, source or steps[0].source.model)
    if all(file.ok for file in files):
        return Reproduction(original, model, files, versions, None, begins)
    needs = _find_unrecorded(steps, files, model.inventory.dtype)
    return Reproduction(original, model, files, versions, needs, begins, replay.first_difference)


class Repeat(Protocol):
    """Repeats a recorded `step` of `model` into the folder `output`. `first`: what the replay began
    with. Returns what it wrote, and how its cut was fitted; with `fitting`, a cut is made with
    that."""

    def __call__(
        self,
        step: Step,
        model: ResolvedModel,
        output: Path,
        first: ResolvedModel,
        fitting: Fitting | None = None,
    ) -> tuple[Export, Fitting | None]: ...


@dataclass(frozen=True)
class _Replay:
    """What the steps made of `model`, again. `untrained`: what the cuts alone make of it; None
    if nothing was trained. `first_difference`: the number of the first step, from 0, whose result
    is not what the next one was made from."""

    model: ResolvedModel
    exports: tuple[Export, ...]
    untrained: Checkpoint | None
    first_difference: int | None


def _replay(
    steps: Sequence[Step], model: ResolvedModel, repeat: Repeat, output: Path, scratch: Path
) -> _Replay:
    """Makes the last folder as `output`, and all before it in `scratch`."""
    exports, wrong, trained = list[Export](), list[int](), False
    found = plain = model
    for at, (step, following) in enumerate(itertools.zip_longest(steps, steps[1:])):
        place = output
        if following is not None:
            place = scratch / f"{at + 1}" / get_last_name(Path(following.source.model))
            place.parent.mkdir()
        export, fitting = repeat(step, found, place, model)
        exports.append(export)
        if step.training is None and trained:
            made, _ = repeat(step, plain, scratch / f"{at + 1}-untrained", model, fitting)
            plain = find_model(made.output)
        trained |= step.training is not None
        if following is None:
            break
        if following.source.content not in (None, export.manifest.content):
            wrong.append(at)
        found = find_model(export.output)
        plain = plain if trained else found
    model = replace(model, source=exports[0].manifest.step.source)
    untrained = plain.checkpoint if trained else None
    return _Replay(model, tuple(exports), untrained, next(iter(wrong), None))


def _find_beginning(original: Original, source: str | Path | None) -> tuple[ResolvedModel, int]:
    """The model to begin with, and the number of the step that began with it."""
    history = original.manifest.history
    if history[-1].is_adapter:  # it stands beside its source, and nothing before that is in it
        history = history[-1:]
    first = history[0].source
    beside = find_folder(original.model, original.revision)
    named = require_source(first, beside, original.model) if source is None else source
    revision = find_commit(named, [first]) if isinstance(named, str) else None
    model = find_model(named, revision)
    if source is not None:
        later = [at for at, step in enumerate(history) if at and model.is_that(step.source)]
        if later:
            return model, len(original.manifest.history) - len(history) + later[-1]
    return model, len(original.manifest.history) - len(history)


def _find_obstacle(steps: Sequence[Step]) -> str | None:
    """What this machine lacks to train again as recorded."""
    records = [step.training for step in steps if step.training is not None]
    if not records:
        return None
    from surgery.training.training import find_obstacle

    return next(filter(None, map(find_obstacle, records)), None)


def _find_unrecorded(steps: Sequence[Step], files: Sequence[FileResult], dtype: str) -> str | None:
    """What no comparison can do without and the record does not tell: the dtype of passes.

    Earlier versions did not record it. It follows from the device and the weights, but not for
    bfloat16 on a CPU: fast ones train in it, others in float32. So a difference shows nothing.
    """
    records = [step.training for step in steps if step.training is not None]
    unknown = any(record.dtype is None and record.device == "cpu" for record in records)
    trained = all(file.ok or file.difference is not None for file in files)
    if unknown and trained and dtype == "BF16":
        return "the number format in which it was trained, which earlier versions did not record"
    return None


def _check_space(steps: Sequence[Step], size: int, output: str | Path | None) -> None:
    """Raises `OutputError` if what is made again does not fit on the disk, before it is made.

    `size`: of one copy of the model, in bytes. All copies but that in `output` are in the temporary
    folder: one of each step, and where something was trained, one of each cut without that.
    """
    trained = next((at for at, step in enumerate(steps) if step.training), len(steps))
    copies = len(steps) + sum(bool(step.parts) for step in steps[trained:])
    if output is not None:
        check_space(Path(output), size)
        copies -= 1
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


def _compare_versions(then: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Recorded and present versions of packages, where they differ."""
    now = list_versions()
    both = {name: (then.get(name), now.get(name)) for name in {**then, **now}}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def _check_losses(recorded: Sequence[Step], repeated: Sequence[Step]) -> None:
    """Raises `ManifestError` if the losses on the way to the same weights differ."""
    for step, again in zip(recorded, repeated, strict=True):
        then, now = step.training, again.training
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


def _compare_files(original: Original, replay: _Replay) -> tuple[FileResult, ...]:
    """Compares all files by hash, and fitted or trained tensors by number where hashes differ."""
    export = replay.exports[-1]
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
    inexact = replay.untrained is not None or any(one.plan.fitted for one in replay.exports)
    if differing and inexact and all(name.endswith(".safetensors") for name in differing):
        ours = find_export(original.model, original.revision)[0]
        if any(hash_file(ours.folder / name) != recorded.get(name) for name in differing):
            return tuple(results)  # whatever it is, it is not what the manifest records
        found = _measure(ours, replay)
        tolerance = TOLERANCE if replay.untrained is None else TRAINED_TOLERANCE
        update: dict[str, Any] = {"difference": found, "tolerance": tolerance}
        results = [file if file.equal else replace(file, **update) for file in results]
    return tuple(results)


def _measure(recorded: ResolvedModel, replay: _Replay) -> float | None:
    """How far apart a recorded and a repeated result are; None if more than numbers differs."""
    export = replay.exports[-1]
    step, repeated = export.manifest.step, export.output
    if step.is_adapter and step.erasing is not None:
        rank = step.erasing.rank
        ours, theirs = (open_adapter(one, rank)[0] for one in (recorded.folder, repeated))
        return measure_adapters(ours, theirs)
    both = recorded.checkpoint, open_checkpoint(repeated)
    if replay.untrained is not None:
        return measure_trained(*both, replay.untrained, export.manifest)
    sources = [replay.model.checkpoint, *(open_checkpoint(e.output) for e in replay.exports[:-1])]
    plans = [(one.plan, source) for one, source in zip(replay.exports, sources, strict=True)]
    return measure_fitted(*both, plans)
