"""Silence for libraries that talk while they work: their errors are raised, and said by us."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any
from unittest.mock import patch

_LOGGERS = ("lm_eval", "datasets", "huggingface_hub", "transformers")
_WITH_BARS = ("lm_eval.api.task", "lm_eval.api.model", "lm_eval.models.huggingface")


@contextmanager
def quiet() -> Iterator[None]:
    """Within it lm-eval and its data sets neither print, log, warn, nor show bars of their own."""
    import datasets

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(io.StringIO()))
        for logger in map(logging.getLogger, _LOGGERS):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        for module in map(sys.modules.get, _WITH_BARS):
            if hasattr(module, "tqdm"):
                stack.enter_context(patch.object(module, "tqdm", _Bare))
        evaluator = sys.modules.get("lm_eval.evaluator")
        if hasattr(evaluator, "get_git_commit_hash"):  # of a repository that is not its own
            stack.enter_context(patch.object(evaluator, "get_git_commit_hash", lambda: None))
        if not datasets.are_progress_bars_disabled() and not sys.stderr.isatty():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        yield


class _Bare:
    """Stands in for a progress bar: passes on the items, and takes no notice of updates."""

    def __init__(self, items: Any = (), **_: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def update(self, *_: Any) -> None: ...

    def close(self) -> None: ...
