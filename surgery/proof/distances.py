"""How far a repeated checkpoint is from the recorded one, where their bytes may differ."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from surgery.checkpoint.inventory import make_inventory
from surgery.checkpoint.source import Checkpoint
from surgery.proof.expected import find_constants, replan
from surgery.record.manifest import Manifest

_TINY = 1e-30  # a norm of zero allows no difference


def measure_healed(
    one: Checkpoint, other: Checkpoint, cut: Checkpoint, manifest: Manifest
) -> float | None:
    """Returns |other - one| / |one - cut| (Frobenius) over all trained weights.

    None if a constant of the edit or a buffer is not the cut's, or names, dtypes or shapes differ.
    """
    plans = replan(cut, manifest)
    constants = find_constants(plans, cut.tensors)
    trained = set(make_inventory(cut.config, cut.infos).parameters)
    apart = changed = 0.0
    for checkpoint in (one, other):
        if checkpoint.infos != cut.infos:
            return None
        for name in cut.tensors:
            before, after = (c.read(name) for c in (cut, checkpoint))
            fixed = constants.get(name, np.full(before.shape, name not in trained))
            if before[fixed].tobytes() != after[fixed].tobytes():
                return None
    for name in trained:
        a, b, c = (checkpoint.read(name).astype(np.float64) for checkpoint in (one, other, cut))
        apart += float(np.square(b - a).sum())
        changed += float(np.square(a - c).sum())
    return math.sqrt(apart / max(changed, _TINY))


def measure_fitted(one: Checkpoint, other: Checkpoint, changed: Collection[str]) -> float | None:
    """Returns the largest |other - one| / |one| (Frobenius) of a tensor in `changed`.

    None if any other tensor is not byte-equal, or names, dtypes or shapes differ.
    """
    if one.infos != other.infos:
        return None
    largest = 0.0
    for name, tensor in one.tensors.items():
        if name not in changed:
            if tensor.read() != other.tensors[name].read():
                return None
            continue
        a, b = (c.read(name).astype(np.float64) for c in (one, other))
        norm, distance = float(np.linalg.norm(a)), float(np.linalg.norm(b - a))
        largest = max(largest, distance / max(norm, _TINY))
    return largest
