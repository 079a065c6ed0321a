"""Finding a model: a folder, an embedded one, or a Hub id of which only the needed is fetched."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from surgery.checkpoint.inventory import check_config
from surgery.checkpoint.source import (
    CARD,
    INDEX,
    MANIFEST,
    PICKLE,
    SAFETENSORS,
    SIDECARS,
    find_weights,
    read_index,
)
from surgery.checkpoint.tensors import TensorInfo
from surgery.errors import CheckpointError, SourceError, SurgeryError
from surgery.families import family_of
from surgery.hub.client import open_client, show_progress
from surgery.hub.datasets import PREFIX as DATASET
from surgery.hub.embedded import PREFIX, find_lab_folder
from surgery.hub.refusals import UnreachableError
from surgery.hub.resolved import ResolvedModel
from surgery.hub.state import TIMEOUT
from surgery.record.manifest import Source
from surgery.untrusted import read_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CONFIG = "config.json"


@dataclass(frozen=True)
class Outline:
    """A model without its weights: `model.folder` holds its configuration and manifest.

    `infos` are the stored tensors by name; None for pickled weights on the Hub, which tell nothing
    before they are downloaded.
    """

    model: ResolvedModel
    config: dict[str, Any]
    infos: dict[str, TensorInfo] | None


def find_model(
    model: str | Path | ResolvedModel,
    revision: str | None = None,
    *,
    check: Callable[[dict[str, Any]], object] = lambda config: None,
) -> ResolvedModel:
    """A model whose files are in a local folder. One that was found already is not looked up again.

    **Arguments:** `model` is a folder, an embedded model (`lab:pythia`) or a Hub id; `revision` a
    branch, tag or commit of the last. The configuration is fetched and checked before any weights
    are, and one format of weights is fetched. Where the Hub cannot be reached, an earlier download
    is used. `check` is given the configuration of a Hub model before the weights are fetched, and
    raises where they would be for nothing.

    **Raises:** `SourceError` when there is no such model or it cannot be fetched;
    `UnsupportedError` when its architecture cannot be edited.
    """

    def fetch(api: HfApi, found: _HubModel) -> ResolvedModel:
        check(found.config)
        found.download()
        return found.resolve(revision)

    return model if isinstance(model, ResolvedModel) else _find(model, revision, fetch, lambda m: m)


def find_outline(model: str | Path, revision: str | None = None) -> Outline:
    """As `find_model`, but of a Hub model's weights only the headers are read."""
    return _find(
        model,
        revision,
        lambda api, found: Outline(found.resolve(revision), found.config, found.read_headers(api)),
        lambda here: Outline(here, here.checkpoint.config, here.checkpoint.infos),
    )


T = TypeVar("T")


def _find(
    model: str | Path,
    revision: str | None,
    on_hub: Callable[[HfApi, _HubModel], T],
    here: Callable[[ResolvedModel], T],
) -> T:
    """What one of the two makes of a model: of the Hub's, or of a folder or earlier download."""
    folder = find_folder(model, revision)
    if folder is not None:
        return here(ResolvedModel(folder, Source(model=make_public_name(model))))
    name = str(model)
    try:
        with open_client(name, revision) as api:
            return on_hub(api, _look_up(api, name, revision))
    except UnreachableError:
        folder = _find_download(name, revision)
        if folder is None:
            raise
    return here(ResolvedModel(folder, Source(model=name, revision=revision, commit=folder.name)))


def find_folder(model: str | Path, revision: str | None = None) -> Path | None:
    """The folder that `model` names; None for a Hub id. Raises `SourceError` for neither."""
    lab = str(model).startswith(PREFIX)
    folder = find_lab_folder(str(model)[len(PREFIX) :]) if lab else Path(model).expanduser()
    if not folder.is_dir():
        if folder.exists():
            raise SourceError("is a file; expected a folder or a Hub id", where=model)
        return None
    if revision is not None:
        raise SourceError(
            "`revision` goes with a Hub id, and this is a folder", where=folder, got=revision
        )
    return folder


def make_public_name(model: str | Path) -> str:
    """What a model or file is called in all that may leave this machine: its id, or last name.

    Of several, `PREFIX.npy,SUFFIX.npy`, each; of `hf:DATASET:SPLIT:COLUMN` the data set; of
    `FILE:COLUMN` the file.
    """
    path, name = Path(model).expanduser(), str(model)
    if name.startswith(DATASET):
        dataset, *more = name.removeprefix(DATASET).split(":")
        return DATASET + ":".join([make_public_name(dataset), *more])
    if path.exists() and not name.startswith(PREFIX):
        return get_last_name(path)
    file, _, column = name.rpartition(":")
    if file and not name.startswith(PREFIX) and Path(file).exists():
        return f"{get_last_name(Path(file))}:{column}"
    return ",".join(map(make_public_name, name.split(","))) if "," in name else name


def get_last_name(path: Path) -> str:
    """The name of a file or folder, without the path to it, as text: it may be any bytes."""
    name = (path.resolve() if path.name in ("", "..") else path).name
    return os.fsencode(name).decode("utf-8", "replace")


@dataclass(frozen=True)
class _HubModel:
    """A Hub model that can be edited; `folder`, the cache's place for the commit, has its config.

    `files` are all files of the repository, `weights` those of the one format that is used.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    config: dict[str, Any]
    weights: tuple[str, ...]

    def resolve(self, revision: str | None) -> ResolvedModel:
        source = Source(model=self.name, revision=revision, commit=self.folder.name)
        return ResolvedModel(self.folder, source)

    def download(self) -> None:
        """Fetches what is not in the cache yet. Weights come last: once they are there, all is."""
        from huggingface_hub import snapshot_download

        beside = (*SIDECARS, CARD)  # the source's card tells its license
        along = [file for file in self.files if any(fnmatch(file, name) for name in beside)]
        for wanted, shown in ((along, False), (self.weights, sys.stderr.isatty())):
            missing = [file for file in wanted if not (self.folder / file).exists()]
            if missing:
                with show_progress(shown=shown):
                    snapshot_download(self.name, revision=self.folder.name, allow_patterns=missing)

    def read_headers(self, api: HfApi) -> dict[str, TensorInfo] | None:
        """The stored tensors, from the headers of safetensors files; None for pickles."""
        from huggingface_hub.errors import SafetensorsParsingError

        if not self.weights[0].endswith(".safetensors"):
            return None
        try:
            found = api.get_safetensors_metadata(self.name, revision=self.folder.name)
            return {
                name: TensorInfo(name, info.dtype, tuple(info.shape))
                for file in found.files_metadata.values()
                for name, info in file.tensors.items()
            }
        except (SafetensorsParsingError, AttributeError, TypeError):
            where = f"Hub model {self.name}"
            raise CheckpointError("a header of its weights is not valid", where=where) from None


def _look_up(api: HfApi, name: str, revision: str | None) -> _HubModel:
    """Fetches the small files, and checks that the model can be edited and has weights."""
    from huggingface_hub import snapshot_download

    info = api.model_info(name, revision=revision, timeout=TIMEOUT)
    files = tuple(file.rfilename for file in info.siblings or ())
    if CONFIG not in files:
        raise SourceError(f"has no {CONFIG}", where=f"Hub model {name}")
    entry = find_weights(files.__contains__)
    small = [f for f in (CONFIG, MANIFEST, entry) if f in files and f not in (SAFETENSORS, PICKLE)]
    # by its name and not by its commit, so that the cache remembers the name for work offline
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=small))
    config = read_json(folder / CONFIG, needed=True)
    check_config(config, family_of(config))
    if entry is None:
        raise SourceError(
            "has no weights that can be read",
            where=f"Hub model {name}",
            expected=f"{SAFETENSORS} or {PICKLE}, single or sharded",
        )
    return _HubModel(name, folder, files, config, _list_weights(entry, folder, files))


def _list_weights(entry: str, folder: Path, files: Collection[str]) -> tuple[str, ...]:
    """The file of weights itself, or the shards that an index names, all of which must exist."""
    if not entry.endswith(INDEX):
        return (entry,)
    weight_map, _ = read_index(folder, entry, files.__contains__)
    return tuple(dict.fromkeys(weight_map.values()))


def _find_download(name: str, revision: str | None) -> Path | None:
    """The folder of an earlier download, if it is complete."""
    from huggingface_hub import snapshot_download

    wanted = [CONFIG, MANIFEST, *SIDECARS]  # the client then says if one of these is missing
    try:
        folder = Path(
            snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=wanted)
        )
        files = [path.name for path in folder.iterdir()]
        entry = find_weights(files.__contains__)
        complete = CONFIG in files and entry is not None and _list_weights(entry, folder, files)
    except (OSError, ValueError, SurgeryError):
        return None
    return folder if complete else None
