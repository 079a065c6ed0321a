"""Turns errors of the Hub's client during downloads and uploads into one line each.

The client's own text is long and full of URLs, so it is not repeated, except for what the Hub says
about a card's metadata.
"""

from __future__ import annotations

import errno
import re

from surgery.errors import OutputError, SourceError, SurgeryError

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
        "export again with a smaller `max_shard_size`",
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


def explain_refusal(
    name: str, revision: str | None, error: BaseException, *, upload: bool
) -> SurgeryError:
    """Makes our error for an exception during work on the model `name`.

    It is an `OutputError` for an upload, else a `SourceError`; an `UnreachableError` if there is no
    network, the connection breaks, the Hub fails, or there are too many requests.
    """
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
