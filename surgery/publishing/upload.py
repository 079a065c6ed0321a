"""Plans the upload of an exported folder as one commit, and sends it: verified files, a new card,
and the report."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.card.measurements import build_measurements, is_task
from surgery.card.text import (
    Measurements,
    merge_cards,
    read_metadata,
    read_own_card,
    render_card,
)
from surgery.checkpoint import CARD, MANIFEST, list_files, read_header
from surgery.checks import Check, Claim, claim_added
from surgery.errors import OutputError, SurgeryError
from surgery.hub.client import (
    TIMEOUT,
    HubFile,
    Published,
    find_published,
    open_client,
    show_progress,
)
from surgery.privacy import separate_paths
from surgery.record.manifest import REPORTS, Manifest, Step, is_added, parse_manifest
from surgery.record.report import Report
from surgery.record.reports import read_report
from surgery.untrusted import parse_json, read_bytes, reraise_as
from surgery.verification import Verification, read_record, verify

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

_SHOWN = ("base_model", "license", "language", "tags")
"""What is shown of the card's metadata."""
FIX = "push a folder that `attn-surgery export` wrote"


@dataclass(frozen=True)
class Publishable:
    """A verified folder. `files`: what is sent, by name. `card`: README.md as it is, or ""."""

    manifest: Manifest
    files: Mapping[str, CommitOperationAdd]
    card: str
    measured: Measurements | None


@dataclass(frozen=True)
class PlannedPush:
    """What a push does, before anything is sent or created.

    - `manifest`: of the folder. `card`: its new text; None if it may not be published.
    - `exists`: whether the repository does; None if the Hub could not be asked. `there`: its state,
      on which the commit builds.
    - `additions`, `removals`: of the commit. `checks`: their results, in order. `claims`: the files
      beside the model, sent or there, that no check reads.
    """

    manifest: Manifest
    repo: str
    exists: bool | None
    private: bool
    there: Published | None
    card: str | None
    additions: tuple[CommitOperationAdd, ...]
    removals: tuple[CommitOperationDelete, ...]
    checks: tuple[Check, ...]
    claims: tuple[Claim, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def files(self) -> dict[str, int]:
        """What is sent: name → bytes."""
        return dict(
            sorted(
                (addition.path_in_repo, addition.upload_info.size) for addition in self.additions
            )
        )

    @property
    def removed(self) -> list[str]:
        """Files of an earlier push."""
        return [removal.path_in_repo for removal in self.removals]

    def describe_card(self) -> dict[str, Any]:
        """Some of its metadata, and how many results it lists."""
        if self.card is None:
            return {}
        metadata = json.loads(json.dumps(read_metadata(self.card), default=str))  # YAML has dates
        shown = {key: metadata[key] for key in _SHOWN if key in metadata}
        results = [one for model in metadata.get("model-index") or () for one in model["results"]]
        return {**shown, "results": len(results)}

    def to_json(self) -> dict[str, Any]:
        return {
            "dry_run": True,
            "ok": self.ok,
            "repo": self.repo,
            "exists": self.exists,
            "private": self.private,
            "files": self.files,
            "removed": self.removed,
            "card": self.describe_card(),
            "checks": [asdict(check) for check in self.checks],
            "claims": [asdict(claim) for claim in self.claims],
        }


@dataclass(frozen=True)
class Push:
    """What is on the Hub now.

    `pr`: the URL of the pull request, if you asked for one; None if nothing differed. `claims`: as
    of `PlannedPush`.
    """

    repo: str
    url: str
    commit: str
    files: tuple[str, ...]
    private: bool
    pr: str | None
    claims: tuple[Claim, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "files": list(self.files), "claims": [*map(asdict, self.claims)]}


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

    Sends the manifest, its files, a new card, and the report. The Hub keeps large files that have
    arrived: after an interruption, push again. A missing `repo` (OWNER/NAME) is created, private
    unless `public`, and so is a missing branch, `revision`. `create_pr` opens a pull request.
    `evaluation`: the folder of the report, if another one. `allow_undecided`: also publish a report
    that does not decide a limit.

    Raises `ManifestError` if the folder has no manifest, `OutputError` if it does not verify
    or cannot be published.
    """
    planned = plan_push(
        folder,
        repo,
        public=public,
        create_pr=create_pr,
        revision=revision,
        evaluation=evaluation,
        allow_undecided=allow_undecided,
        strict=True,
    )
    title = message or f"Upload {_name_step(planned.manifest.step)}"
    with (
        open_client(repo, revision, upload=True) as api,
        show_progress(shown=sys.stderr.isatty()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # about optional metadata
        if not planned.exists:
            api.create_repo(repo, private=planned.private)
        if revision is not None and not _proposes(create_pr, revision):
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.create_commit(
            repo,
            [*planned.additions, *planned.removals],
            commit_message=title,
            revision=revision,
            create_pr=create_pr,
            parent_commit=planned.there.commit if planned.there else None,
        )
    url, files = f"{api.endpoint}/{repo}", tuple(planned.files)
    return Push(repo, url, done.oid, files, planned.private, done.pr_url, planned.claims)


def plan_push(
    folder: str | Path,
    repo: str,
    *,
    public: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    evaluation: str | Path | None = None,
    allow_undecided: bool = False,
    strict: bool = False,
) -> PlannedPush:
    """Makes all checks of `push`, whose arguments these are, and asks the Hub about `repo`.

    A check that fails hides none of the others that do not depend on it. `strict`: it is raised
    instead. Raises `ManifestError` if the folder has no manifest.
    """
    from huggingface_hub import CommitOperationAdd

    folder, place = Path(folder), Path(evaluation) if evaluation is not None else None
    text = read_record(folder, FIX, folder)
    manifest = parse_manifest(text, folder / MANIFEST)
    checks: list[Check] = []
    exists = source = there = written = card = None
    additions: tuple[CommitOperationAdd, ...] = ()
    removals: tuple[CommitOperationDelete, ...] = ()

    def note(name: str, fine: str) -> AbstractContextManager[None]:
        return _note(checks, Check(name, True, fine), strict=strict)

    with note("destination", "an id, and you are logged in"):
        check_destination(repo)
    if checks[-1].ok:
        fine = "as public or private as you say, or not there yet"
        with note("repository", fine), open_client(repo, revision, upload=True) as api:
            exists = check_repository(api, repo, public=public, create_pr=create_pr)
    verified = verify(folder, papers=False, text=text)  # the card is made anew
    checks += verified.checks
    if verified.ok or strict:
        with note("report", "none, or one that shows every limit kept; no local path"):
            given: Any = {"allow_undecided": allow_undecided, "text": text, "verified": verified}
            source = find_publishable(folder, place, **given)
    if source is not None and exists:
        proposes = _proposes(create_pr, revision)
        fine = "none stands in the way"
        with note("files on the Hub", fine), open_client(repo, revision, upload=True) as api:
            there = _find_branch(api, repo, revision, exactly=proposes)
            removals = find_stale(api, there, source, replaces=proposes)
            written = there.fetch(api, CARD) if CARD in there.files else None
    if source is not None:
        with note("card", "can be written"):
            card = make_card(repo, written, source)
            additions = (CommitOperationAdd(CARD, card.encode()), *source.files.values())
    names = {*(source.files if source else ()), *(there.files if there else ())}
    claims = tuple(claim_added(sorted(names)))
    return PlannedPush(
        manifest, repo, exists, not public, there, card, additions, removals, tuple(checks), claims
    )


def _proposes(create_pr: bool, revision: str | None) -> bool:
    """Whether a push is a pull request, or a part of one."""
    return create_pr or (revision or "").startswith("refs/")


@contextmanager
def _note(checks: list[Check], fine: Check, *, strict: bool) -> Iterator[None]:
    """Adds the result of what runs inside: `fine`, or the error, unless it is `strict`."""
    try:
        yield
    except SurgeryError as error:
        if strict:
            raise
        checks.append(Check(fine.name, False, str(error)))
    else:
        checks.append(fine)


def _find_branch(api: HfApi, repo: str, revision: str | None, *, exactly: bool) -> Published:
    """The state of a branch; unless `exactly`, that of main, from which a push would create it."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return find_published(api, repo, revision)
    except RevisionNotFoundError:
        if exactly:
            raise
        return find_published(api, repo)


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

    `text`: as for `verify`. Raises `ManifestError` if the folder has no manifest, `OutputError` if
    it does not verify or holds a local path, or if its report is of another model, holds what a
    report may not hold, or does not show every limit kept.
    """
    from huggingface_hub import CommitOperationAdd

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
    files = {name: CommitOperationAdd(name, folder / name) for name in manifest.files}
    for name, added in files.items():
        if added.upload_info.sha256.hex() != manifest.files[name].sha256:
            what = "has changed since it was verified"
            raise OutputError(what, where=folder / name, fix="push again")
    written = {MANIFEST: text, **pages}
    files |= {name: CommitOperationAdd(name, content) for name, content in written.items()}
    claimed = filter(is_added, list_files(folder))
    files |= {name: CommitOperationAdd(name, folder / name) for name in claimed}
    for name, added in files.items():
        _check_private(folder / name, added)
    measured = build_measurements(report) if report else None
    return Publishable(manifest, files, read_own_card(folder) or "", measured)


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
    limited = [limit.subject for limit in report.limits if is_task(report.names[limit.name])]
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


def _check_private(path: Path, added: CommitOperationAdd) -> None:
    """Raises `OutputError` for a local path in JSON, or in the metadata of weights."""
    settings: Any = {}
    if path.suffix == ".json":
        with reraise_as(OutputError, "not valid JSON", path), added.as_file() as file:
            settings = parse_json(file.read())
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
    if public and private:
        what = "exists and is private, and `public=True` does not change that"
        fix = "make it public in its settings, or push without `public=True`"
        raise OutputError(what, where=where, fix=fix)
    if not public and not private:
        fix = "push with `public=True` if you want that, or choose another name"
        raise OutputError("exists and is public", where=where, fix=fix)
    return True


def find_stale(
    api: HfApi, there: Published, source: Publishable, *, replaces: bool
) -> tuple[CommitOperationDelete, ...]:
    """Removes files of an earlier push that are not part of this one.

    A file is of that push if it has the SHA-256 that the manifest there records. A small one, for
    which the Hub gives none, is downloaded to see, if it would be replaced or removed. The manifest
    itself goes by its name.

    **Raises:** `OutputError` for files that would be replaced or removed, and that no push put
    there, unless it `replaces` them; and for files that are not part of the model: loaders may take
    them for it, and `verify` refuses them. What people add beside a model (`is_added`), such as a
    signature of its last state, is replaced by yours of that name, and otherwise stays.
    """
    from huggingface_hub import CommitOperationDelete

    earlier, sent, where = there.manifest(api), source.files, f"Hub model {there.repo}"
    files = earlier.files.items() if earlier else ()
    recorded = {name: file.sha256 for name, file in files} | (earlier.reports if earlier else {})
    changed = sorted(
        name
        for name, file in there.files.items()
        if name not in (CARD, MANIFEST) and not (name in sent and _is_there(file, sent[name]))
    )
    theirs = (
        name
        for name in changed
        if (name in sent and name not in recorded and not is_added(name))
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
    stale = [name for name in changed if name in recorded and name not in sent]
    return tuple(CommitOperationDelete(name, is_folder=False) for name in stale)


def _is_there(file: HubFile, added: CommitOperationAdd) -> bool:
    with added.as_file() as content:
        return file.holds(added.upload_info.sha256.hex(), content.read)


def _name_step(step: Step) -> str:
    """What was done last, for the history of a repository."""
    if step.erasing is not None:
        what = "an adapter" if step.is_adapter else "a model"
        return f"{what} with {step.erasing.passages.number:,} passages erased"
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
        with reraise_as(OutputError, f"{CARD} is not UTF-8", f"Hub model {repo}", fix):
            published = read_bytes(written, OutputError).decode()
        card = merge_cards(card, published)
    return render_card(source.manifest, name=repo, measured=source.measured, existing=card)
