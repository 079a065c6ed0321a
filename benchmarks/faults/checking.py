"""What lies under a name, and whether it is a whole result.

Two runs that nothing disturbed say what a result is. Where they agree, the result is the same byte
for byte; where they do not, since it holds times, every word without a digit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Files = Mapping[str, bytes]
"""Name, without the time in it, → content, or what stands for it; a single file is called `.`."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d.-]*\d")


def files_at(path: Path) -> Files | None:
    """Everything below a folder, or a file; None where nothing is."""
    if not path.exists():
        return None
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return {
        _TIME.sub("TIME", file.relative_to(path).as_posix()): file.read_bytes()
        for file in found
        if file.is_file()
    }


@dataclass(frozen=True)
class Reference:
    """A whole result, as two undisturbed runs gave it."""

    one: Files
    two: Files

    def different(self, found: Files) -> list[str]:
        """Files that are missing, too many, or not as they should be."""
        shared = self.one.keys() & found.keys()
        changed = {name for name in shared if not self._holds(name, found)}
        return sorted((self.one.keys() ^ found.keys()) | changed)

    def _holds(self, name: str, found: Files) -> bool:
        if self.one == self.two:
            return found[name] == self.one[name]
        return _words(found[name]) == _words(self.one[name])


def _words(content: bytes) -> list[bytes]:
    return [word for word in re.split(rb"[\s,]+", content) if not re.search(rb"\d", word)]
