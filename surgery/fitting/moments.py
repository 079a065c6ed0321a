"""Sums over calibration tokens, and least squares from these sums.

n: tokens, d: model width, c: width of the context vectors. x: a block's attention input. z: its
heads' context vectors side by side. Sums are on the vectors' device, or on the CPU if that has no
float64.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from surgery.errors import CheckpointError
from surgery.variants import Fit

RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Ridge penalties to try, as shares of the mean variance of x."""
_ROUNDING = 1e-10
"""Variance, as a share of a second moment, that can be mere rounding of float32."""


def count_bytes(d: int, context: int | None = None) -> int:
    """Returns the bytes of one block's sums: x x' and x z', train and held out, part and total."""
    return 4 * d * (d + (context or d)) * torch.float64.itemsize


class Moments:
    """Float64 sums over tokens, in O(d²) memory.

    `context`: the width of z (default: d). `maps`: also the sums for least squares; otherwise only
    z, for its mean.
    """

    def __init__(
        self, d: int, device: torch.device, *, context: int | None = None, maps: bool = True
    ) -> None:
        c = context or d
        self._device = _choose_device(device)
        self.n = 0
        shapes: dict[str, tuple[int, ...]] = {"z": (c,)}
        if maps:
            shapes |= {"x": (d,), "zz": (c,), "xx": (d, d), "xz": (d, c)}
        self.sums = {
            name: torch.zeros(shape, dtype=torch.float64, device=self._device)
            for name, shape in shapes.items()
        }

    def add(self, x: torch.Tensor, z: torch.Tensor) -> None:
        """Adds tokens: x [n, d] and z [n, c], in any dtype, on any device."""
        z = z.to(self._device).double()
        self.n += len(z)
        self.sums["z"] += z.sum(0)
        if "x" in self.sums:
            x = x.to(self._device).double()
            self.sums["x"] += x.sum(0)
            self.sums["zz"] += z.square().sum(0)
            self.sums["xx"].addmm_(x.T, x)
            self.sums["xz"].addmm_(x.T, z)

    def include(self, other: Moments) -> None:
        """Adds the tokens of other sums."""
        self.n += other.n
        for name, total in self.sums.items():
            total += other.sums[name]

    def mean(self, name: str) -> torch.Tensor:
        """The mean over tokens of z or z² [c], x [d], x x' [d, d], or x z' [d, c]."""
        return self.sums[name] / self.n

    @property
    def varies(self) -> bool:
        """Whether x and z vary beyond rounding."""
        xx, zz = self.sums["xx"].diagonal() / self.n, self.mean("zz")
        x, z = self.mean("x"), self.mean("z")
        return _does_vary(xx - x**2, xx) and _does_vary(zz - z**2, zz)

    def center(
        self, x: torch.Tensor, z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the means of x x' [d, d], x z' [d, c], and z² [c], about `x` and `z`."""
        mean_x, mean_z = self.mean("x"), self.mean("z")
        xx = self.mean("xx") - mean_x.outer(x) - x.outer(mean_x) + x.outer(x)
        xz = self.mean("xz") - mean_x.outer(z) - x.outer(mean_z) + x.outer(z)
        return xx, xz, self.mean("zz") - 2 * mean_z * z + z**2


def fit_moments(
    train: Moments, heldout: Moments, num_heads: int, num_groups: int | None = None
) -> Fit:
    """Returns the mean of z and, with products, its ridge regression on x.

    Chooses the penalty of `RIDGES` that, fitted on `train`, explains most of z on `heldout` (the
    weaker one if equal). R² is that share. The map is then fitted on both. If x or z does not vary
    beyond rounding, the map is the mean and has no R². `num_groups`: key/value heads, if fewer.
    """
    both = copy.deepcopy(train)
    both.include(heldout)
    mean = both.mean("z")
    found = Fit(mean=_split_heads(mean, num_heads))
    sums = (one.sums[name] for one in (train, heldout) for name in train.sums)
    if not (np.isfinite(found.mean).all() and all(total.isfinite().all() for total in sums)):
        raise CheckpointError(
            "the model's attention is not finite on calibration text",
            expected="finite context vectors",
            fix="load the model in float32 or bfloat16; if this remains, the model is broken",
        )
    if "x" not in train.sums:
        return found
    if both.varies and train.varies:
        shape = num_groups or num_heads, num_heads // (num_groups or num_heads)
        ridge, *r2 = _choose_ridge(train, heldout, *shape)
        weight = _solve(*both.center(both.mean("x"), mean)[:2], ridge)
    else:
        ridge, r2, weight = RIDGES[-1], [None, None], torch.zeros_like(both.sums["xz"]).T
    maps = [_split_heads(values, num_heads) for values in (weight, mean - weight @ both.mean("x"))]
    return Fit(found.mean, maps[0], maps[1], ridge, *r2)


def _split_heads(values: torch.Tensor, num_heads: int) -> npt.NDArray[np.float32]:
    """[c, …] -> [num_heads, head_size, …]"""
    array: npt.NDArray[np.float32] = values.float().cpu().numpy()
    return array.reshape(num_heads, -1, *array.shape[1:])


def _does_vary(variance: torch.Tensor, moment: torch.Tensor) -> bool:
    """Whether a variance is larger than rounding of the second moment could make it."""
    return bool(variance.sum() > _ROUNDING * moment.sum())


def _choose_ridge(
    train: Moments, heldout: Moments, num_groups: int, each: int
) -> tuple[float, float | None, float | None]:
    """Returns the best penalty, its R² on held-out tokens, and R² with one map for each group.

    One eigendecomposition X'X = V diag(λ) V' serves all penalties. The map for r is V G V' X'Z,
    where G = diag(g), g = 1 / (λ + r). With R = V' X'Z (train) and A, B the held-out moments of
    x z' and x x' in the basis V, the unexplained part is z² - 2 g'·Σ_j(R∘A) + g'(B∘RR')g. One
    map that `each` heads share takes the means over these heads of R and of the center of z.
    """
    x, z = train.mean("x"), train.mean("z")
    covariance, cross, _ = train.center(x, z)
    values, vectors = torch.linalg.eigh(covariance)
    zz = heldout.center(x, z)[2]
    total = zz.sum().clamp(min=torch.finfo(zz.dtype).tiny)

    def explain(seen: torch.Tensor, z: torch.Tensor, ridges: Sequence[float]) -> list[float]:
        xx, xz, zz = heldout.center(x, z)
        linear = (seen * (vectors.T @ xz)).sum(1)
        quadratic = (vectors.T @ xx @ vectors) * (seen @ seen.T)
        gains = (1 / (values.clamp(min=0) + ridge * values.mean()) for ridge in ridges)
        left = (zz.sum() - 2 * gain @ linear + gain @ quadratic @ gain for gain in gains)
        return [float(1 - one / total) for one in left]

    def share(own: torch.Tensor) -> torch.Tensor:
        split = own.view(*own.shape[:-1], num_groups, each, -1)
        return split.mean(-2, keepdim=True).expand_as(split).flatten(-3)

    seen = vectors.T @ cross
    r2, weakest = max(zip(explain(seen, z, RIDGES), (-r for r in RIDGES), strict=True))
    if not _does_vary(zz, heldout.mean("zz")):
        return -weakest, None, None
    shared = explain(share(seen), share(z), [-weakest]) if each > 1 else [None]
    return -weakest, min(1.0, r2), *shared


def _solve(covariance: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """Returns the weight [c, d] that maps x - mean x to z - mean z."""
    penalty = ridge * covariance.diagonal().mean()
    lower = torch.linalg.cholesky(covariance + penalty * torch.eye(len(cross)).to(covariance))
    return torch.cholesky_solve(cross, lower).T


def _choose_device(device: torch.device) -> torch.device:
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):  # such as Apple's
        return torch.device("cpu")
    return device
