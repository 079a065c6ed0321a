"""Checks of a folder of any kind that attn-surgery wrote: its files, and its source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from surgery.checkpoint.content import hash_file, hash_weights, list_files
from surgery.errors import CheckpointError, ManifestError, SurgeryError
from surgery.hub.resolved import ResolvedModel
from surgery.privacy import check_link
from surgery.record.manifest import Manifest, Step, is_added
from surgery.untrusted import reraise_as


@dataclass(frozen=True)
class Check:
    """One check, and what it found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class FolderChecks:
    """Each `check_…` method returns what it found, or raises a `SurgeryError`.

    `found`: the source, if given. `broken`: the stored names of tensors that hold
    numbers which are not finite, once files were hashed. `alone`, `with_source`: the checks in
    their order, each of which relies on those before it.
    """

    folder: Path
    manifest: Manifest
    found: ResolvedModel | None
    broken: list[str] = field(default_factory=list, init=False)
    alone: ClassVar[tuple[str, ...]] = ("files",)
    with_source: ClassVar[tuple[str, ...]] = ()

    def run(self) -> Iterator[Check]:
        """Yields the checks. The one that fails is the last."""
        for name in (*self.alone, *(self.with_source if self.found is not None else ())):
            try:
                with reraise_as(CheckpointError, "cannot be verified", self.folder):
                    detail = getattr(self, f"check_{name}")()
            except SurgeryError as error:
                yield Check(name, False, str(error))
                return
            yield Check(name, True, detail)

    def check_files(self) -> str:
        listed = self.manifest.files
        check_listed(self.folder, self.manifest)
        for name, record in listed.items():
            path = self.folder / name
            if not path.is_file():
                raise CheckpointError(f"{name} is missing")
            known = self._hash(path)
            if path.stat().st_size != record.size or known != record.sha256:
                raise CheckpointError(f"{name} differs from its recorded SHA-256")
        total = sum(record.size for record in listed.values())
        return f"{len(listed)} files, {total:,} bytes, SHA-256 equal"

    def _hash(self, path: Path) -> str:
        if path.suffix == ".safetensors":
            with suppress(CheckpointError):  # damaged: its hash tells
                digest, broken = hash_weights(path)
                self.broken.extend(broken)
                return digest
        return hash_file(path)

    @cached_property
    def begins(self) -> int:
        """The number of the step, from 0, that began with the given source; the latest, if several
        did. Raises `CheckpointError` if none did, and `ManifestError` for another name or history.
        """
        assert self.found is not None
        history, given = self.manifest.history, self.found.source
        content = self.found.identified.content
        places = [at for at, step in enumerate(history) if step.source.content == content]
        if not places:
            raise CheckpointError("the source is not one that the manifest records")
        recorded = history[places[-1]].source
        named = recorded.commit is not None or re.search("^lab:|/", recorded.model)
        # that of a folder is no name: the content alone says that it is the source
        if named and self.found.has_name and given.model.casefold() != recorded.model.casefold():
            raise ManifestError(f"the manifest names another source, {recorded.model}")
        if named and given.commit is not None and given.commit != recorded.commit:
            raise ManifestError("the manifest names another commit of the source")
        earlier = self.found.manifest
        if history[: places[-1]] != (earlier.history if earlier else []):
            raise ManifestError("the manifest's history is not the source's")
        return places[-1]

    @property
    def steps(self) -> list[Step]:
        """The steps from the given source on; without one, the latest."""
        return self.manifest.history[-1 if self.found is None else self.begins :]


@dataclass(frozen=True)
class Claim:
    """A statement of a folder that no check proves."""

    name: str
    detail: str


def claim_added(names: Iterable[str]) -> list[Claim]:
    """A claim for each of these files that somebody added beside a model (`is_added`)."""
    what = "not part of the model, and not read by any check"
    return [Claim(name, what) for name in names if is_added(name)]


def list_names(folder: Path) -> list[str]:
    """The names of all files and links below a folder, in order."""
    return [path.relative_to(folder).as_posix() for path in list_files(folder)]


def check_listed(folder: Path, manifest: Manifest) -> None:
    """Raises `CheckpointError` for a file that the manifest does not account for, and for a link
    out of the folder."""
    for name in list_names(folder):
        if (folder / name).is_symlink():
            check_link(folder / name, folder)
        if not manifest.accounts_for(name):
            raise CheckpointError(f"{name} is not in the manifest")
