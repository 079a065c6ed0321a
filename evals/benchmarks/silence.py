"""Silence for libraries that talk while they work: their errors are raised, and said by us."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

_LOGGERS = ("lm_eval", "datasets", "huggingface_hub", "transformers")


@contextmanager
def silence() -> Iterator[None]:
    """Within it lm-eval and its data sets neither print, log, warn, nor show bars of their own."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))  # progress bars
        for logger in map(logging.getLogger, _LOGGERS):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        evaluator = sys.modules.get("lm_eval.evaluator")
        asks_git = getattr(evaluator, "get_git_commit_hash", None)
        if asks_git is not None:  # of whatever repository the user is in, with an error if of none
            stack.callback(setattr, evaluator, "get_git_commit_hash", asks_git)
            setattr(evaluator, "get_git_commit_hash", lambda: None)  # noqa: B010 - not typed
        yield
