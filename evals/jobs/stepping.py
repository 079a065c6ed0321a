"""A step: everything is opened and checked first, and then it runs, from one folder to another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evals.run.console import say, show_progress
from evals.run.groups import Folders
from surgery.checkpoint import MANIFEST
from surgery.errors import OutputError
from surgery.exporting import Export, check_target, list_unchanged, write
from surgery.output import check_space, explain_os_errors
from surgery.processes import by_one
from surgery.record.manifest import Manifest, Step, list_versions, read_manifest

if TYPE_CHECKING:
    from surgery.exporting import Trained
    from surgery.preparing import Fitting, Prepared


class Stepping(Protocol):
    """A request for a step."""

    @property
    def folders(self) -> Folders: ...


@dataclass(frozen=True)
class Output:
    """Where a step writes, unless it is named: in the default place. Asked once, when the default
    is known and before any weights are downloaded."""

    folders: Folders

    def find(self, default: Path) -> Path:
        """The folder to create."""
        return self.folders.output or default

    @by_one
    def check(self, default: Path) -> None:
        """Raises `OutputError` for a folder that could not be written. One that a step wrote may
        hold the same result: `OpenedStep` looks at it."""
        target = self.find(default)
        overwrite = self.folders.overwrite
        with explain_os_errors(target):
            may_be_made = (target / MANIFEST).is_file()
        if overwrite or not may_be_made:
            check_target(self.folders.model, target, overwrite=overwrite)


@dataclass(frozen=True)
class OpenedStep(ABC):
    """A step whose inputs are read and checked. `prepared`: the source, and the plan of what is
    written."""

    request: Stepping
    prepared: Prepared

    @abstractmethod
    def is_like(self, step: Step) -> bool:
        """Whether a recorded step did the same with the same inputs, whatever its source."""

    @abstractmethod
    def make(self) -> tuple[Fitting | None, Trained | None]:
        """Fits and trains what is to be written."""

    @property
    def target(self) -> Path:
        return Output(self.request.folders).find(self.default)

    @property
    def default(self) -> Path:
        """The folder to create unless one is named."""
        return self.prepared.default_output

    @property
    def size(self) -> int:
        """Bytes to write."""
        return self.prepared.total_bytes

    def find_made(self) -> Export | None:
        """The same result, if it is there. Raises `OutputError` for another one, unless it may be
        replaced."""
        made = self._find_manifest()
        return None if made is None else Export(self.target, self.prepared.plan, made)

    @by_one
    def _find_manifest(self) -> Manifest | None:
        target, folders = self.target, self.request.folders
        manifest = read_manifest(target) if (target / MANIFEST).is_file() else None
        number = None if manifest is None else self._find_step(target, manifest)
        if manifest is not None and number is not None:
            return manifest.model_copy(update={"history": manifest.history[: number + 1]})
        if manifest is not None and not folders.overwrite:
            check_target(folders.model, target)  # raises: it is there
        return None

    def _find_step(self, target: Path, manifest: Manifest) -> int | None:
        """The place in the history of a whole folder where this step is; later ones may have
        followed it."""
        source = self.prepared.model
        earlier = source.manifest.history if source.manifest else []
        if manifest.history[: len(earlier)] != earlier:
            return None
        number = min(len(earlier), len(manifest.history) - 1)
        if not source.is_that(manifest.history[number].source):
            return None
        step = manifest.history[number]
        if step.versions != list_versions() or not self.is_like(step):
            return None
        if manifest.files.keys() - list_unchanged(target, manifest):
            if self.request.folders.overwrite:  # files are missing: it refused others at once
                return None
            raise OutputError(
                "holds this result, and a file of it has changed",
                where=target,
                fix="choose another `output`",
            )
        return number

    def run(self) -> Export:
        """Makes the folder, unless it is there already. Raises a `SurgeryError`; the output is then
        as it was before."""
        if (made := self.find_made()) is not None:
            say(f"{self.target}: already holds this result")
            return made
        check_space(self.target, self.size)
        folders = self.request.folders
        fitting, trained = self.make()
        with show_progress("export", self.size or None) as advance:
            return write(
                self.prepared,
                self.target,
                fitting=fitting,
                trained=trained,
                overwrite=folders.overwrite,
                progress=advance,
            )
