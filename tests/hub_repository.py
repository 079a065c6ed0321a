"""What a Hub keeps of a model: immutable commits, names that point at them, and who may read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

# what .gitattributes of a model repository sends to large file storage
LFS_SUFFIXES = {".safetensors", ".bin", ".h5", ".msgpack", ".ot", ".pt", ".npy", ".gz", ".model"}


@dataclass(frozen=True)
class Blob:
    """The content of one file. Large files are known by SHA-256, others by their git hash."""

    data: bytes = field(repr=False)
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def oid(self) -> str:
        content = self.data
        if self.lfs:  # git itself stores a pointer
            content = (
                "version https://git-lfs.github.com/spec/v1\n"
                f"oid sha256:{self.sha256}\nsize {len(self.data)}\n"
            ).encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A state of all files; `sha` follows from the content, the title and the parent."""

    files: Mapping[str, Blob]
    title: str
    parent: str | None

    @cached_property
    def sha(self) -> str:
        tree = {name: blob.oid for name, blob in sorted(self.files.items())}
        return hashlib.sha1(json.dumps([tree, self.title, self.parent]).encode()).hexdigest()


@dataclass
class Repository:
    """A model. `readers`: users who see a private one; `granted`: who may download a gated one.

    `objects`: large files that were uploaded, by SHA-256, whether a commit holds them or not.
    """

    id: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)  # refs/pr/1 → commit
    objects: dict[str, bytes] = field(default_factory=dict)

    def commit(
        self,
        files: Mapping[str, bytes | None] | Path,
        *,
        branch: str = "main",
        title: str = "Upload",
        whole: bool = False,
    ) -> str:
        """Adds a commit to a branch, a pull request's ref included, and returns its hash.

        `files` is a folder or name → content; None deletes a file. `whole`: nothing of the parent
        is kept.
        """
        if isinstance(files, Path):
            folder = files
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
        names = self.pulls if branch.startswith("refs/pr/") else self.branches
        parent = names.get(branch) or self.branches.get("main")
        kept = dict(self.commits[parent].files) if parent and not whole else {}
        for name, data in files.items():
            if data is None:
                kept.pop(name)
            else:
                kept[name] = Blob(data, lfs=Path(name).suffix in LFS_SUFFIXES)
        commit = Commit(kept, title, parent)
        self.commits[commit.sha] = commit
        names[branch] = commit.sha
        return commit.sha

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, tag, pull request, or full or abbreviated hash."""
        for names in (self.branches, self.tags, self.pulls):
            if revision in names:
                return self.commits[names[revision]]
        found = [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        return self.commits[found[0]] if len(found) == 1 else None
