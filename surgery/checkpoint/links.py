"""Links in a model's folder: those that stay in it, or lead to the blobs of a Hub cache, are files.

The Hub's client stores a model's files as `models--O--N/blobs/HASH` and links to them from
`models--O--N/snapshots/COMMIT/NAME`. Any other link out of a folder would bring in a file that is
not of the model: whoever made the folder chooses which.
"""

from __future__ import annotations

from pathlib import Path

from surgery.errors import CheckpointError


def own_file(path: Path, folder: Path) -> Path:
    """The path, if what it leads to is the folder's own.

    **Raises:** `CheckpointError` for a link out of the folder that does not end in a Hub cache.
    """
    real, place = path.resolve(), folder.resolve()
    blobs = place.parent.parent / "blobs" if place.parent.name == "snapshots" else None
    if place in real.parents or real.parent == blobs or in_hub_cache(real):
        return path
    raise CheckpointError(
        "is a link out of the model's folder, which is not followed",
        where=path,
        fix="put the file itself there",
    )


def in_hub_cache(real: Path) -> bool:
    """Whether a path without links is a blob of this user's Hub cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return real.parent.name == "blobs" and Path(HF_HUB_CACHE).resolve() in real.parents
