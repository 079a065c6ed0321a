"""Every error that attn-surgery raises for something you can fix: exit code 1, or 2 for a name
that does not exist.

Every function may raise a `SurgeryError` for a mistake of yours, so docstrings do not say it again.
They name only what is special: what a check refuses, another type of error, or what then stays as
it was.

ValueError and TypeError mean that a programmer misuses the Python API.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

_LONGEST = 1_000  # characters of a part of the line


class SurgeryError(Exception):
    """The base class. Its text is one line: where, what, expected, got, what to do.

    **Arguments:**

    - `what`: what is wrong, as a clause without a full stop.
    - `where`: the file, tensor, option or row.
    - `expected`, `got`: what was needed and what was found.
    - `fix`: what you can do, as a clause without a full stop.

    Messages name arguments of the Python API in backticks (`overwrite=True`, `output`), those of
    another function with its name (`export(gguf=True)`). A command shows them as options.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        line = _cut(what) if where is None else f"{_cut(where)}: {_cut(what)}"
        found = {"expected": expected, "got": got}.items()
        details = [f"{label} {_cut(value)}" for label, value in found if value is not None]
        if details:
            line += f" ({', '.join(details)})"
        if fix is not None:
            line += f"; {_cut(fix)}"
        super().__init__(" ".join(line.split()))

    def __reduce__(self) -> tuple[Any, ...]:  # so that it can be sent to another process
        parts = {"where": self.where and str(self.where), "expected": self.expected}
        return partial(type(self), self.what, **parts, got=self.got, fix=self.fix), ()


def _cut(part: object) -> str:
    """Shortens a part: text from other people's files can have any length."""
    text = str(part)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


class BlockSpecError(SurgeryError):
    """A block specification is malformed, empty, duplicated or out of range."""


class UnsupportedError(SurgeryError):
    """This model, or combination of variant, layout and family, cannot be edited."""


class MarginError(UnsupportedError):
    """The stock layout cannot make attention exactly one-hot for this model."""


class SourceError(SurgeryError):
    """A model cannot be found, reached or downloaded."""


class CheckpointError(SurgeryError):
    """Weights or configuration are broken, incomplete or inconsistent."""


class ManifestError(SurgeryError):
    """A manifest (surgery.json) is missing, damaged or has an unknown schema."""


class OutputError(SurgeryError):
    """A result cannot be written to the given place."""


class SamplesError(SurgeryError):
    """Samples, a corpus or calibration text cannot be used."""


class MeasurementError(SurgeryError):
    """A measurement cannot be made with these settings."""


class NotFiniteError(MeasurementError):
    """A model, or the loss that it is trained on, gives NaN or infinity."""


class UnknownNameError(MeasurementError):
    """No attack, task, or way has this name, or it takes no limit: exit code 2."""


def find_near(name: object, known: Iterable[str], most: int) -> list[str]:
    """The names of `known` that are most like a mistyped one, the closest first."""
    from rapidfuzz import fuzz, process

    found = process.extract(
        str(name)[:60],
        list(known),
        scorer=fuzz.ratio,
        processor=str.casefold,
        limit=most,
        score_cutoff=60,
    )
    return [one for one, *_ in found]


def suggest(name: object, known: Iterable[str]) -> str | None:
    """ "did you mean 'relearn'?", with the closest of the `known` names; None if none is close."""
    return next((f"did you mean {near!r}?" for near in find_near(name, known, 1)), None)
