"""Publishing an exported folder: one commit, of files that were verified and of nothing else."""

from __future__ import annotations

import hashlib
import sys
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.card.text import merge_cards, render_card
from surgery.checkpoint.source import CARD, CODE_OR_WEIGHTS, MANIFEST
from surgery.errors import ManifestError, OutputError
from surgery.hub.client import hub_client, progress_bars
from surgery.hub.state import TIMEOUT, Published, find_published
from surgery.proof.claims import Render
from surgery.publishing.publishable import Publishable, find_publishable
from surgery.record.manifest import REPORTS, Manifest, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_LARGE = 10_000_000  # bytes from which the Hub takes any file by its hash
_FIX = "push a folder that `attn-surgery export` wrote"


@dataclass(frozen=True)
class Push:
    """What is on the Hub now. `pr`: the URL of the pull request, where one was asked for."""

    repo: str
    url: str
    commit: str
    files: tuple[str, ...]
    private: bool
    pr: str | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "files": list(self.files)}


def push(
    folder: str | Path,
    repo: str,
    *,
    public: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    message: str | None = None,
    evaluation: str | Path | None = None,
    render: Render | None = None,
) -> Push:
    """Verifies an exported folder and uploads it to the Hub, as one commit.

    It sends the files that the manifest lists, the manifest, a fresh card, and the report, made
    anew, if it is of this model. The hashes on the Hub are then compared with the manifest's. The
    repository is created if there is none, private unless `public`. The Hub keeps large files that
    have arrived, so a second push completes one that was interrupted; until then nothing shows.

    **Arguments:** `repo` is OWNER/NAME; `revision` a branch, created if need be; `create_pr`
    proposes the commit as a pull request; `evaluation` is the folder of the model's report, if not
    the model's own; `render` makes the report anew (`evals.publication.report.render_report`), and
    without it none is sent.

    **Raises:** `ManifestError` when the folder has no manifest, `OutputError` when it does not
    verify or cannot be published; ValueError for `evaluation` without `render`.
    """
    if evaluation is not None and render is None:
        raise ValueError("`evaluation` goes with `render`, which makes what is published of it")
    if read_manifest(Path(folder)) is None:
        raise ManifestError(f"has no {MANIFEST}", where=folder, fix=_FIX)
    check_destination(repo)
    with hub_client(repo, revision, upload=True) as api:  # before the long verification
        exists = _check_repository(api, repo, public=public, create_pr=create_pr)
    place = None if evaluation is None else Path(evaluation)
    source = find_publishable(Path(folder), place, render)
    with hub_client(repo, revision, upload=True) as api:
        if not exists:
            api.create_repo(repo, private=not public)
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo, branch=revision, exist_ok=True)
        there = find_published(api, repo, revision)
        stale = _stale(api, there, source)
        source = _with_card(source, _card(api, there, source).encode())
        done = _commit(
            api,
            there,
            [_added(name, source) for name in source.contents],
            stale,
            commit_message=message or _message(source.manifest),
            revision=revision,
            create_pr=create_pr,
        )
        _check_arrived(find_published(api, repo, done.pr_revision or done.oid), source)
        url = f"{api.endpoint}/{repo}"
    return Push(repo, url, done.oid, tuple(sorted(source.contents)), not public, done.pr_url)


def check_destination(repo: str) -> None:
    """All that can be known of a destination without the Hub: its form, and that there is a login.

    Raises `OutputError`.
    """
    from huggingface_hub import get_token, utils
    from huggingface_hub.errors import HFValidationError

    client: Any = utils
    try:
        client.validate_repo_id(repo)
        named = repo.count("/") == 1
    except HFValidationError:
        named = False
    if not named:
        raise OutputError("not a Hub id", where=repo, expected="OWNER/NAME")
    if get_token() is None:
        fix = "`hf auth login` with a token that may write, or set HF_TOKEN"
        raise OutputError("nobody is logged in", where=f"Hub model {repo}", fix=fix)


def _check_repository(api: HfApi, repo: str, *, public: bool, create_pr: bool) -> bool:
    """Whether the repository exists. Refuses one that is not as public or private as asked for."""
    from huggingface_hub.errors import RepositoryNotFoundError

    where = f"Hub model {repo}"
    try:
        private = bool(api.model_info(repo, timeout=TIMEOUT).private)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        if create_pr:
            what, fix = "not found, so nothing can be proposed", "push without `create_pr=True`"
            raise OutputError(what, where=where, fix=fix) from None
        return False
    if public and private:
        raise OutputError(
            "exists and is private, and `public=True` opens none that exists",
            where=where,
            fix="open it in its settings, or push without `public=True`",
        )
    if not public and not private:
        fix = "push with `public=True` if that is meant, or choose another name"
        raise OutputError("exists and is public", where=where, fix=fix)
    return True


def _stale(api: HfApi, there: Published, source: Publishable) -> list[str]:
    """Files of an earlier push, to be removed.

    **Raises:** `OutputError` for weights or code of someone else: they would be taken for the
    model's, and they are not ours to remove.
    """
    ours = set(REPORTS)
    earlier = there.manifest(api)
    ours |= set(earlier.files) if earlier else set()
    others = set(there.files) - {*source.contents, CARD}
    foreign = sorted(name for name in others - ours if Path(name).suffix in CODE_OR_WEIGHTS)
    if foreign:
        raise OutputError(
            f"holds {foreign[0]}, which is not of this model and would be taken for a part of it",
            where=f"Hub model {there.repo}",
            fix="choose another name, or delete the file there",
        )
    return sorted(others & ours)


def _card(api: HfApi, there: Published, source: Publishable) -> str:
    """A fresh card with what the user has written, in the folder or on the Hub."""
    card = source.card
    if CARD in there.files:
        card = merge_cards(card, there.fetch(api, CARD).read_text(encoding="utf-8"))
    return render_card(source.manifest, name=there.repo, measured=source.measured, existing=card)


def _with_card(source: Publishable, card: bytes) -> Publishable:
    hashes = {**source.hashes, CARD: hashlib.sha256(card).hexdigest()}
    return replace(source, contents={**source.contents, CARD: card}, hashes=hashes)


def _check_arrived(now: Published, source: Publishable) -> None:
    """Raises `OutputError` for a file that is not on the Hub as it was sent."""
    for name, content in source.contents.items():
        if name not in now.files or not now.files[name].holds(source.hashes[name], content):
            what = f"{name} has not arrived as it was sent"
            raise OutputError(what, where=f"Hub model {now.repo}", fix="push again")


def _message(manifest: Manifest) -> str:
    blocks = ", ".join(map(str, manifest.edit.blocks))
    return f"Upload an edit of blocks {blocks} ({manifest.edit.variant})"


def _added(name: str, source: Publishable) -> CommitOperationAdd:
    """A file of the commit. A small one is read once, here; the Hub itself holds a large one to the
    hash that is compared here.

    Raises `OutputError` where that is not the hash that was verified.
    """
    from huggingface_hub import CommitOperationAdd

    content = source.contents[name]
    where = content if isinstance(content, Path) else name
    if isinstance(content, Path) and content.stat().st_size < _LARGE:
        content = content.read_bytes()
    added = CommitOperationAdd(name, content)
    if added.upload_info.sha256.hex() != source.hashes[name]:
        raise OutputError("has changed since it was verified", where=where, fix="push again")
    return added


def _commit(
    api: HfApi, there: Published, added: list[CommitOperationAdd], stale: list[str], **choices: Any
) -> Any:
    """Sends what is not there yet, then the commit on top of the state that was looked at."""
    from huggingface_hub import CommitOperationDelete

    removed = [CommitOperationDelete(name, is_folder=False) for name in stale]
    with progress_bars(shown=sys.stderr.isatty()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client, on metadata that could be there
        return api.create_commit(
            there.repo, [*added, *removed], parent_commit=there.commit, **choices
        )
