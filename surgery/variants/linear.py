"""`linear`: the best affine guess of what attention adds, from the token alone.

**Formula:** (M_h, c_h) minimize the mean over calibration tokens of |z_h - M_h x - c_h|² plus a
ridge penalty on M_h, in closed form.

**Limits:** needs calibration text, many more tokens than the model is wide; the more a block
depends on other tokens, the less it explains (R² on held-out text is recorded with the result).

**Source:** ridge regression of z_h on x. Fitting z_h in place of the branch's output loses nothing:
where W_O has full rank, the least squares of W_O z on x are W_O times those of z.
"""

from __future__ import annotations

from surgery.variants.affine import Affine, Kind, Sources

NAME = "linear"
SUMMARY = "the branch becomes its best affine fit from the token alone, on calibration text"
KIND: Kind = "affine"
FITTED = True


def affine(sources: Sources) -> Affine:
    """The least squares of z on x."""
    fit = sources.fitted
    if fit.weight is None:
        raise ValueError("the fit of the block holds its mean alone")
    return Affine(weight=fit.weight, bias=fit.bias)
