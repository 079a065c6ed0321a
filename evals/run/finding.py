"""Finds the base that edited models are compared with, and whether they read the same tokens."""

from __future__ import annotations

from collections.abc import Iterable
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
    from surgery.loading import has_tokenizer, share_tokens

    for model in models:
        both = has_tokenizer(base.folder) and has_tokenizer(model.folder)
        if both and not share_tokens(base, model):
            raise MeasurementError(
                "its tokenizer has other tokens, so it cannot be asked what the base is asked",
                where=model.source.model,
                expected=f"the tokens of {base.source.model}",
                fix="name the base that it was made from, or a model with the same tokens",
            )
