"""Arrays as JSON values, every bit of them kept."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_json", "from_json"]


def as_json(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, list[str]]:
    """Name -> array [N] becomes name -> its dtype and its bytes in base 64."""
    return {
        name: [values.dtype.str, base64.b64encode(values.tobytes()).decode("ascii")]
        for name, values in columns.items()
    }


def from_json(stored: Mapping[str, list[str]]) -> dict[str, npt.NDArray[Any]]:
    """What `as_json` was given."""
    return {
        name: np.frombuffer(base64.b64decode(data), dtype=np.dtype(kind))
        for name, (kind, data) in stored.items()
    }
