"""Imports an attack of your own by its dotted path, `package.module:ATTACK`. This runs its code."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from evals.attacks.attack import Attack, AttackOutcome, Target
from surgery.errors import MeasurementError


def is_path(name: str) -> bool:
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None


def import_attack(path: str) -> Attack:
    """The attack at `path`, which becomes its name. Python looks in the current folder last.

    Raises `MeasurementError` if there is none, or if the code fails.
    """
    module, _, attribute = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _describe_failure(path, error) from error
        raise MeasurementError(
            f"no module {error.name!r}",
            where=path,
            fix="install it, or run the command in the folder that it is in",
        ) from None
    except Exception as error:
        raise _describe_failure(path, error) from error
    if not isinstance(found, Attack):
        got = "no such name" if found is None else type(found).__name__
        expected = f"{attribute} to be an evals.attacks.attack.Attack"
        raise MeasurementError("is not an attack", where=path, expected=expected, got=got)

    def run(target: Target) -> AttackOutcome:
        try:
            outcome = found.run(target)
        except Exception as error:
            raise _describe_failure(path, error) from error
        shape = (len(target.samples),)
        for flags in (getattr(outcome, "recovered", None), getattr(outcome, "tried", None)):
            if not (isinstance(flags, np.ndarray) and (flags.dtype, flags.shape) == (bool, shape)):
                raise MeasurementError(
                    "gives no outcome of every passage",
                    where=path,
                    expected=f"recovered and tried, bool [{len(target.samples)}]",
                )
        return outcome

    return replace(found, name=path, run=run)


def _describe_failure(path: str, error: Exception) -> MeasurementError:
    return MeasurementError(f"its code fails: {type(error).__name__}: {error}", where=path)
