"""Silences libraries that print while they work. Their errors still reach you."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import cache

_LOGGERS = ("lm_eval", "datasets", "huggingface_hub", "transformers")


@contextmanager
def silence() -> Iterator[None]:
    """Inside, lm-eval and its data sets neither print, log, warn, nor show progress bars."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))  # progress bars
        for logger in map(logging.getLogger, _LOGGERS):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        for (module, name), ours in _INSTEAD.items():
            theirs = getattr(sys.modules.get(module), name, None)
            if theirs is not None:
                stack.callback(setattr, sys.modules[module], name, theirs)
                setattr(sys.modules[module], name, ours)
        yield


@cache
def _environment() -> str:
    """Computed once: it takes a second, and lm-eval wants it after every task."""
    from torch.utils.collect_env import get_env_info, pretty_str

    return str(pretty_str(get_env_info()))  # type: ignore[no-untyped-call]


_INSTEAD: dict[tuple[str, str], Callable[[], str | None]] = {
    # of any repository you happen to be in, with an error outside of one
    ("lm_eval.evaluator", "get_git_commit_hash"): lambda: None,
    ("torch.utils.collect_env", "get_pretty_env_info"): _environment,
}
