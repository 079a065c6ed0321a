"""The Hub's client without its logs, and with one-line errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from surgery.hub.refusals import explain_refusal

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TIMEOUT = 5  # seconds to wait for any answer


@contextmanager
def open_client(name: str, revision: str | None, *, upload: bool = False) -> Iterator[HfApi]:
    """Yields a client for work on the model `name`.

    The client neither logs nor shows progress, unless `show_progress` is used inside. Its errors
    become one line: `surgery.hub.refusals.explain_refusal`.
    """
    from huggingface_hub import HfApi

    errors: tuple[type[Exception], ...] = (
        *_list_http_errors(),
        RuntimeError,
    )  # uploads wrap theirs
    try:
        with silence_client():
            yield HfApi()
    except errors as error:
        raise explain_refusal(name, revision, error, upload=upload) from None


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
        client.get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except _list_http_errors():
        return False
    return True


def _list_http_errors() -> tuple[type[Exception], ...]:
    """Returns the base classes of the HTTP library's errors; ValueError: an answer is not JSON."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, *HfHubHTTPError.__bases__)


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
