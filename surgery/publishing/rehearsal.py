"""Rehearses a push: what it would send, and what every check says. Nothing is sent or created."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.card.text import read_metadata
from surgery.checkpoint.source import CARD
from surgery.errors import SurgeryError
from surgery.hub.client import Published, find_published, open_client
from surgery.proof.files import Check
from surgery.proof.verification import read_record, verify
from surgery.publishing.upload import (
    FIX,
    Publishable,
    check_destination,
    check_repository,
    find_publishable,
    find_stale,
    make_card,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SHOWN = ("base_model", "license", "language", "tags")
"""What is shown of the card's metadata."""


@dataclass(frozen=True)
class Rehearsal:
    """What a push would do.

    - `exists`: whether the repository does; None if the Hub could not be asked. `files`: name →
      bytes; empty if the folder may not be published. `removed`: files of an earlier push.
    - `card`: some of its metadata, and how many results it lists. `checks`: their results, in
      order.
    """

    repo: str
    exists: bool | None
    private: bool
    files: Mapping[str, int]
    removed: tuple[str, ...]
    card: Mapping[str, Any]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        found = {**asdict(self), "checks": [asdict(check) for check in self.checks]}
        return {"dry_run": True, "ok": self.ok, **found, "removed": list(self.removed)}


def rehearse(
    folder: str | Path,
    repo: str,
    *,
    public: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    evaluation: str | Path | None = None,
    allow_undecided: bool = False,
) -> Rehearsal:
    """Makes all checks of `push`, whose arguments these are, and asks the Hub about `repo`.

    A check that fails hides none of the others that do not depend on it. Raises `ManifestError` if
    the folder has no manifest.
    """
    folder, place = Path(folder), Path(evaluation) if evaluation is not None else None
    text = read_record(folder, FIX, folder)
    checks: list[Check] = []
    exists = source = None
    with _noting(checks, "destination", "an id, and you are logged in"):
        check_destination(repo)
    if checks[-1].ok:
        fine = "as public or private as you say, or not there yet"
        with _noting(checks, "repository", fine), open_client(repo, revision, upload=True) as api:
            exists = check_repository(api, repo, public=public, create_pr=create_pr)
    verified = verify(folder, papers=False, text=text)
    checks += verified.checks
    if verified.ok:
        with _noting(checks, "report", "none, or one that shows every limit kept; no local path"):
            given: Any = {"allow_undecided": allow_undecided, "text": text, "verified": verified}
            source = find_publishable(folder, place, **given)
    proposes = create_pr or (revision or "").startswith("refs/")
    removed, written = list[str](), None
    if source is not None and exists:
        fine = "none stands in the way"
        with (
            _noting(checks, "files on the Hub", fine),
            open_client(repo, revision, upload=True) as api,
        ):
            there = _find_branch(api, repo, None if create_pr else revision)
            removed = find_stale(api, there, source, replaces=proposes)
            written = there.fetch(api, CARD) if CARD in there.files else None
    card = None
    if source is not None:
        with _noting(checks, "card", "can be written"):
            card = make_card(repo, written, source)
    files = {} if source is None or card is None else _measure(source, card)
    return Rehearsal(
        repo, exists, not public, files, tuple(removed), _describe_card(card), tuple(checks)
    )


def _find_branch(api: HfApi, repo: str, revision: str | None) -> Published:
    """The state of a branch, or of main, from which a push would create it."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return find_published(api, repo, revision)
    except RevisionNotFoundError:
        return find_published(api, repo)


@contextmanager
def _noting(checks: list[Check], name: str, fine: str) -> Iterator[None]:
    """Adds the result of what runs inside: `fine`, or the error."""
    try:
        yield
    except SurgeryError as error:
        checks.append(Check(name, False, str(error)))
    else:
        checks.append(Check(name, True, fine))


def _measure(source: Publishable, card: str) -> dict[str, int]:
    """Bytes of each file that would be sent."""
    sizes = {
        name: content.stat().st_size if isinstance(content, Path) else len(content)
        for name, content in source.contents.items()
    }
    return dict(sorted({**sizes, CARD: len(card.encode())}.items()))


def _describe_card(card: str | None) -> dict[str, Any]:
    if card is None:
        return {}
    metadata = json.loads(json.dumps(read_metadata(card), default=str))  # YAML has dates, too
    shown = {key: metadata[key] for key in _SHOWN if key in metadata}
    results = [one for model in metadata.get("model-index") or () for one in model["results"]]
    return {**shown, "results": len(results)}
