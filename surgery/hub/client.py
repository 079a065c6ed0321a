"""The Hub's client without its chatter, and its errors in one line each."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from surgery.errors import SourceError, SurgeryError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TIMEOUT = 5  # seconds to wait for any answer


class UnreachableError(SourceError):
    """The Hub gives no answer that settles the question; an earlier download may do."""


def download_error(name: str, revision: str | None, error: BaseException) -> SourceError:
    """What the client raised while the model `name` was fetched, in one line.

    The client's own text is never repeated: it is long, and holds URLs.
    """
    from huggingface_hub import errors

    where = f"Hub model {name} (no such folder here)"
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, errors.HFValidationError):
        return SourceError("no such folder, and not a Hub id (owner/name)", where=name)
    if isinstance(error, errors.GatedRepoError):
        fix = "request access on its page, then `hf auth login`"
        return SourceError("access is restricted", where=where, fix=fix)
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(f"has no revision {revision or 'main'!r}", where=where)
    if isinstance(error, errors.RepositoryNotFoundError):
        fix = "check the name, or `hf auth login` if it is private"
        return SourceError("not found", where=where, fix=fix)
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        return SourceError(
            "the download cannot be stored",
            where=error.filename or where,
            got=error.strerror,
            fix="check HF_HOME and the space left there",
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    return _no_answer(where, error) if status is None else _refusal(where, status)


Explain = Callable[[str, str | None, BaseException], SurgeryError]


@contextmanager
def hub_client(
    name: str, revision: str | None, explain: Explain = download_error
) -> Iterator[HfApi]:
    """A client for work on the model `name`, whatever HTTP library it is built on.

    Within it the client neither logs nor shows progress, except where `progress_bars` says so.

    **Raises:** what `explain` makes of whatever the client raises. `download_error` makes
    `SourceError`, and its subclass `UnreachableError` where no network, a broken connection, a
    fault of the Hub or too many requests are the cause.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # the root of the HTTP library's errors, ValueError for an answer that is not JSON, and
    # RuntimeError, in which uploads wrap theirs
    errors: tuple[type[Exception], ...] = (
        *(OSError, ValueError, RuntimeError),
        *HfHubHTTPError.__bases__,
    )
    try:
        with quiet_client():
            yield HfApi()
    except errors as error:
        raise explain(name, revision, error) from None


@contextmanager
def quiet_client() -> Iterator[None]:
    """Within it the client neither logs its retries nor shows progress."""
    from huggingface_hub.utils import logging as client

    verbosity = client.get_verbosity()
    client.set_verbosity(logging.ERROR)
    try:
        with progress_bars(shown=False):
            yield
    finally:
        client.set_verbosity(verbosity)


@contextmanager
def progress_bars(*, shown: bool) -> Iterator[None]:
    """Shows the client's own progress bars, or none, unless the environment has decided that."""
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


def hub_answers() -> bool:
    """Whether anything answers at all: data sets' own client would try for half a minute."""
    from huggingface_hub import constants, utils
    from huggingface_hub.errors import HfHubHTTPError

    # the root of the HTTP library's errors, whichever it is
    errors: tuple[type[Exception], ...] = (OSError, ValueError, *HfHubHTTPError.__bases__)
    client: Any = utils
    try:
        client.get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except errors:
        return False
    return True


@contextmanager
def offline() -> Iterator[None]:
    """Data sets come from this machine alone."""
    import datasets.config
    from huggingface_hub import constants

    settings = [(module, "HF_HUB_OFFLINE") for module in (datasets.config, constants)]
    before = [getattr(module, name) for module, name in settings]
    try:
        for module, name in settings:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(settings, before, strict=True):
            setattr(module, name, value)


def _refusal(where: str, status: int) -> SourceError:
    got = f"HTTP {status}"
    if status == 401:
        fix = "log in again with `hf auth login`, or correct HF_TOKEN"
        return SourceError("the Hub does not accept the token", where=where, got=got, fix=fix)
    if status == 403:
        fix = "check what the token may do"
        return SourceError("the Hub does not allow access", where=where, got=got, fix=fix)
    if status == 429:
        fix = "wait a while and try again"
        return UnreachableError("too many requests to the Hub", where=where, got=got, fix=fix)
    if status >= 500:
        fix = "try again later"
        return UnreachableError("the Hub has a fault of its own", where=where, got=got, fix=fix)
    return SourceError("the Hub refuses the request", where=where, got=got)


def _no_answer(where: str, error: BaseException) -> SourceError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        what, fix = "offline mode is on", "unset HF_HUB_OFFLINE, or give a folder"
        return UnreachableError(
            f"{what}, and there is no complete earlier download", where=where, fix=fix
        )
    return UnreachableError(
        "the connection to the Hub failed, and there is no complete earlier download",
        where=where,
        got=type(error).__name__,
        fix="check the network and HF_ENDPOINT, or give a folder",
    )
