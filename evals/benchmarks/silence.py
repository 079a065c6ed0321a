"""Silence for libraries that talk while they work: their errors are raised, and said by us."""

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
    """Within it lm-eval and its data sets neither print, log, warn, nor show bars of their own."""
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
    """It takes a second, and lm-eval asks for it after every task."""
    from torch.utils.collect_env import get_env_info, pretty_str

    return str(pretty_str(get_env_info()))  # type: ignore[no-untyped-call]


_INSTEAD: dict[tuple[str, str], Callable[[], str | None]] = {
    # of whatever repository the user is in, with an error if of none
    ("lm_eval.evaluator", "get_git_commit_hash"): lambda: None,
    ("torch.utils.collect_env", "get_pretty_env_info"): _environment,
}
