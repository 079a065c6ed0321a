"""Finds a model: a folder, an embedded model, or a Hub id. Downloads only what is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from surgery.checkpoint import (
    CARD,
    INDEX,
    MANIFEST,
    PICKLE,
    SAFETENSORS,
    SIDECARS,
    find_weights,
    is_adapter,
    read_config,
    read_index,
    refuse_adapter,
)
from surgery.compact import MODELING_FILE
from surgery.config import check_config
from surgery.errors import CheckpointError, SourceError, SurgeryError
from surgery.hub.client import (
    Published,
    UnreachableError,
    find_published,
    open_client,
    show_progress,
)
from surgery.hub.resolved import ResolvedModel
from surgery.lab import PREFIX, find_lab_folder
from surgery.privacy import expand_home, make_public_name
from surgery.record.manifest import Source, read_manifest
from surgery.tensors import Tensor

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CONFIG = "config.json"
_BESIDE = (*SIDECARS, CARD, MODELING_FILE.name)
"""Patterns of what to get with weights. A source's card states its license; code is compared with
ours, and never run."""


def find_model(
    model: str | Path | ResolvedModel,
    revision: str | None = None,
    *,
    check: Callable[[dict[str, Any]], object] = lambda config: None,
) -> ResolvedModel:
    """Returns a model with its files in a local folder. Does not look up one found before.

    A Hub id may end with its revision, as in `owner/name@main`.

    Checks a Hub model's configuration before downloading weights, and downloads one format of
    them. If the Hub cannot be reached, uses an earlier download.

    **Arguments:** `model`: a folder, an embedded model (`lab:pythia`) or a Hub id; `revision`: a
    branch, tag or commit of a Hub id; `check`: gets a Hub model's configuration, and may raise
    before the weights are downloaded.
    """

    def fetch(api: HfApi, hub: _HubModel) -> None:
        check(hub.config)
        hub.download()

    return model if isinstance(model, ResolvedModel) else _find(model, revision, fetch)[0]


def find_recorded(
    model: str | Path | ResolvedModel, revision: str | None, recorded: Source
) -> ResolvedModel:
    """Finds a model like `find_model`: a recorded one, if named like it, at its recorded commit."""
    if isinstance(model, str) and revision is None:
        revision = find_commit(model, [recorded])
    return find_model(model, revision)


def find_commit(model: str, recorded: Iterable[Source]) -> str | None:
    """The commit of the first recorded model of that name; None if there is none, or a folder."""
    named = (one for one in recorded if one.model.casefold() == model.casefold())
    found = next(named, None)
    return None if found is None or find_folder(model) is not None else found.commit


def find_source(recorded: Source, beside: Path | None = None) -> str | None:
    """By what name a recorded source can be found: its Hub id, that of an embedded model, or a
    folder of that name in the current folder, or next to `beside`. None if it is not here."""
    if recorded.commit is not None or recorded.model.startswith(PREFIX):
        return recorded.model
    if Path(recorded.model).name != recorded.model:  # a path, as early versions recorded it
        return recorded.model if find_folder(recorded.model) is not None else None
    places = [Path(recorded.model), *([beside.parent / recorded.model] if beside else [])]
    return next((str(place) for place in places if place.is_dir()), None)


Part = Literal["source", "by"]
"""What a recorded model was to a step: the one that was edited, or the one that taught."""
_MADE: dict[Part, str] = {"source": "made from", "by": "taught by a model in"}
_DID: dict[Part, str] = {"source": "was edited", "by": "taught"}


def require_source(
    recorded: Source, beside: Path | None, where: object, part: Part = "source"
) -> str:
    """As `find_source`, but raises `SourceError` about `where` if the source is not here."""
    if (named := find_source(recorded, beside)) is None:
        raise SourceError(
            f"was {_MADE[part]} a folder, {recorded.model}, which is not here",
            where=where,
            fix=f"give it, or a copy of it, as `{part}`",
        )
    return named


def check_source(
    found: ResolvedModel, recorded: Source, where: object, part: Part = "source"
) -> None:
    """Raises `SourceError` about `where` if a model is not the recorded one."""
    if recorded.content is not None and not found.is_that(recorded):
        raise SourceError(
            f"is not the model that {_DID[part]}",
            where=where,
            expected=f"{recorded.model} with content {recorded.content[:12]}",
            got=(found.identified.content or "")[:12],
            fix=f"give a copy of the one that {_DID[part]} as `{part}`",
        )


def name_first(model: ResolvedModel) -> str:
    """The name by which the model before all steps of a model can be found: its own, if no step
    made it; the recorded one, if it is not here."""
    if model.manifest is None:
        return str(model)
    first = model.manifest.sources[-1]
    return find_source(first, model.folder) or first.model


def find_export(
    model: str | Path, revision: str | None = None
) -> tuple[ResolvedModel, tuple[str, ...] | None]:
    """Finds an edited model like `find_model`, with every file that its manifest
    accounts for.

    Returns the model, and the names of all other files of a Hub repository: if there are any, or
    there is no manifest, neither they nor weights are downloaded. None: the Hub was not reached.
    """

    def fetch(api: HfApi, hub: _HubModel) -> tuple[str, ...]:
        manifest = read_manifest(hub.folder)
        if manifest is None:
            return ()
        files = hub.there.files
        others = tuple(file for file in files if not manifest.accounts_for(file))
        if not others:
            hub.download(beside=files)
        return others

    def is_whole(folder: Path) -> bool:
        """`find_model` downloads neither reports nor whatever else a manifest may list."""
        manifest = read_manifest(folder)
        names = () if manifest is None else (*manifest.files, *manifest.reports)
        return all((folder / name).is_file() for name in names)

    found, others = _find(model, revision, fetch, is_whole)
    return found, () if found.source.commit is None else others


def find_outline(
    model: str | Path, revision: str | None = None
) -> tuple[ResolvedModel, dict[str, Tensor] | None]:
    """Finds a model like `find_model`, but reads only the headers of a Hub model's weights.

    Returns the model, whose folder holds its configuration and manifest, and its tensors by name;
    None for pickled weights on the Hub, whose tensors are unknown before a download.
    """
    found, infos = _find(model, revision, lambda api, hub: [hub.read_headers(api)])
    return found, infos[0] if infos else found.checkpoint.tensors


T = TypeVar("T")


def _find(
    model: str | Path,
    revision: str | None,
    use: Callable[[HfApi, _HubModel], T],
    is_whole: Callable[[Path], bool] = lambda folder: True,
) -> tuple[ResolvedModel, T | None]:
    """Returns the model and what `use` makes of it on the Hub; None if it is in a folder.

    `is_whole`: whether an earlier download suffices where the Hub cannot be reached.
    """
    folder, used = find_folder(model, revision), None
    if folder is not None:
        return ResolvedModel(folder, Source(model=make_public_name(model))), None
    name, _, named = str(model).partition("@")
    revision = revision or named or None
    try:
        with open_client(name, revision) as api:
            hub = _look_up(api, name, revision)
            folder, used = hub.folder, use(api, hub)
    except UnreachableError:
        folder = _find_download(name, revision)
        if folder is None or not is_whole(folder):
            raise
    return ResolvedModel(folder, Source(model=name, revision=revision, commit=folder.name)), used


def find_folder(model: str | Path, revision: str | None = None) -> Path | None:
    """Returns the folder that `model` names; None for a Hub id."""
    if not str(model):
        raise SourceError("no model is named", expected="a folder or a Hub id")
    lab = str(model).startswith(PREFIX)
    folder = find_lab_folder(str(model)[len(PREFIX) :]) if lab else expand_home(model)
    if not folder.is_dir():
        if folder.exists():
            raise SourceError("is a file; expected a folder or a Hub id", where=model)
        return None
    if revision is not None:
        raise SourceError(
            "`revision` goes with a Hub id, and this is a folder",
            where=folder,
            got=revision,
            fix="leave `revision` out",
        )
    return folder


@dataclass(frozen=True)
class _HubModel:
    """A Hub model that can be edited. `folder` is its commit in the cache, with its
    config.

    `weights`: the files of the format that is used.
    """

    there: Published
    folder: Path
    config: dict[str, Any]
    weights: tuple[str, ...]

    def download(self, beside: Collection[str] = _BESIDE) -> None:
        """Downloads what the cache lacks, weights last: once they are there, everything is.

        `beside`: names, or patterns, of files to get with the weights.
        """
        from huggingface_hub import snapshot_download

        files = self.there.files
        along = [file for file in files if file in beside or _matches(file, beside)]
        for wanted, shown in ((along, False), (self.weights, sys.stderr.isatty())):
            missing = [escape(file) for file in wanted if not (self.folder / file).exists()]
            if missing:
                with show_progress(shown=shown):
                    snapshot_download(
                        self.there.repo, revision=self.folder.name, allow_patterns=missing
                    )

    def read_headers(self, api: HfApi) -> dict[str, Tensor] | None:
        """Reads the tensors from headers of safetensors files; None for pickled weights."""
        from huggingface_hub.errors import SafetensorsParsingError

        if not self.weights[0].endswith(".safetensors"):
            return None
        try:
            found = api.get_safetensors_metadata(self.there.repo, revision=self.folder.name)
            named = {
                name: info
                for file in found.files_metadata.values()
                for name, info in file.tensors.items()
            }
            return {
                name: Tensor(name, info.dtype, tuple(info.shape)) for name, info in named.items()
            }
        except (SafetensorsParsingError, AttributeError, TypeError):
            where = f"Hub model {self.there.repo}"
            raise CheckpointError("a header of its weights is not valid", where=where) from None


def _matches(file: str, patterns: Iterable[str]) -> bool:
    """Whether the name of a file fits one of the patterns."""
    return any(fnmatch(file, pattern) for pattern in patterns)


def _look_up(api: HfApi, name: str, revision: str | None) -> _HubModel:
    """Downloads the small files, and checks that the model can be edited and has weights."""
    from huggingface_hub import snapshot_download

    there = find_published(api, name, revision)
    files = there.files
    if is_adapter(files.__contains__):
        raise refuse_adapter(f"Hub model {name}")
    if CONFIG not in files:
        raise SourceError(f"has no {CONFIG}", where=f"Hub model {name}")
    entry = find_weights(files.__contains__)
    wanted = (CONFIG, MANIFEST, entry)
    small = [f for f in files if f in wanted and f not in (SAFETENSORS, PICKLE)]
    # by name, not by commit, so that the cache knows the name for offline work
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=small))
    config = read_config(folder)
    check_config(config)
    if entry is None:
        raise SourceError(
            "has no weights that can be read",
            where=f"Hub model {name}",
            expected=f"{SAFETENSORS} or {PICKLE}, single or sharded",
        )
    return _HubModel(there, folder, config, _list_weights(entry, folder, files))


def _list_weights(entry: str, folder: Path, files: Collection[str]) -> tuple[str, ...]:
    """Returns the file of weights, or the shards of an index, which must all exist."""
    if not entry.endswith(INDEX):
        return (entry,)
    weight_map, _ = read_index(folder, entry, files.__contains__)
    return tuple(dict.fromkeys(weight_map.values()))


def _find_download(name: str, revision: str | None) -> Path | None:
    """Returns the folder of an earlier download if it is complete."""
    from huggingface_hub import snapshot_download

    wanted = [CONFIG, MANIFEST, *SIDECARS]  # the client raises if one of these is missing
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
