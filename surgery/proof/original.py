"""An edited model that is to be repeated: its manifest and the hashes of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.content import sha256_of
from surgery.checkpoint.source import MANIFEST
from surgery.errors import ManifestError, SourceError
from surgery.hub.client import hub_client
from surgery.hub.finding import local_folder
from surgery.hub.state import Stored, published
from surgery.record.manifest import Manifest, read_manifest
from surgery.untrusted import read_json


@dataclass(frozen=True)
class Original:
    """An edited model to be repeated: its manifest, and its files in a folder or on the Hub."""

    model: str
    revision: str | None
    manifest: Manifest
    files: Mapping[str, Path | Stored]

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of it. Raises `SourceError` where there is none."""
        file = self.files.get(name)
        if isinstance(file, Stored):
            with hub_client(self.model, self.revision) as api:
                file = Path(api.hf_hub_download(self.model, name, revision=self.revision))
        if file is None:
            raise SourceError(f"has no {name}", where=self.model)
        return read_json(file)

    def holds(self, name: str, repeated: Path) -> bool:
        """Whether its file of that name is byte for byte the repeated one, and as recorded."""
        file, digest = self.files.get(name), sha256_of(repeated)
        if file is None or self.manifest.files[name].sha256 != digest:
            return False
        return (
            file.holds(digest, repeated) if isinstance(file, Stored) else sha256_of(file) == digest
        )


def open_original(model: str | Path, revision: str | None = None) -> Original:
    """Finds an edited model by its folder or Hub id. Of the Hub's, only the manifest is fetched.

    **Raises:** `SourceError` when it is not found, `ManifestError` without a manifest.
    """
    folder = local_folder(model, revision)
    if folder is not None:
        manifest = read_manifest(folder)
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files: dict[str, Path | Stored] = {p.relative_to(folder).as_posix(): p for p in paths}
    else:
        with hub_client(str(model), revision) as api:
            there = published(api, str(model), revision)
            manifest, files = None, dict(there.files)
            if MANIFEST in files:
                manifest = read_manifest(there.fetch(api, MANIFEST).parent)
            revision = there.commit
    if manifest is None:
        fix = "reproduce a model that `attn-surgery export` wrote"
        raise ManifestError(f"has no {MANIFEST}", where=model, fix=fix)
    return Original(str(model), revision, manifest, files)
