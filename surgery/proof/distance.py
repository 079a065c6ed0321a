"""Measures how far a repeated edit is from the recorded one, where training or fitting made it.

Fitted numbers are compared by tensor, each with its own norm. Trained weights are compared all
together, with what training changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from surgery.checkpoint.adapter import Adapter
from surgery.checkpoint.inventory import make_inventory
from surgery.checkpoint.source import Checkpoint
from surgery.plan import Plan
from surgery.proof.expected import find_constants, find_fitted, replan
from surgery.record.manifest import Manifest

TOLERANCE = 0.01  # a few roundings of bfloat16
"""Largest |repeated - recorded| / |recorded| (Frobenius) of the fitted numbers of a tensor."""
TRAINED_TOLERANCE = 0.05
"""Largest |repeated - recorded| / |recorded - cut| (Frobenius) of all trained weights together."""
_TINY = 1e-30  # where training changed nothing, no difference is allowed


def measure_trained(
    one: Checkpoint, other: Checkpoint, cut: Checkpoint, manifest: Manifest
) -> float | None:
    """Returns |other - one| / |one - cut| (Frobenius) over all trained weights.

    None if a constant of the edit or a buffer is not the cut's, or names, dtypes or shapes differ.
    """
    constants = find_constants(replan(cut, manifest), cut.tensors)
    trained = make_inventory(cut.config, cut.infos).parameters
    if not one.infos == other.infos == cut.infos:
        return None
    apart = changed = 0.0
    for name in cut.tensors:
        a, b, c = (checkpoint.read(name) for checkpoint in (one, other, cut))
        fixed = constants.get(name, np.full(c.shape, name not in trained))
        if not a[fixed].tobytes() == b[fixed].tobytes() == c[fixed].tobytes():
            return None
        if name in trained:
            a, b, c = (array.astype(np.float64) for array in (a, b, c))
            apart += float(np.square(b - a).sum())
            changed += float(np.square(a - c).sum())
    return math.sqrt(apart / max(changed, _TINY))


def measure_adapters(one: Adapter, other: Adapter) -> float | None:
    """Returns |other - one| / |one| (Frobenius) over all that they add to weights.

    None if they stand beside other weights, or have other ranks.
    """
    if len({frozenset(tensor.info for tensor in each.tensors) for each in (one, other)}) > 1:
        return None
    apart = changed = 0.0
    for (_, a), (_, b) in zip(one.read_updates(), other.read_updates(), strict=True):
        apart += float(np.square(b - a).sum())
        changed += float(np.square(a).sum())
    return math.sqrt(apart / max(changed, _TINY))


def measure_fitted(
    one: Checkpoint, other: Checkpoint, plans: Sequence[tuple[Plan, Checkpoint]]
) -> float | None:
    """Returns the largest |other - one| / |one| (Frobenius) of the fitted numbers of a tensor.

    `plans`: of the cuts that made both, oldest first, each with what it cut. None if any other
    number is not byte-equal, if fitted ones are all zero or not finite, or if names, dtypes or
    shapes differ.
    """
    if one.infos != other.infos:
        return None
    changes = {c.name: (plan, c, source) for plan, source in plans for c in plan.changes}
    largest = 0.0
    for name in one.tensors:
        a, b = one.read(name), other.read(name)
        if a.tobytes() == b.tobytes():
            continue
        if name not in changes:
            return None
        plan, change, source = changes[name]
        fitted = find_fitted(plan, change, source.read)
        if a[~fitted].tobytes() != b[~fitted].tobytes():
            return None
        a, b = a[fitted].astype(np.float64), b[fitted].astype(np.float64)
        if not a.any() or not np.isfinite(a).all():
            return None
        largest = max(largest, float(np.linalg.norm(b - a) / np.linalg.norm(a)))
    return largest
