"""Finds the base that edited models are compared with, and whether they read the same tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from evals.run.console import say
from surgery.errors import MeasurementError
from surgery.hub.finding import find_commit, find_model

if TYPE_CHECKING:
    from surgery.hub.resolved import ResolvedModel


def find_baseline(
    model: str, edited: Iterable[ResolvedModel], revision: str | None = None
) -> ResolvedModel:
    """Finds the base of edits: at the commit that one of them records, unless `revision` names one.

    Raises as `surgery.hub.finding.find_model`.
    """
    if revision is None and (revision := find_recorded_commit(model, edited)) is not None:
        say(f"{model}: at commit {revision[:12]}, which the edited model records as its source")
    return find_model(model, revision)


def find_recorded_commit(model: str, edited: Iterable[ResolvedModel]) -> str | None:
    """The commit of a base that one of the edited models records; None if none does."""
    manifests = (one.manifest for one in edited)
    return find_commit(
        model, (source for manifest in manifests if manifest for source in manifest.sources)
    )


def check_tokens(base: ResolvedModel, models: Iterable[ResolvedModel]) -> None:
    """Raises `MeasurementError` if the tokens of the base mean something else to one of the models.

    It would recite nothing, as nobody asks it for the passages. Tells nothing of models without a
    tokenizer.
    """
    from surgery.editing.loading import has_tokenizer

    for model in models:
        both = has_tokenizer(base.folder) and has_tokenizer(model.folder)
        if both and not share_tokens(base, model):
            raise MeasurementError(
                "its tokenizer has other tokens, so it cannot be asked what the base is asked",
                where=model.source.model,
                expected=f"the tokens of {base.source.model}",
                fix="name the base that it was made from, or a model with the same tokens",
            )


def share_tokens(one: ResolvedModel, other: ResolvedModel) -> bool:
    """Whether the same ids stand for the same tokens; either may have some more."""
    from surgery.editing.loading import has_tokenizer, load_tokenizer

    if not (has_tokenizer(one.folder) and has_tokenizer(other.folder)):
        return one.inventory.dimensions.vocabulary == other.inventory.dimensions.vocabulary
    if _read_files(one.folder) == _read_files(other.folder):
        return True
    few, many = sorted(
        (load_tokenizer(model.folder).get_vocab() for model in (one, other)), key=len
    )
    return bool(few.items() <= many.items())


def _read_files(folder: Path) -> list[bytes | None]:
    from surgery.editing.loading import VOCABULARIES

    paths = [folder / name for name in VOCABULARIES]
    return [path.read_bytes() if path.is_file() else None for path in paths]
