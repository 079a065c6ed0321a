"""Every error that attn-surgery raises for something a user can fix: exit code 1.

ValueError and TypeError stay what they are: misuse of the Python API by a programmer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

_LONGEST = 1_000  # characters of a part of the line


class SurgeryError(Exception):
    """Root of the tree. Reads as one line: where, what, expected, got, what to do.

    **Arguments:**

    - `what`: what is wrong, as a clause without a full stop.
    - `where`: the file, tensor, option or row it is about.
    - `expected`, `got`: what was needed and what was found.
    - `fix`: what the user can do, as a clause without a full stop.

    A line names arguments of the Python API, `overwrite=True` or `output`, in backticks; the
    command line shows them as its options.
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

    def __reduce__(self) -> tuple[Any, ...]:  # so that it reaches another process whole
        parts = {"where": self.where and str(self.where), "expected": self.expected}
        return partial(type(self), self.what, **parts, got=self.got, fix=self.fix), ()


def _cut(part: object) -> str:
    """Text of foreign files can be of any length, and a line is read by people."""
    text = str(part)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


class BlockSpecError(SurgeryError):
    """A block specification that is malformed, empty, duplicated or out of range."""


class UnsupportedError(SurgeryError):
    """A model, or a combination of variant, layout and family, that cannot be edited."""


class MarginError(UnsupportedError):
    """The stock layout cannot make attention exactly one-hot for this model."""


class SourceError(SurgeryError):
    """A model that cannot be found, reached or fetched."""


class CheckpointError(SurgeryError):
    """Weights or configuration that are broken, incomplete or inconsistent."""


class ManifestError(SurgeryError):
    """A manifest (surgery.json) that is missing, damaged or of an unknown schema."""


class OutputError(SurgeryError):
    """A result that cannot be written where it was asked for."""


class SamplesError(SurgeryError):
    """Samples, a corpus or calibration text that cannot be used."""


class MeasurementError(SurgeryError):
    """A measurement that cannot be made as asked."""
