"""Finds the base that edited models are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from evals.run.console import say
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
    return find_commit(model, (source for one in manifests if one for source in one.sources))
