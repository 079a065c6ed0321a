"""Uploads an exported folder as one commit: verified files, a new card, and a new report."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.card.measurements import build_measurements, is_task
from surgery.card.text import Measurements, merge_cards, read_own_card, render_card
from surgery.checkpoint.source import CARD, MANIFEST
from surgery.checkpoint.tensors import read_header
from surgery.errors import OutputError
from surgery.hub.client import TIMEOUT, Published, find_published, open_client, show_progress
from surgery.privacy import separate_paths
from surgery.proof.report import read_report
from surgery.proof.verification import Verification, read_record, verify
from surgery.record.manifest import REPORTS, Manifest, Step, parse_manifest
from surgery.record.report import Report
from surgery.untrusted import guard, parse_json, read_bytes

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_LARGE = 10_000_000  # bytes; a larger file is read again while it is sent
_AGAIN = "push again"
FIX = "push a folder that `attn-surgery export` wrote"


@dataclass(frozen=True)
class Publishable:
    """A verified folder. `card`: README.md as it is, or "".

    `contents`: file → what is sent, a path for a large file; `hashes`: file → the SHA-256 that must
    arrive.
    """

    manifest: Manifest
    contents: Mapping[str, Path | bytes]
    hashes: Mapping[str, str]
    card: str
    measured: Measurements | None


@dataclass(frozen=True)
class Push:
    """What is on the Hub now.

    `pr`: the URL of the pull request, if you asked for one; None if nothing differed.
    """

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
    allow_undecided: bool = False,
) -> Push:
    """Verifies an exported folder and uploads it to the Hub, as one commit.

    Sends the manifest, its files, a new card, and the report. Then compares the hashes on the Hub,
    which keeps large files that have arrived: after an interruption, push again. A missing `repo`
    (OWNER/NAME) is created, private unless `public`, and so is a missing branch, `revision`.
    `create_pr` opens a pull request. `evaluation`: the folder of the report, if another one.
    `allow_undecided`: also publish a report that does not decide a limit.

    Raises `ManifestError` if the folder has no manifest, `OutputError` if it does not verify
    or cannot be published.
    """
    folder, place = Path(folder), Path(evaluation) if evaluation is not None else None
    text = read_record(folder, FIX, folder)
    parse_manifest(text, folder / MANIFEST)
    check_destination(repo)
    proposes = create_pr or (revision or "").startswith("refs/")
    with open_client(repo, revision, upload=True) as api:  # before the long verification
        exists = check_repository(api, repo, public=public, create_pr=create_pr)
    source = find_publishable(folder, place, allow_undecided=allow_undecided, text=text)
    make_card(repo, None, source)  # before anything is created: yours may not be valid
    with open_client(repo, revision, upload=True) as api:
        if not exists:
            api.create_repo(repo, private=not public)
        if revision is not None and not proposes:
            api.create_branch(repo, branch=revision, exist_ok=True)
        there = find_published(api, repo, revision)
        _check_privacy(repo, private=there.private, public=public)  # which may have changed
        stale = find_stale(api, there, source, replaces=proposes)
        written = there.fetch(api, CARD) if CARD in there.files else None
        url = f"{api.endpoint}/{repo}"
    card = make_card(there.repo, written, source).encode()
    hashes = {**source.hashes, CARD: hashlib.sha256(card).hexdigest()}
    source = replace(source, contents={**source.contents, CARD: card}, hashes=hashes)
    edit, added = source.manifest.step, [_make_addition(one, source) for one in source.contents]
    made = f"Upload {_name_step(edit)}"
    choices: dict[str, Any] = {"revision": revision, "create_pr": create_pr}
    with open_client(repo, revision, upload=True) as api, _show_uploads():
        api.preupload_lfs_files(repo, added, **choices)
    with open_client(repo, revision, upload=True) as api:
        done = _commit(api, there, added, stale, commit_message=message or made, **choices)
        _check_arrived(find_published(api, repo, done.pr_revision or done.oid), source)
    return Push(repo, url, done.oid, tuple(sorted(source.contents)), not public, done.pr_url)


def find_publishable(
    folder: Path,
    evaluation: Path | None = None,
    *,
    allow_undecided: bool = False,
    text: bytes | None = None,
    verified: Verification | None = None,
) -> Publishable:
    """Verifies an exported folder, unless it is `verified` without its papers. `evaluation`,
    `allow_undecided`: as for `push`.

    Reads each small file once, and returns what was verified. `text`: as for `verify`. Raises
    `ManifestError` if the folder has no manifest, `OutputError` if it does not verify or holds a
    local path, or if its report is of another model, holds what a report may not hold, or does not
    show every limit kept.
    """
    text = text or read_record(folder, FIX, folder)
    manifest = parse_manifest(text, folder / MANIFEST)
    verified = verified or verify(folder, papers=False, text=text)  # the card is made anew
    failed = verified.failed
    if failed is not None:
        what = f"does not verify, so it is not published: {failed.name}: {failed.detail}"
        raise OutputError(what, where=folder, fix="export it again")
    place = evaluation or folder
    if evaluation is not None:
        text = _read_measured(evaluation, manifest)
        manifest = parse_manifest(text, evaluation / MANIFEST)
    report, pages = read_report(place, manifest)
    if evaluation is not None and report is None:
        fix = "evaluate the model into it, or leave `report` out"
        raise OutputError("holds no report", where=evaluation, fix=fix)
    if report is not None:
        _check_state(report, place / REPORTS[0], allow_undecided)
    written = {MANIFEST: text, **pages}
    contents: dict[str, Path | bytes] = {}
    for name, file in manifest.files.items():
        is_small = file.size < _LARGE or name.endswith(".json")
        contents[name] = read_bytes(folder / name, OutputError) if is_small else folder / name
    contents |= written
    for name, content in contents.items():
        _check_private(folder / name, content)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
    return Publishable(
        manifest,
        contents,
        {**{name: file.sha256 for name, file in manifest.files.items()}, **hashes},
        read_own_card(folder) or "",
        build_measurements(report) if report else None,
    )


def _read_measured(evaluation: Path, manifest: Manifest) -> bytes:
    """The manifest that an evaluation wrote, which records its report.

    Raises `OutputError` if it is of another model.
    """
    text = read_record(evaluation, "evaluate this one model against its source", evaluation)
    found = parse_manifest(text, evaluation / MANIFEST)
    if found.model_copy(update={"reports": manifest.reports}) != manifest:
        raise OutputError("belongs to another model", where=evaluation, fix="evaluate this one")
    return text


def _check_state(report: Report, where: Path, allow_undecided: bool) -> None:
    """Raises `OutputError` if the report says that a limit is missed, or not decided, or decides
    one on a part of a benchmark."""
    (edit,) = report.edits
    limited = [one.subject for one in report.limits if is_task(report.names[one.name])]
    if report.settings.get("limit") is not None and limited:
        what = f"decides the limit on {limited[0]} on a part of it, so it is not published"
        raise OutputError(what, where=where, fix="evaluate without `limit`")
    if edit.state == "missed":
        fix = "choose another edit, or evaluate this one without that limit"
        raise OutputError(
            "says that a limit is missed, so it is not published", where=where, fix=fix
        )
    if edit.state == "undecided" and not allow_undecided:
        what = "says that a limit is not decided, so it is not published"
        fix = "see what it says would decide it, or give `allow_undecided=True`"
        raise OutputError(what, where=where, fix=fix)


def _check_private(path: Path, content: Path | bytes) -> None:
    """Raises `OutputError` for a local path in JSON, or in the metadata of weights."""
    settings: Any = {}
    if path.suffix == ".json" and isinstance(content, bytes):
        with guard(OutputError, "not valid JSON", path):
            settings = parse_json(content)
    elif path.suffix == ".safetensors":
        _, settings = read_header(path)
    for key in separate_paths(settings, path.name)[1]:
        what = "holds a path of the machine that saved it, which is never published"
        raise OutputError(what, where=f"{path}: {key}", fix="export it again")


def check_destination(repo: str) -> None:
    """Checks a destination's form, and that you are logged in."""
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
        fix = "run `hf auth login` with a token that may write, or set HF_TOKEN"
        raise OutputError("you are not logged in", where=f"Hub model {repo}", fix=fix)


def check_repository(api: HfApi, repo: str, *, public: bool, create_pr: bool) -> bool:
    """Returns whether the repository exists. Refuses one that is public or private by mistake."""
    from huggingface_hub.errors import RepositoryNotFoundError

    where = f"Hub model {repo}"
    try:
        private = bool(api.model_info(repo, timeout=TIMEOUT).private)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        if create_pr:
            what = "not found, so there is nothing to open a pull request on"
            raise OutputError(what, where=where, fix="push without `create_pr=True`") from None
        return False
    _check_privacy(repo, private=private, public=public)
    return True


def _check_privacy(repo: str, *, private: bool, public: bool) -> None:
    """Raises `OutputError` for a repository that is public or private by mistake."""
    where = f"Hub model {repo}"
    if public and private:
        what = "exists and is private, and `public=True` does not change that"
        fix = "make it public in its settings, or push without `public=True`"
        raise OutputError(what, where=where, fix=fix)
    if not public and not private:
        fix = "push with `public=True` if you want that, or choose another name"
        raise OutputError("exists and is public", where=where, fix=fix)


def find_stale(api: HfApi, there: Published, source: Publishable, *, replaces: bool) -> list[str]:
    """Returns files of an earlier push that are not part of this one, which will be removed.

    A file is of that push if it has the SHA-256 that the manifest there records. A small one, for
    which the Hub gives none, is downloaded to see, if it would be replaced or removed. The manifest
    itself goes by its name.

    **Raises:** `OutputError` for files that would be replaced or removed, and that no push put
    there, unless it `replaces` them; and for files that are not part of the model: loaders may take
    them for it, and `verify` refuses them.
    """
    earlier, sent, where = there.manifest(api), source.contents, f"Hub model {there.repo}"
    files = earlier.files.items() if earlier else ()
    recorded = {name: file.sha256 for name, file in files} | (earlier.reports if earlier else {})
    changed = sorted(
        name
        for name, file in there.files.items()
        if name not in (CARD, MANIFEST)
        and not (name in sent and file.holds(source.hashes[name], sent[name]))
    )
    theirs = (
        name
        for name in changed
        if (name in sent and name not in recorded)
        or (name in recorded and there.hash(api, name) != recorded[name])
    )
    if not replaces and (found := ", ".join(theirs)):
        what = "holds files that no push put there, and that this one would replace or remove"
        fix = "choose another name, propose the model with `create_pr=True`, or delete them there"
        raise OutputError(what, where=where, got=found, fix=fix)
    others = [name for name in changed if name not in {*sent, *recorded}]
    taken = (n for n in others if n in REPORTS or not source.manifest.accounts_for(n))
    if found := ", ".join(taken):
        what = "holds files that are not part of this model, so it would not verify"
        fix = "choose another name, or delete them there"
        raise OutputError(what, where=where, got=found, fix=fix)
    return [name for name in changed if name in recorded and name not in sent]


def _name_step(step: Step) -> str:
    """What was done last, for the history of a repository."""
    if step.erasing is not None:
        what = "an adapter" if step.is_adapter else "a model"
        return f"{what} that was taught to forget {step.erasing.passages.number:,} passages"
    if step.healing is not None:
        return f"a model that was healed in {step.healing.steps:,} steps"
    return f"an edit of blocks {', '.join(map(str, step.blocks))} ({step.variant})"


def make_card(repo: str, written: Path | None, source: Publishable) -> str:
    """Makes a new card that keeps what you wrote, in the folder or on the Hub.

    `written`: the one on the Hub. Raises `OutputError` if it is no text: a refresh would lose it.
    """
    card = source.card
    if written is not None:
        fix = "convert it to UTF-8 there, or delete it"
        with guard(OutputError, f"{CARD} is not UTF-8", f"Hub model {repo}", fix):
            published = read_bytes(written, OutputError).decode()
        card = merge_cards(card, published)
    return render_card(source.manifest, name=repo, measured=source.measured, existing=card)


def _check_arrived(now: Published, source: Publishable) -> None:
    """Raises `OutputError` if a file on the Hub is not what was sent."""
    for name, content in source.contents.items():
        if name not in now.files or not now.files[name].holds(source.hashes[name], content):
            what = f"{name} did not arrive as it was sent"
            raise OutputError(what, where=f"Hub model {now.repo}", fix=_AGAIN)


def _make_addition(name: str, source: Publishable) -> CommitOperationAdd:
    """Makes a file of the commit. Raises `OutputError` if its hash is not the verified one."""
    from huggingface_hub import CommitOperationAdd

    content = source.contents[name]
    added = CommitOperationAdd(name, content)
    if added.upload_info.sha256.hex() != source.hashes[name]:
        where = content if isinstance(content, Path) else name
        raise OutputError("has changed since it was verified", where=where, fix=_AGAIN)
    return added


def _commit(
    api: HfApi, there: Published, added: list[CommitOperationAdd], stale: list[str], **choices: Any
) -> Any:
    """Commits what was uploaded on top of the state that was checked."""
    from huggingface_hub import CommitOperationDelete

    removed = [CommitOperationDelete(name, is_folder=False) for name in stale]
    with _show_uploads():
        return api.create_commit(
            there.repo, [*added, *removed], parent_commit=there.commit, **choices
        )


@contextmanager
def _show_uploads() -> Iterator[None]:
    """Shows the client's progress on a terminal, without its warnings on optional metadata."""
    with show_progress(shown=sys.stderr.isatty()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
