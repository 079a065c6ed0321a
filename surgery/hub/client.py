"""The Hub's client without its logs, and with one-line errors; the files of a repository by hash.

Its own errors are long and full of URLs, so they are not repeated, except for what the Hub says
about a card's metadata.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint import MANIFEST, hash_file
from surgery.errors import OutputError, SourceError, SurgeryError
from surgery.record.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT = 10  # seconds to wait for the first answer; the client's default is to wait forever
_SHORT_TIMEOUT = 5  # seconds, to learn whether the Hub answers at all
_AGAIN = ("try again", "push again: files that have arrived are not sent twice")
_LATER = (429, 500)  # too many requests, server error: an earlier download may do
_ANSWERS: dict[int, tuple[str, str | None]] = {
    401: (
        "the Hub does not accept the token",
        "log in again with `hf auth login`, or correct HF_TOKEN",
    ),
    403: ("the Hub does not allow access", "check what the token may do"),
    404: ("not found", "check the name"),
    409: ("the upload conflicts with what is on the Hub, or with another upload", "{again}"),
    412: ("changed during the upload", "{again}"),
    413: (
        "a file or the whole upload is too large for the Hub",
        "export again from a source that is split into smaller files",
    ),
    429: ("too many requests to the Hub", "wait a while and {again}"),
    500: ("the Hub has an internal error", "wait a while and {again}"),
}
_NOT_A_WRITER = (
    "the token may not write there",
    "use one that may write to what {owner} owns, or propose the model with `create_pr=True`",
)


class UnreachableError(SourceError):
    """The Hub gives no definite answer; an earlier download may do."""


@contextmanager
def open_client(name: str, revision: str | None, *, upload: bool = False) -> Iterator[HfApi]:
    """Yields a client for work on the model `name`.

    The client neither logs nor shows progress, unless `show_progress` is used inside. Raises
    `OutputError` for an `upload`, else `SourceError`; `UnreachableError` if an earlier download may
    do: there is no network, the connection breaks, the Hub fails, or there are too many requests.
    """
    from huggingface_hub import HfApi

    try:
        with silence_client():
            yield HfApi()
    except _list_http_errors() as error:
        raise _explain(name, revision, error, upload=upload) from None


def _explain(
    name: str, revision: str | None, error: BaseException, *, upload: bool
) -> SurgeryError:
    """Makes our error for an exception during work on the model `name`."""
    from huggingface_hub import errors

    kind, where = OutputError if upload else SourceError, f"Hub model {name}"
    if not upload:
        where += " (no such folder here)"
    wraps = (errors.LocalEntryNotFoundError, RuntimeError)  # uploads wrap errors about files
    while isinstance(error, wraps) and error.__cause__ is not None:
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HFValidationError):
        return SourceError("no such folder, and not a Hub id (owner/name)", where=name)
    if isinstance(error, errors.RevisionNotFoundError):
        return kind(f"has no revision {revision or 'main'!r}", where=where)
    if isinstance(error, errors.GatedRepoError) and not upload:
        fix = "request access on its page, then `hf auth login`"
        return kind("access is restricted", where=where, fix=fix)
    if isinstance(error, errors.RepositoryNotFoundError) and not upload:
        fix = "check the name, or `hf auth login` if it is private"
        return kind("not found", where=where, fix=fix)
    if status is not None:
        known = min(status, 500)
        what, advice = _ANSWERS.get(known, ("the Hub refuses the request", None))
        if upload and known == 403:
            what, advice = _NOT_A_WRITER
        kind = UnreachableError if known in _LATER and not upload else kind
        owner, again = name.partition("/")[0], _AGAIN[upload]
        do = advice and advice.format(owner=owner, again=again)
        return kind(what, where=where, got=f"HTTP {status}", fix=do)
    return _explain_silence(kind, where, error, upload=upload)


def _explain_silence(
    kind: type[SurgeryError], where: str, error: BaseException, *, upload: bool
) -> SurgeryError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    gone = "" if upload else ", and there is no complete earlier download"
    unreachable = kind if upload else UnreachableError
    if isinstance(error, OfflineModeIsEnabled):
        fix = "unset HF_HUB_OFFLINE" + ("" if upload else ", or give a folder")
        return unreachable(f"offline mode is on{gone}", where=where, fix=fix)
    full = getattr(error, "errno", None) == errno.ENOSPC and not upload
    if isinstance(error, OSError) and (error.filename or full):
        if upload:
            return kind("cannot be read", where=error.filename, got=error.strerror)
        what, fix = "the download cannot be stored", "check HF_HOME and the space left there"
        return kind(what, where=error.filename or where, got=error.strerror, fix=fix)
    metadata = re.match(r"Invalid metadata in README\.md\.\s*(.*)", str(error), re.DOTALL)
    if metadata is not None:
        return kind(
            "the Hub does not accept the metadata of README.md",
            where=where,
            got=metadata[1][:200],
            fix="correct it between the two lines of ---",
        )
    other = f"and {_AGAIN[True]}" if upload else "or give a folder"
    return unreachable(
        f"the connection to the Hub failed{gone}",
        where=where,
        got=type(error).__name__,
        fix=f"check the network and HF_ENDPOINT, {other}",
    )


@contextmanager
def silence_client() -> Iterator[None]:
    """Keeps the client from logging retries and showing progress."""
    from huggingface_hub.utils import logging as client

    verbosity = client.get_verbosity()
    client.set_verbosity(logging.ERROR)
    try:
        with show_progress(shown=False):
            yield
    finally:
        client.set_verbosity(verbosity)


@contextmanager
def show_progress(*, shown: bool) -> Iterator[None]:
    """Turns the client's progress bars on or off, unless the environment decides."""
    from huggingface_hub import constants, utils

    bars: Any = utils
    undecided = constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    change = undecided and bars.are_progress_bars_disabled() == shown
    switches = (bars.disable_progress_bars, bars.enable_progress_bars)
    if change:
        switches[shown]()
    try:
        yield
    finally:
        if change:
            switches[not shown]()


def is_hub_reachable() -> bool:
    """Whether the Hub answers. (The client of `datasets` would retry for half a minute.)"""
    from huggingface_hub import constants, utils

    client: Any = utils
    try:
        client.get_session().head(constants.ENDPOINT, timeout=_SHORT_TIMEOUT)
    except _list_http_errors():
        return False
    return True


def _list_http_errors() -> tuple[type[Exception], ...]:
    """Returns the base classes of the client's errors; ValueError: an answer is not JSON."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)  # uploads wrap theirs


@contextmanager
def go_offline() -> Iterator[None]:
    """Takes data sets only from the local cache."""
    import datasets.config
    from huggingface_hub import constants

    modules: list[Any] = [datasets.config, constants]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


@dataclass(frozen=True)
class HubFile:
    """A file's hash: SHA-256 if it is large, else git's (SHA-1 of a header and the content).

    Both are hexadecimal, and one of them is None.
    """

    sha256: str | None
    git: str | None

    def holds(self, sha256: str, read: Callable[[], bytes]) -> bool:
        """Whether the file has this SHA-256. Compares a small one with what `read` returns, which
        has it."""
        if self.sha256 is not None:
            return self.sha256 == sha256
        data = read()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == self.git


@dataclass(frozen=True)
class Published:
    """A state of a repository: its commit and its files by name."""

    repo: str
    commit: str
    private: bool
    files: Mapping[str, HubFile]

    def fetch(self, api: HfApi, name: str) -> Path:
        """Downloads one of its small files, or finds it in the cache."""
        return Path(api.hf_hub_download(self.repo, name, revision=self.commit))

    def hash(self, api: HfApi, name: str) -> str:
        """The SHA-256 of one of its files. Of a small one the Hub gives none: downloads it."""
        return self.files[name].sha256 or hash_file(self.fetch(api, name))

    def manifest(self, api: HfApi) -> Manifest | None:
        """Reads its manifest; None if it has none."""
        return read_manifest(self.fetch(api, MANIFEST).parent) if MANIFEST in self.files else None


def find_published(api: HfApi, repo: str, revision: str | None = None) -> Published:
    """Reads the state of a repository at a branch, tag, commit or pull request."""
    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
    files = {}
    for file in info.siblings or ():
        sha256, git = (file.lfs.sha256, None) if file.lfs else (None, file.blob_id)
        files[file.rfilename] = HubFile(sha256, git)
    return Published(repo, str(info.sha), bool(info.private), files)
