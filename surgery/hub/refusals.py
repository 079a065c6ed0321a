"""What the Hub's client raises while a model is uploaded, in one line each."""

from __future__ import annotations

import re

from surgery.errors import OutputError

_AGAIN = "push again: what has arrived is not sent twice"


def upload_error(name: str, revision: str | None, error: BaseException) -> OutputError:
    """The line for an error. The client's own text is left out: it is long, and holds URLs.

    The exception is what the Hub says of a card's metadata, which nobody else can know.
    """
    from huggingface_hub import errors

    where = f"Hub model {name}"
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # uploads wrap what went wrong with a large file
    if isinstance(error, errors.HFValidationError):
        return OutputError("not a Hub id", where=name, expected="OWNER/NAME")
    if isinstance(error, errors.RevisionNotFoundError):
        return OutputError(f"has no revision {revision or 'main'!r}", where=where)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return _refusal(where, name, status)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OutputError("offline mode is on", where=where, fix="unset HF_HUB_OFFLINE")
    if isinstance(error, OSError) and error.filename:
        return OutputError("cannot be read", where=error.filename, got=error.strerror)
    metadata = re.match(r"Invalid metadata in README\.md\.\s*(.*)", str(error), re.DOTALL)
    if metadata is not None:
        return OutputError(
            "the Hub does not accept the metadata of README.md",
            where=where,
            got=metadata[1][:200],
            fix="correct it between the two lines of ---",
        )
    return OutputError(
        "the connection to the Hub failed",
        where=where,
        got=type(error).__name__,
        fix=f"check the network and HF_ENDPOINT, and {_AGAIN}",
    )


def _refusal(where: str, name: str, status: int) -> OutputError:
    owner = name.partition("/")[0]
    what, fix = {
        401: (
            "the Hub does not accept the token",
            "log in again with `hf auth login`, or correct HF_TOKEN",
        ),
        403: (
            "the token may not write there",
            f"use one that may write to what {owner} owns, or propose the model with "
            "`create_pr=True`",
        ),
        404: ("not found", "check the name"),
        409: ("the Hub sees a conflict with what is there or with another upload", _AGAIN),
        412: ("has changed while this was uploaded", _AGAIN),
        413: (
            "the Hub finds a file or the whole too large",
            "export again with a smaller `max_shard_size`",
        ),
        429: ("too many requests to the Hub", f"wait a while and {_AGAIN}"),
    }.get(status, ("the Hub refuses the upload", None))
    if status >= 500:
        what, fix = "the Hub has a fault of its own", f"wait a while and {_AGAIN}"
    return OutputError(what, where=where, got=f"HTTP {status}", fix=fix)
