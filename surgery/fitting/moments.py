"""Sums over calibration tokens, and the least squares that follow from them.

n: tokens, d: model width, c: width of the context vectors. x is what a block's attention is given,
z its heads' context vectors side by side. Sums lie where the vectors are, or on the CPU where a
device has no float64.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from surgery.errors import CheckpointError
from surgery.variants import Fit

RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Penalties that are tried, as shares of the mean variance of x."""
_ROUNDING = 1e-10
"""Share of a second moment that float64 sums of a float32 pass can show as variance."""


def bytes_of_sums(d: int, context: int | None = None) -> int:
    """What the `Moments` of one block take: x x' and x z', train and held out, part and whole."""
    return 4 * d * (d + (context or d)) * torch.float64.itemsize


class Moments:
    """Float64 sums over tokens: memory O(d²), however many are added.

    `context`: the width of z (default: d). `maps`: also of what least squares need; without, only
    of z, for its mean.
    """

    def __init__(
        self, d: int, device: torch.device, *, context: int | None = None, maps: bool = True
    ) -> None:
        c = context or d
        self._device = _with_float64(device)
        self.n = 0
        self.z = self._zeros(c)
        self.products: _Products | None = None
        if maps:
            zeros = self._zeros
            self.products = _Products(zeros(d), zeros(c), zeros(d, d), zeros(d, c))

    def add(self, x: torch.Tensor, z: torch.Tensor) -> None:
        """Adds tokens: x [n, d] and z [n, c], in any dtype, on any device."""
        z = z.to(self._device).double()
        self.n += len(z)
        self.z += z.sum(0)
        if self.products is not None:
            self.products.add(x.to(self._device).double(), z)

    def include(self, other: Moments) -> None:
        """Adds the tokens of other sums."""
        self.n += other.n
        self.z += other.z
        if self.products is not None and other.products is not None:
            self.products.include(other.products)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self._device)


@dataclass(frozen=True)
class _Products:
    """Of x [d], z² [c], x x' [d, d] and x z' [d, c]: sums over tokens, or means."""

    x: torch.Tensor
    zz: torch.Tensor
    xx: torch.Tensor
    xz: torch.Tensor

    def add(self, x: torch.Tensor, z: torch.Tensor) -> None:
        self.x.add_(x.sum(0))
        self.zz.add_(z.square().sum(0))
        self.xx.addmm_(x.T, x)
        self.xz.addmm_(x.T, z)

    def include(self, other: _Products) -> None:
        for field in fields(self):
            getattr(self, field.name).add_(getattr(other, field.name))


@dataclass(frozen=True)
class _Means:
    """Means over tokens: of z [c], and of the products."""

    z: torch.Tensor
    of: _Products

    @property
    def vary(self) -> bool:
        """Whether x and z vary beyond rounding."""
        xx = self.of.xx.diagonal()
        return _varies(xx - self.of.x**2, xx) and _varies(self.of.zz - self.z**2, self.of.zz)

    def about(
        self, x: torch.Tensor, z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Second moments about `x` and `z`: of x x' [d, d] and x z' [d, c], and of z² [c]."""
        own_x, own_z = self.of.x, self.z
        xx = self.of.xx - own_x.outer(x) - x.outer(own_x) + x.outer(x)
        xz = self.of.xz - own_x.outer(z) - x.outer(own_z) + x.outer(z)
        zz = self.of.zz - 2 * own_z * z + z**2
        return xx, xz, zz


def fit(train: Moments, heldout: Moments, num_heads: int) -> Fit:
    """The mean of z, and where there are products its ridge regression on x.

    The penalty is the one of `RIDGES` that explains most of z on `heldout` when fitted on `train`
    (the weaker one if equal). R² is that figure; the map itself is then fitted on both. Where x or
    z does not vary beyond rounding there is nothing to explain: the map is the mean, without an R².

    Raises `CheckpointError` for sums that are not finite.
    """
    mean = (train.z + heldout.z) / (train.n + heldout.n)
    found = Fit(mean=_by_head(mean, num_heads))
    if train.products is not None and heldout.products is not None:
        both = _means([train, heldout])
        if not (both.of.xx.isfinite().all() and both.of.xz.isfinite().all()):
            raise _not_finite()
        x = both.of.x
        trained_on = _means([train])
        if both.vary and trained_on.vary:
            r2, ridge = _best(trained_on, _means([heldout]))
            weight = _solved(*both.about(x, mean)[:2], ridge)
        else:
            r2, ridge, weight = None, RIDGES[-1], torch.zeros_like(both.of.xz).T
        bias = mean - weight @ x
        found = Fit(found.mean, _by_head(weight, num_heads), _by_head(bias, num_heads), ridge, r2)
    if not np.isfinite(found.mean).all():
        raise _not_finite()
    return found


def _means(sums: list[Moments]) -> _Means:
    n = sum(one.n for one in sums)

    def mean(values: Iterable[torch.Tensor]) -> torch.Tensor:
        return functools.reduce(torch.add, values) / n

    products = _Products(
        *(mean(getattr(one.products, field.name) for one in sums) for field in fields(_Products))
    )
    return _Means(mean(one.z for one in sums), products)


def _by_head(values: torch.Tensor, num_heads: int) -> npt.NDArray[np.float32]:
    """[c, …] -> [num_heads, head_size, …]"""
    array: npt.NDArray[np.float32] = values.float().cpu().numpy()
    return array.reshape(num_heads, -1, *array.shape[1:])


def _varies(variance: torch.Tensor, moment: torch.Tensor) -> bool:
    """Whether second moments about a mean are more than what rounding leaves of those about 0."""
    return bool(variance.sum() > _ROUNDING * moment.sum())


def _best(train: _Means, heldout: _Means) -> tuple[float | None, float]:
    """(R² on held-out tokens, penalty) of the best penalty.

    One eigendecomposition X'X = V diag(λ) V' serves all: the map of penalty r is V G V' X'Z with
    G = diag(g), g = 1 / (λ + r), so that with R = V' X'Z (train) and A, B the held-out moments of
    x z' and x x' seen from V, what it leaves unexplained is z² - 2 g'·Σ_j(R∘A) + g'(B∘RR')g.
    """
    covariance, cross, _ = train.about(train.of.x, train.z)
    xx, xz, zz = heldout.about(train.of.x, train.z)
    values, vectors = torch.linalg.eigh(covariance)
    seen = vectors.T @ cross
    linear = (seen * (vectors.T @ xz)).sum(1)
    quadratic = (vectors.T @ xx @ vectors) * (seen @ seen.T)
    total = zz.sum().clamp(min=torch.finfo(zz.dtype).tiny)
    scores = []
    for ridge in RIDGES:
        gain = 1 / (values.clamp(min=0) + ridge * values.mean())
        unexplained = total - 2 * gain @ linear + gain @ quadratic @ gain
        scores.append((float(1 - unexplained / total), -ridge))
    r2, ridge = max(scores)
    return min(r2, 1.0) if _varies(zz, heldout.of.zz) else None, -ridge


def _solved(covariance: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """The weight [c, d] that maps x - mean x to z - mean z."""
    penalty = ridge * covariance.diagonal().mean()
    lower = torch.linalg.cholesky(covariance + penalty * torch.eye(len(cross)).to(covariance))
    return torch.cholesky_solve(cross, lower).T


def _with_float64(device: torch.device) -> torch.device:
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):  # Apple's, for one
        return torch.device("cpu")
    return device


def _not_finite() -> CheckpointError:
    return CheckpointError(
        "the model's attention is not finite on calibration text",
        expected="finite context vectors",
        fix="load it in float32 or bfloat16; if it stays, the model is broken",
    )
