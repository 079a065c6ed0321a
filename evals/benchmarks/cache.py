"""Keeps benchmark results of base models by content: for ten edits, the base runs once.

It finds a result only if everything that the result depends on is the same: weights,
configuration, tokenizer, task, documents, settings, device, dtype, and versions. It ignores one
that it cannot read.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.content import save_to_cache

_BROKEN = (OSError, EOFError, ValueError, RecursionError, zlib.error)


@dataclass(frozen=True)
class BaselineCache:
    """Records (plain JSON) by key (plain JSON). `folder` None: an empty cache."""

    folder: Path | None

    def get(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The record under exactly this key; None if it is missing or damaged."""
        if self.folder is None:
            return None
        with suppress(*_BROKEN), gzip.open(self._path(key), "rt", encoding="utf-8") as file:
            stored = json.load(file)
            if isinstance(stored, dict) and stored.get("key") == key:
                record = stored.get("record")
                return record if isinstance(record, dict) else None
        return None

    def put(self, key: dict[str, Any], record: dict[str, Any]) -> None:
        """Keeps a record if it can. A missing one only has to be computed again."""
        if self.folder is None:
            return
        text = json.dumps({"key": key, "record": record})
        save_to_cache(self._path(key), lambda path: path.write_bytes(gzip.compress(text.encode())))

    def _path(self, key: dict[str, Any]) -> Path:
        assert self.folder is not None
        text = json.dumps(key, sort_keys=True)
        return self.folder / "baselines" / f"{hashlib.sha256(text.encode()).hexdigest()}.json.gz"
