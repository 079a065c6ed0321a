"""How far apart the same tensors of two checkpoints are."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from surgery.checkpoint.source import Checkpoint

_TINY = 1e-30  # a norm of zero allows for no difference


def largest_difference(
    one: Checkpoint, other: Checkpoint, changed: Collection[str]
) -> float | None:
    """The largest |other - one| / |one| (Frobenius) of a tensor in `changed`.

    None where any other tensor is not byte-equal, or names, dtypes or shapes differ.
    """
    if one.infos != other.infos:
        return None
    largest = 0.0
    for name, tensor in one.tensors.items():
        if name not in changed:
            if tensor.raw() != other.tensors[name].raw():
                return None
            continue
        a, b = (c.read(name).astype(np.float64) for c in (one, other))
        norm, distance = float(np.linalg.norm(a)), float(np.linalg.norm(b - a))
        largest = max(largest, distance / max(norm, _TINY))
    return largest
