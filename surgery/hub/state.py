"""The files of a repository on the Hub, by hash, without a download."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.checkpoint.source import MANIFEST
from surgery.record.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT = 10  # seconds to wait for the first answer; the client's default is to wait forever


@dataclass(frozen=True)
class HubFile:
    """A file's hash: SHA-256 if it is large, else git's (SHA-1 of a header and the content).

    Both are hexadecimal, and one of them is None.
    """

    sha256: str | None
    git: str | None

    def holds(self, sha256: str, content: Path | bytes) -> bool:
        """Whether the file has this SHA-256. Compares a small one with `content`, which has it."""
        if self.sha256 is not None:
            return self.sha256 == sha256
        data = content if isinstance(content, bytes) else content.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return (hashlib.sha256(data).hexdigest(), git) == (sha256, self.git)


@dataclass(frozen=True)
class Published:
    """A state of a repository: its commit and its files by name."""

    repo: str
    commit: str
    files: Mapping[str, HubFile]

    def fetch(self, api: HfApi, name: str) -> Path:
        """Downloads one of its files, or finds it in the cache."""
        return Path(api.hf_hub_download(self.repo, name, revision=self.commit))

    def manifest(self, api: HfApi) -> Manifest | None:
        """Reads its manifest; None if it has none."""
        return read_manifest(self.fetch(api, MANIFEST).parent) if MANIFEST in self.files else None


def find_published(api: HfApi, repo: str, revision: str | None = None) -> Published:
    """Reads the state of a repository at a branch, tag, commit or pull request."""
    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
    files = {
        file.rfilename: HubFile(file.lfs.sha256, None) if file.lfs else HubFile(None, file.blob_id)
        for file in info.siblings or ()
    }
    return Published(repo, str(info.sha), files)
