"""The only code that talks to the Hub: finding a model, and fetching what an edit needs of it."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from surgery.checkpoint.source import (
    MANIFEST,
    PICKLE,
    PICKLE_INDEX,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    SIDECARS,
)
from surgery.errors import SourceError
from surgery.families import family_of
from surgery.inventory import check_config
from surgery.manifest import Source

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def find_model(model: str | Path, revision: str | None = None) -> tuple[Path, Source]:
    """A local folder with the model's files, and where they come from.

    **Arguments:** `model` is a folder or a Hub id; `revision` a branch, tag or commit of the
    latter. The configuration is fetched and checked before any weights are.

    **Raises:** `SourceError` when there is no such model or the Hub cannot be reached;
    `UnsupportedError` when its architecture cannot be edited.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise SourceError(
                "--revision goes with a Hub id, and this is a folder", where=folder, got=revision
            )
        return folder, Source(model=str(folder.resolve()))
    name = str(model)
    if not _REPOSITORY.fullmatch(name) or folder.exists():
        raise SourceError("no such folder, and not a Hub id (owner/name)", where=name)
    return _fetch(name, revision)


def _fetch(repository: str, revision: str | None) -> tuple[Path, Source]:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # whichever HTTP library the client is built on, its errors share a root with this one
    network: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)
    try:
        info = HfApi().model_info(repository, revision=revision)
        names, commit = [file.rfilename for file in info.siblings or []], info.sha
        if "config.json" not in names:
            raise SourceError("has no config.json", where=f"Hub model {repository}")
        config_path = hf_hub_download(repository, "config.json", revision=commit)
        config = json.loads(Path(config_path).read_text(encoding="utf-8"))
        check_config(config, family_of(config))
        wanted = _wanted(names, repository)
        folder = Path(snapshot_download(repository, revision=commit, allow_patterns=wanted))
    except network as error:
        cached = _cached(repository, revision) if not _answered(error) else None
        if cached is None:
            raise _explained(repository, revision, error) from None
        folder, commit = cached, cached.name
    return folder, Source(model=repository, revision=revision, commit=commit)


def _wanted(names: list[str], repository: str) -> list[str]:
    """Files to download: one format of weights, and what comes along with it."""
    weights: list[str] = []
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (PICKLE, PICKLE_INDEX)):
        stem, suffix = single.rsplit(".", 1)
        if index in names:
            weights = [index, *(name for name in names if fnmatch(name, f"{stem}-*.{suffix}"))]
        elif single in names:
            weights = [single]
        if weights:
            break
    if not weights:
        raise SourceError(
            "has no weights that can be read",
            where=f"Hub model {repository}",
            expected=f"{SAFETENSORS} or {PICKLE}, single or sharded",
        )
    along = [name for name in names if any(fnmatch(name, pattern) for pattern in SIDECARS)]
    return [*weights, *along, *(name for name in ("config.json", MANIFEST) if name in names)]


def _cached(repository: str, revision: str | None) -> Path | None:
    """An earlier download, for work without a network."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _answered(error: BaseException) -> bool:
    return getattr(error, "response", None) is not None


def _explained(repository: str, revision: str | None, error: Any) -> SourceError:
    """One line for whatever the Hub client raised."""
    from huggingface_hub import errors

    where = f"Hub model {repository}"
    if isinstance(error, errors.GatedRepoError):
        return SourceError(
            "access is restricted",
            where=where,
            fix="request access on its page, then `hf auth login`",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(f"has no revision {revision!r}", where=where)
    if isinstance(error, errors.RepositoryNotFoundError):
        return SourceError(
            "not found", where=where, fix="check the name, or `hf auth login` if it is private"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return SourceError("the Hub refused the request", where=where, got=f"HTTP {status}")
    return SourceError(
        "the Hub cannot be reached, and there is no earlier download",
        where=where,
        got=type(error).__name__,
        fix="check the network and HF_ENDPOINT, or give a folder",
    )
