"""Benchmark results of base models, kept by content: ten edits compared, the base run once.

A result is found again only if everything that it hangs on is the same: weights, configuration,
tokenizer, task and documents, settings, device, dtype and versions. One that cannot be read is as
good as none.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BaselineCache", "cache_folder"]

_BROKEN = (OSError, EOFError, ValueError, zlib.error)


def cache_folder() -> Path:
    """$ATTN_SURGERY_CACHE, else attn-surgery under $XDG_CACHE_HOME, else under ~/.cache."""
    own = os.environ.get("ATTN_SURGERY_CACHE")
    if own:
        return Path(own).expanduser()
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(general).expanduser() / "attn-surgery"


@dataclass(frozen=True)
class BaselineCache:
    """Records (plain JSON) by key (plain JSON). `folder` None: nothing is kept, nothing found."""

    folder: Path | None

    def get(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The record kept under exactly this key; None where there is none, or a damaged one."""
        if self.folder is None:
            return None
        with (
            contextlib.suppress(*_BROKEN),
            gzip.open(self._path(key), "rt", encoding="utf-8") as file,
        ):
            stored = json.load(file)
            if isinstance(stored, dict) and stored.get("key") == key:
                record = stored.get("record")
                return record if isinstance(record, dict) else None
        return None

    def put(self, key: dict[str, Any], record: dict[str, Any]) -> None:
        """Keeps a record. Where that is not possible, it is not kept: it can be computed again."""
        if self.folder is None:
            return
        path = self._path(key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as raw, gzip.open(raw, "wt", encoding="utf-8") as file:
                    json.dump({"key": key, "record": record}, file)
                Path(temporary).replace(path)
            finally:
                Path(temporary).unlink(missing_ok=True)

    def _path(self, key: dict[str, Any]) -> Path:
        assert self.folder is not None
        text = json.dumps(key, sort_keys=True)
        return self.folder / "baselines" / f"{hashlib.sha256(text.encode()).hexdigest()}.json.gz"
