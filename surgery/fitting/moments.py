"""Sums over calibration tokens, and the least squares that follow from them.

n: tokens, d: model width. x is a block's attention input after its layer norm, z its heads' context
vectors side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from surgery.variants import Fit

Matrix = npt.NDArray[np.float64]

RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Penalties that are tried, as shares of the mean variance of x."""
_ROUNDING = 1e-10
"""Share of z's second moment that float64 sums of a float32 pass can show as variance."""


class Moments:
    """Float64 sums of x, z and their products: memory O(d²), however many tokens are added."""

    def __init__(self, d: int, device: torch.device) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.n = 0
        self.x, self.z, self.zz = zeros(d), zeros(d), zeros(d)
        self.xx, self.xz = zeros(d, d), zeros(d, d)

    def add(self, x: torch.Tensor, z: torch.Tensor) -> None:
        """Adds tokens: x and z [n, d], in any dtype."""
        x, z = x.double(), z.double()
        self.n += len(x)
        self.x += x.sum(0)
        self.z += z.sum(0)
        self.zz += z.square().sum(0)
        self.xx += x.T @ x
        self.xz += x.T @ z

    def means(self) -> Means:
        """The sums, divided by n, as numpy arrays."""
        sums = (self.x, self.z, self.zz, self.xx, self.xz)
        return Means(*(total.cpu().numpy() / self.n for total in sums))


@dataclass(frozen=True)
class Means:
    """Means over tokens: of x [d], z [d], z² [d], x x' [d, d] and x z' [d, d]."""

    x: Matrix
    z: Matrix
    zz: Matrix
    xx: Matrix
    xz: Matrix

    def about(self, x: Matrix, z: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Second moments about the points `x` and `z`: of x x' and x z' [d, d], and of z² [d]."""
        xx = self.xx - np.outer(self.x, x) - np.outer(x, self.x) + np.outer(x, x)
        xz = self.xz - np.outer(self.x, z) - np.outer(x, self.z) + np.outer(x, z)
        zz = self.zz - 2 * self.z * z + z**2
        return xx, xz, zz


def fit(train: Moments, heldout: Moments, num_heads: int) -> Fit:
    """Ridge regression of z on x.

    The penalty is the one of `RIDGES` that explains most of z on `heldout` when fitted on `train`
    (the weaker one if equal). R² is that figure; the map itself is then fitted on both. Where z
    does not vary beyond rounding there is nothing to explain: the map is its mean, without an R².
    """
    both = Moments(len(train.x), train.x.device)
    both.n = train.n + heldout.n
    for name in ("x", "z", "zz", "xx", "xz"):
        setattr(both, name, getattr(train, name) + getattr(heldout, name))
    means = both.means()
    covariance, cross, variance = means.about(means.x, means.z)
    if _varies(variance, means):
        r2, ridge = _best(train.means(), heldout.means())
        weight = next(_solve(covariance, cross, (ridge,)))
    else:
        r2, ridge, weight = None, RIDGES[-1], np.zeros_like(cross)
    bias = means.z - weight @ means.x
    d = len(bias)
    return Fit(
        mean=means.z.reshape(num_heads, -1).astype(np.float32),
        weight=weight.reshape(num_heads, -1, d).astype(np.float32),
        bias=bias.reshape(num_heads, -1).astype(np.float32),
        ridge=ridge,
        r2=r2,
    )


def _varies(variance: Matrix, means: Means) -> bool:
    """Whether the second moments of z about a point are more than what rounding leaves of them."""
    return bool(variance.sum() > _ROUNDING * means.zz.sum())


def _best(train: Means, heldout: Means) -> tuple[float | None, float]:
    """(R² on held-out tokens, penalty) of the best penalty."""
    covariance, cross, _ = train.about(train.x, train.z)
    xx, xz, zz = heldout.about(train.x, train.z)
    total = max(float(zz.sum()), np.finfo(np.float64).tiny)
    scores = []
    for ridge, weight in zip(RIDGES, _solve(covariance, cross, RIDGES), strict=True):
        unexplained = zz.sum() - 2 * (weight.T * xz).sum() + (weight @ xx * weight).sum()
        scores.append((float(1 - unexplained / total), -ridge))
    r2, ridge = max(scores)
    return min(r2, 1.0) if _varies(zz, heldout) else None, -ridge


def _solve(covariance: Matrix, cross: Matrix, ridges: tuple[float, ...]) -> Iterator[Matrix]:
    """For each penalty the weight [d, d] that maps x - mean x to z - mean z."""
    values, vectors = np.linalg.eigh(covariance)
    scale = max(float(values.mean()), np.finfo(np.float64).tiny)
    rotated = vectors.T @ cross
    for ridge in ridges:
        shrunk = rotated / (np.maximum(values, 0) + ridge * scale)[:, None]
        yield (vectors @ shrunk).T
